"""The zoo, on two small recipes: what is trained, kept and shipped, and in which order."""

import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training.miniature import RECIPE, load_json, rows, start

import bcdnet
from bcdnet.training import zoo
from bcdnet.training.zoo import Entry, Job

ENTRIES = (Entry("tiny_twin", "small"), Entry("tiny_a", "small", 2))
#: The program, on other recipes.
PROGRAM = """
import sys
import typer
from pathlib import Path
from bcdnet.training import zoo
zoo.RECIPES, zoo.SHOWN = Path("recipes"), ("tiny_a", "tiny_twin")
zoo.ZOO = (zoo.Entry("tiny_twin", "small"), zoo.Entry("tiny_a", "small", 2))
typer.run(zoo.main)
"""
STEPS = """
  - {id: %s, title: %s, precision: %s, iterations: %d, lr: 1.0e-3}
"""


@pytest.fixture
def assets(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty, beside two recipes: a twin that takes seconds, and one that it teaches."""
    head = RECIPE.partition("steps:")[0]
    (recipes := miniature.parent / "recipes").mkdir()
    twin = head.replace("heads: 2", "heads: 1") + "save_every: 1000\nsteps:" + STEPS % ("tiny_twin", "T", "32/32", 500)
    (recipes / "tiny_twin.yaml").write_text(twin)
    (recipes / "tiny_a.yaml").write_text(head + "teacher: tiny_twin\nsteps:" + STEPS % ("tiny_a", "A", "1/1", 6))
    folder = miniature.parent / "assets"
    monkeypatch.setenv("BCDNET_ASSETS", str(folder))
    monkeypatch.setattr(zoo, "RECIPES", recipes)
    monkeypatch.setattr(zoo, "ZOO", ENTRIES)
    return folder


def finished(*arguments: str) -> str:
    """What the program said on its way to a good end."""
    process = start(["-c", PROGRAM, *arguments])
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


def test_the_zoo_is_trained_stopped_and_shipped(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("runs/tiny_twin")
    process: subprocess.Popen[str] = start(["-c", PROGRAM])
    end = time.monotonic() + 120
    while not (run / "progress.json").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    trainer = int((run / ".lock").read_text())
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "started tiny_twin" in err and "tiny_a" not in err
    with pytest.raises(ProcessLookupError):  # it did not leave its run behind, which saved what it had reached
        os.kill(trainer, 0)
    assert "stopped; go on with --resume runs/tiny_twin." in run.with_suffix(".out").read_text()
    assert (run / "step1.ckpt").exists() and not assets.exists()

    said = finished()
    assert said.index("tiny_twin is done") < said.index("started tiny_a ")
    assert said.count("small is published") >= 1 and "failed" not in said
    shipped = sorted(path.name for path in (assets / "checkpoints").iterdir())
    assert shipped == [f"tiny_{name}.{kind}" for name in ("a", "twin") for kind in ("csv", "json", "safetensors")]
    manifest = load_json(assets / "manifest.json")["models"]
    assert [(model["id"], model["title"], model["log"]) for model in manifest] == [
        ("tiny_a", "A", "checkpoints/tiny_a.csv"),
        ("tiny_twin", "T", "checkpoints/tiny_twin.csv"),
    ]
    for model in manifest:
        assert hashlib.sha256((assets / model["file"]).read_bytes()).hexdigest() == model["sha256"]
        card = load_json(assets / "checkpoints" / f"{model['id']}.json")
        assert card == bcdnet.load(assets / model["file"]).card and card["seed"] == 0
    first, second = (load_json(assets / "runs" / name / "step1.json") for name in ("tiny_a", "tiny_a-seed1"))
    assert (first["seed"], second["seed"], second["recipe"]["name"]) == (0, 1, "tiny_a-seed1")
    assert first["inputs"] == second["inputs"] == {"tiny_twin": manifest[1]["sha256"]}
    assert [row["iteration"] for row in rows(assets / "runs" / "tiny_a-seed1")] == ["3", "6"]
    assert not list((assets / "runs").rglob("*.safetensors"))  # nothing starts from a second seed of these

    zoo.main(2, "", True)
    assert capsys.readouterr().err.splitlines() == ["tiny_twin: done", "tiny_a: done", "tiny_a-seed1: done"]
    recipe = zoo.RECIPES / "tiny_a.yaml"
    recipe.write_text(recipe.read_text().replace("1.0e-3", "2.0e-3"))
    zoo.main(2, "seed1", True)
    assert capsys.readouterr().err.splitlines() == ["tiny_a-seed1: to be trained"]
    assert "tiny_a-seed1 is done" in finished("--only", "seed1")
    assert len(list(Path("runs").glob("tiny_a-seed1-*/run.json"))) == 1  # of the older recipe, out of the way
    assert zoo.done(Job(ENTRIES[1], 1)) and not zoo.done(Job(ENTRIES[1], 0))


def test_weights_of_a_further_seed_stay_if_others_start_from_them(assets: Path) -> None:
    twin = Job(Entry("tiny_twin", "small", 2, is_start=True), 1)
    assert (twin.name, twin.needs(), twin.overrides) == ("tiny_twin-seed1", set(), ["seed=1", "name=tiny_twin-seed1"])
    run = Path("runs/kept")
    run.mkdir(parents=True)
    (run / "log.csv").write_text("step\n1\n")
    model = bcdnet.model.Network(twin.recipe().config(twin.recipe().steps[0]))
    bcdnet.save(model, run / "step1.safetensors", {"title": "T"})
    zoo.keep(twin, run)
    assert (assets / "runs" / "tiny_twin-seed1" / "tiny_twin.safetensors").exists()
    assert load_json(assets / "runs" / "tiny_twin-seed1" / "step1.json") == {"title": "T"}
