"""Two processes train what one does: through torchrun, on CPU, with gloo."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from training.miniature import assert_same_weights, kill_family, position, rows, start, wait_until

import bcdnet
from bcdnet.data import fashion_mnist
from bcdnet.evaluate import evaluate
from bcdnet.training.loop import AGREE_EVERY

RECORDED = Path(__file__).with_name("recorded.py")
TWO = ["--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
STEPS = 20


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    """Two processes; the meeting point is a free port of this machine."""
    return start(["-m", "torch.distributed.run", *TWO, *arguments])


def record(tmp_path: Path, processes: int, name: str, *settings: str) -> list[dict[str, torch.Tensor]]:
    """What each process of a run saw, by rank."""
    folder = tmp_path / f"record_{name}"
    folder.mkdir()
    arguments = [str(RECORDED), str(folder), "tiny.yaml", f"--set=name={name}", *(f"--set={item}" for item in settings)]
    process = start(arguments) if processes == 1 else torchrun(*arguments)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert len(list(folder.iterdir())) == processes
    return [safetensors.torch.load_file(folder / f"{rank}.safetensors") for rank in range(processes)]


def test_two_processes_see_and_learn_what_one_does(miniature: Path) -> None:
    settings = [
        f"steps=[{{precision: 1/1, iterations: {STEPS}, lr: 1.0e-3}}]",
        "freeze_bn=true",
        "augment=[shift, flip]",
        "log_every=1",
    ]
    (one,) = record(miniature.parent, 1, "one", *settings)
    first, second = record(miniature.parent, 2, "two", *settings)
    for name in ("indices", "mirrored", "pixels"):
        assert one[name].shape == (STEPS, 16)
        assert torch.equal(torch.cat([first[name], second[name]], 1), one[name])
    assert len({tuple(sorted(batch)) for batch in one["indices"].tolist()}) == STEPS
    loss = float(((first["loss"] + second["loss"]) / 2 - one["loss"]).abs().max())
    gradient = max(float((mine["gradients"] - one["gradients"]).abs().max()) for mine in (first, second))
    weights = [bcdnet.load(f"runs/{name}/step1.safetensors").state_dict() for name in ("one", "two")]
    weight = max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0])
    assert one["gradients"].shape[0] == STEPS and float(one["gradients"].abs().max()) > 0.01
    assert torch.equal(first["gradients"], second["gradients"])
    assert loss < 1e-5 and gradient < 1e-5 and weight < 1e-5
    logs = [rows(Path("runs") / name) for name in ("one", "two")]
    for mine, other in zip(*logs, strict=True):
        assert float(mine["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=2e-5)  # six digits
        assert mine["train_top1"] == other["train_top1"] and mine["test_top1"] == other["test_top1"]


def test_a_run_of_two_processes_finishes_and_another_is_killed_and_resumes(miniature: Path) -> None:
    steps = "steps=[{precision: 32/1, iterations: 30, lr: 1.0e-3}, {precision: 1/1, iterations: 60, lr: 1.0e-3}]"
    settings = [f"--set={item}" for item in (steps, "ema=0.9", "accumulate=2", "log_every=15")]
    whole = torchrun("-m", "bcdnet", "train", "tiny.yaml", *settings, "--set=name=whole", "--json")
    out, err = whole.communicate(timeout=400)
    assert whole.returncode == 0, err
    assert [row["iteration"] for row in rows(Path("runs/whole"))] == ["15", "30", "15", "30", "45", "60"]
    kept = bcdnet.load("runs/whole/step2.safetensors")
    measured = evaluate(kept, fashion_mnist.dataset("test"))  # each process measured ten; here one measures all twenty
    assert kept.card["metrics"]["n"] == measured.n == 20
    assert (kept.card["metrics"]["top1"], kept.card["metrics"]["top5"]) == (measured.top1, measured.top5)
    assert json.loads(out)["metrics"] == kept.card["metrics"]  # one document, of the first process

    run = Path("runs/killed")
    settings += ["--set=save_every=0", "--set=name=killed"]
    process = torchrun("-m", "bcdnet", "train", "tiny.yaml", *settings)
    wait_until(process, run, (2, 5), seconds=400)
    assert process.poll() is None
    assert len(kill_family(process)) == 3  # torchrun and its two
    reached = position(run)
    assert (2, 5) <= reached < (2, 60) and not (run / "step2.safetensors").exists()
    time.sleep(0.2)
    assert position(run) == reached  # nobody goes on
    resumed = torchrun("-m", "bcdnet", "train", "tiny.yaml", *settings, "--resume", str(run))
    _, err = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, err
    for step in (1, 2):
        assert_same_weights(Path(f"runs/whole/step{step}.safetensors"), run / f"step{step}.safetensors")
    columns = ("step", "iteration", "lr", "train_loss", "train_top1", "test_top1", "flips", "error")
    logs = [[[row[name] for name in columns] for row in rows(folder)] for folder in (Path("runs/whole"), run)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(("number", "whom"), [(signal.SIGTERM, "launcher"), (signal.SIGINT, "group")])
def test_two_processes_that_are_stopped_save_what_they_reached(
    miniature: Path, number: signal.Signals, whom: str
) -> None:
    steps = "steps=[{precision: 1/1, iterations: 2000, lr: 1.0e-3}]"
    process = torchrun("-m", "bcdnet", "train", "tiny.yaml", f"--set={steps}", "--set=save_every=1000")
    run = Path("runs/tiny")
    end = time.monotonic() + 200
    while not (run / "log.csv").exists():  # three iterations are done, and nothing is saved
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    assert position(run) == (0, 0)
    (os.killpg if whom == "group" else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=100)
    assert err.count("bcdnet: stopped; go on with --resume runs/tiny.") == 2, err
    step, iteration = position(run)
    assert step == 1 and 3 <= iteration < 2000 and iteration % AGREE_EVERY == 0
