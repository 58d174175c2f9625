"""The console script: JSON alone on stdout, one sentence on stderr, exit statuses 0, 1 and 2."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bcdnet
from bcdnet import cli
from bcdnet.data import FASHION_MNIST
from bcdnet.published import published_names
from bcdnet.variants import get_config, list_models


class Outcome:
    """Exit status and what went to stdout and stderr."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)

    def complaint(self, status: int = 2) -> str:
        assert self.status == status
        assert self.out == ""
        assert len(self.err.splitlines()) == 1
        assert self.err.startswith("bcdnet: ")
        assert "Traceback" not in self.err
        return self.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def invoke(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Outcome(exit_.value.code, captured.out, captured.err)

    return invoke


@pytest.fixture
def checkpoint(checkpoints: Path) -> Path:
    return checkpoints / "a_bcdnet.safetensors"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two class folders with three pictures, and a text file."""
    chance = np.random.default_rng(0)
    for name in ("Bag/1.png", "Bag/2.png", "Ankle boot/3.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (28, 28), np.uint8)).save(path)
    (tmp_path / "pictures" / "Bag" / "notes.txt").write_text("not a picture")
    return tmp_path / "pictures"


def test_list(run) -> None:
    rows = run("list", "--json").json()
    assert [row["name"] for row in rows] == list_models()
    assert all(set(row) == {"name", "family", "image_size", "params", "binary_params"} for row in rows)
    row = rows[list_models().index("bcdnet_a")]
    assert (row["family"], row["image_size"]) == ("mobile", 224)
    assert (row["params"], row["binary_params"]) == (46_146_384, 43_981_824)
    human = run("list")
    assert human.status == 0
    assert "46,146,384" in human.out


def test_ops(run) -> None:
    document = run("ops", "bcdnet_a", "--json").json()
    assert set(document) == {"bops", "flops", "ops", "layers"}
    assert document["bops"] == 4_816_896_000
    assert document["flops"] == {"full": 32_484_352, "conv_fc": 11_862_016}
    assert document["ops"] == {"full": 107_748_352, "conv_fc": 87_126_016}
    assert sum(layer["bops"] for layer in document["layers"]) == document["bops"]
    assert sum(layer["flops"]["full"] for layer in document["layers"]) == document["flops"]["full"]
    assert {"name", "kind", "output", "params", "binary_params", "bits"} <= set(document["layers"][0])
    smaller = run("ops", "bcdnet_a", "--image-size", 64, "--num-classes", 10, "--json").json()
    assert smaller["bops"] == 4_816_896_000 * 64**2 // 224**2
    assert document["layers"][-2]["macs"] - smaller["layers"][-2]["macs"] == 990 * 1024
    assert "4,816,896,000" in run("ops", "bcdnet_a").out


def test_a_table_in_a_pipe_is_cut_nowhere(run) -> None:
    command = [sys.executable, "-m", "bcdnet", "ops", "bcdnet_a"]
    narrow = os.environ | {"COLUMNS": "40"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=narrow)
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in done.stdout.splitlines()]
    header, *rows = [cells for cells in lines if cells]
    assert header == ["name", "kind", "output", "params", "binary_params", "bops", "macs", "elementwise"]
    layers = run("ops", "bcdnet_a", "--json").json()["layers"]
    numbers = header[3:]
    assert rows == [
        [layer["name"], layer["kind"], "×".join(map(str, layer["output"])), *(f"{layer[n]:,}" for n in numbers)]
        for layer in layers
    ]


def test_predict(run, checkpoint: Path, pictures: Path) -> None:
    images = [pictures / "Bag" / "1.png", pictures / "Ankle boot" / "3.png"]
    document = run("predict", checkpoint, *images, "--topk", 3, "--json").json()
    assert [row["image"] for row in document] == [str(image) for image in images]
    model = bcdnet.load(checkpoint)
    for row, image in zip(document, images, strict=True):
        with Image.open(image) as picture, torch.no_grad():
            logits = model(FASHION_MNIST.tensor(picture.convert("RGB"))[None])[0]
        np.testing.assert_allclose(row["logits"], logits.numpy(), rtol=0, atol=1e-5)
        assert [entry["index"] for entry in row["top"]] == logits.argsort(descending=True)[:3].tolist()
        assert [entry["label"] for entry in row["top"]] == [model.card["classes"][e["index"]] for e in row["top"]]
        assert row["top"][0]["probability"] == pytest.approx(logits.softmax(0).max().item(), abs=1e-6)
    assert len(run("predict", checkpoint, images[0], "--topk", 99, "--json").json()[0]["top"]) == 10
    assert "probability" in run("predict", checkpoint, images[0]).out


def test_evaluate(run, checkpoint: Path, pictures: Path) -> None:
    outcome = run("evaluate", checkpoint, "--data", pictures, "--batch-size", 2, "--json")
    document = outcome.json()
    assert set(document) == {"top1", "top5", "n", "ci95"}
    assert document["n"] == 3
    assert 0 <= document["ci95"][0] <= document["top1"] <= document["ci95"][1] <= 100
    assert "notes.txt" in outcome.err  # what was left out is said, but not on stdout
    assert "3 images" in run("evaluate", checkpoint, "--data", pictures).out


def test_a_packed_network_predicts_and_is_measured_like_its_checkpoint(
    run, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed.safetensors"
    document = run("pack", checkpoint, "-o", out, "--json").json()
    packed = bcdnet.load_engine(out)
    assert document == {
        "bytes": out.stat().st_size,
        "binary_params": sum(p.numel() for n, p in bcdnet.load(checkpoint).named_parameters() if ".op." in n),
        "real_params": packed.real_params,
    }
    assert 8 * document["bytes"] > document["binary_params"]
    image = pictures / "Bag" / "1.png"
    [of_file] = run("predict", out, image, "--threads", 1, "--json").json()
    [on_the_way] = run("predict", checkpoint, image, "--engine", "packed", "--json").json()
    [simulated] = run("predict", checkpoint, image, "--json").json()
    assert of_file == on_the_way
    np.testing.assert_allclose(of_file["logits"], simulated["logits"], rtol=0, atol=1e-4)
    measured = run("evaluate", out, "--data", pictures, "--json")
    assert measured.json() == run("evaluate", checkpoint, "--data", pictures, "--json").json()
    assert "XNOR kernels" in measured.err or "reference" in measured.err
    assert "weights of one bit" in run("pack", checkpoint, "-o", out).out
    before = checkpoint.read_bytes()
    for arguments, words in [
        (("predict", out, image, "--engine", "float"), "only --engine packed runs it"),
        (("predict", checkpoint, image, "--threads", 1), "--threads is for the packed engine"),
        (("pack", checkpoint, "-o", checkpoint), "exists and is no packed network"),
        (("pack", out, "-o", tmp_path / "again.safetensors"), "a packed network, which only the packed engine runs"),
        (("pack", checkpoint, "-o", tmp_path / "none" / "x.safetensors"), "cannot be written"),
        (("predict", checkpoint, image, "--engine", "packed", "--threads", 0), "--threads"),
    ]:
        assert words in run(*arguments).complaint()
    assert checkpoint.read_bytes() == before


def published_file(path: Path, leave_out: str = "") -> Path:
    torch.manual_seed(0)
    config = get_config("bcdnet_a")
    state = {}
    for parts in published_names(config, 2).values():
        for part in parts:
            # Expanded tensors keep the file small at the full size.
            state[f"module.{part.name}"] = torch.rand(1).expand(part.shape) if part.shape else torch.tensor(1)
    state.pop(leave_out, None)
    torch.save({"model": state, "last_iter": 600_000}, path)
    return path


def test_import_then_predict(run, tmp_path: Path, pictures: Path) -> None:
    source, out = published_file(tmp_path / "net.pth.tar"), tmp_path / "out.safetensors"
    document = run("import", source, "--variant", "bcdnet_a", "-o", out, "--json").json()
    assert document["missing"] == document["unexpected"] == []
    assert len(document["loaded"]) == len(bcdnet.load(out).state_dict())
    [row] = run("predict", out, pictures / "Bag" / "1.png", "--json").json()
    assert len(row["logits"]) == 1000
    assert row["top"][0]["label"].startswith("class ")


def test_import_refuses_a_missing_key_and_writes_nothing(run, tmp_path: Path) -> None:
    source = published_file(tmp_path / "net.pth", leave_out="module.feature.5.bn2.bias")
    arguments = ("import", source, "--variant", "bcdnet_a", "-o", tmp_path / "out.safetensors")
    assert "lacks feature.5.bn2.bias" in run(*arguments).complaint()
    outcome = run(*arguments, "--json")
    assert outcome.status == 2
    assert json.loads(outcome.out)["missing"] == ["feature.5.bn2.bias"]
    assert not (tmp_path / "out.safetensors").exists()


def test_train_hands_over_and_keeps_stdout_clean(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def train(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        print("Epoch 1")
        return {"run": "runs/1", "checkpoint": "runs/1/net.safetensors", "metrics": {"top1": 88.0}, "more": 1}

    monkeypatch.setattr("bcdnet.training.run.train", train)
    options = ("--set", "steps.0.epochs=1", "--set", "seed=3", "--resume", "runs/1", "--json")
    outcome = run("train", tmp_path / "recipe.yaml", *options)
    assert outcome.json() == {"run": "runs/1", "checkpoint": "runs/1/net.safetensors", "metrics": {"top1": 88.0}}
    assert "Epoch 1" in outcome.err
    assert calls == [(tmp_path / "recipe.yaml", ["steps.0.epochs=1", "seed=3"], Path("runs/1"))]
    run("train", tmp_path / "recipe.yaml")
    assert calls[1] == (tmp_path / "recipe.yaml", [], None)


def test_bad_usage_and_bad_input(run, checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    picture, text = pictures / "Bag" / "1.png", tmp_path / "text.png"
    shutil.copytree(pictures / "Ankle boot", tmp_path / "hats" / "Hat")
    text.write_text("no picture")
    for arguments, words in [
        ((), "Missing command"),
        (("lits",), "No such command"),
        (("list", "--jsno"), "No such option"),
        (("ops",), "Missing argument 'VARIANT'; see `bcdnet ops --help`"),
        (("ops", "bcdnet_aa"), "did you mean 'bcdnet_a'"),
        (("ops", "bcdnet_a", "--image-size", "225"), "multiples of 32"),
        (("ops", "bcdnet_a", "--image-size", "big"), "--image-size"),
        (("ops", "bcdnet_a", "--num-classes", "0"), "num_classes must be a positive number"),
        (("predict", checkpoint), "Missing argument 'IMAGE...'"),
        (("predict", checkpoint, text), f"{text}: "),
        (("predict", checkpoint, picture, text, "--json"), f"{text}: "),
        (("predict", checkpoint, tmp_path / "no.png"), "no.png"),
        (("predict", checkpoint, picture, "--topk", "0"), "--topk"),
        (("predict", picture, picture), "is not a safetensors file"),
        (("predict", tmp_path, picture), "is a folder"),
        (("evaluate", checkpoint, "--data", pictures, "--engine", "gpu"), "no engine 'gpu'; use --engine float"),
        (("evaluate", checkpoint), "--data"),
        (("evaluate", checkpoint, "--data", "cifar"), "neither a folder nor a known data set"),
        (("evaluate", checkpoint, "--data", tmp_path / "hats"), "the network has no class 'Hat'"),
        (("import", tmp_path / "no.pth", "--variant", "bcdnet_a", "-o", tmp_path / "o"), "there is no file"),
        (("import", checkpoint, "--variant", "bcdnet_a", "-o", tmp_path / "o"), "is no bcdnet_a at 1/1: it lacks"),
        (("import", checkpoint, "--variant", "bcdnet_b", "-o", tmp_path / "o"), "published names are known for"),
        (("import", checkpoint, "--variant", "bcdnet_a", "--precision", "2/2", "-o", "o"), "not '2/2'"),
        (("train", tmp_path / "no.yaml"), "there is no recipe"),
    ]:
        assert words in run(*arguments).complaint(), arguments


def test_an_unexpected_failure_is_status_1(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(cli, "network_cost", broken)
    assert "the run failed with RuntimeError: out of memory" in run("list").complaint(status=1)
    with pytest.raises(RuntimeError, match="memory"):
        cli.main(["--debug", "list"])


def test_as_a_process(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    def bcdnet_process(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bcdnet", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=os.environ)

    good = bcdnet_process("evaluate", checkpoint, "--data", pictures, "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["n"] == 3
    bad = bcdnet_process("predict", tmp_path / "no.safetensors", "no.png")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == f"bcdnet: there is no file {tmp_path / 'no.safetensors'}.\n"


@pytest.mark.skipif(shutil.which("bcdnet", path=str(Path(sys.executable).parent)) is None, reason="not installed")
def test_the_console_script_is_the_same_program() -> None:
    script = Path(sys.executable).parent / "bcdnet"
    done = subprocess.run([script, "list", "--json"], capture_output=True, text=True, timeout=300)
    assert [row["name"] for row in json.loads(done.stdout)] == list_models()
