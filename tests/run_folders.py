"""Folders of training runs as training leaves them, with logs of a few rows."""

import json
from pathlib import Path

OLD = """step,precision,epoch,lr,train_loss,train_top1,test_top1,seconds
1,32/1,1,1.0e-03,1.5,60.0,70.0,10.0
1,32/1,2,5.0e-04,1.0,70.0,80.0,11.0
2,1/1,1,1.0e-03,1.2,65.0,75.0,12.0
2,1/1,2,5.0e-04,0.9,72.0,79.0,13.0
2,1/1,3,0.0e+00,,,78.0,14.0
"""
NEW = """\
step,precision,epoch,iteration,lr,train_loss,train_top1,test_top1,seconds,flips,error,flips_P,error_P,error_conv3x3
1,32/1,1,100,1e-3,1.5,60,,5,,0.020,,0.010,0.030
1,32/1,1,200,1e-3,1.2,62,70,5,0.125,0.018,0.25,0.009,0.028
2,1/1,1,100,1e-3,1.1,64,72,5,0.0625,0.016,0.125,0.008,0.026
"""
RECIPE = {"recipe": {"name": "x", "steps": [{"precision": "32/1"}, {"precision": "1/1"}]}, "inputs": {}, "commit": "c"}


def report(**changes: object) -> dict:
    """What ``progress.json`` holds."""
    known = {"step": 2, "steps": 2, "iteration": 100, "iterations": 400, "updated": "2030-05-01T11:59:48Z", "eta_s": 60}
    return {**known, **changes}


def write_run(
    folder: Path, log: str | None = NEW, progress: object = None, record: object = RECIPE, steps: int = 0
) -> Path:
    """A run's folder; with None a file is left out, and ``steps`` have left their results."""
    folder.mkdir(parents=True)
    if log is not None:
        (folder / "log.csv").write_text(log)
    if progress is not None:
        (folder / "progress.json").write_text(json.dumps(progress))
    if record is not None:
        (folder / "run.json").write_text(json.dumps(record))
    for number in range(1, steps + 1):
        (folder / f"step{number}.safetensors").touch()
    return folder
