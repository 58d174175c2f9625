"""A data set and a network so small that whole runs take a second, and programs that train on them."""

import csv
import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import bcdnet

RECIPE = """
description: a test
data: fashion-mnist
batch_size: 16
compile: false
model: {variant: bcdnet_a, image_size: 28, in_channels: 1, num_classes: 10, width: 0.015625, stem_channels: 512,
        channels: [512, 1024], blocks: [1, 2], strides: [1, 2], mlp_groups: 1, heads: 2}
steps:
  - {precision: 32/1, epochs: 2, lr: 1.0e-3, warmup: 0.2, weight_decay: 0.01}
  - {precision: 1/1, epochs: 2, lr: 1.0e-3}
"""
TRAINING, TEST = 48, 20


def write_data(folder: Path) -> None:
    """Noise in the layout of Fashion-MNIST, with labels 0 to 9 in turn."""
    random = np.random.default_rng(0)
    for prefix, n in (("train", TRAINING), ("t10k", TEST)):
        _write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", random.integers(0, 256, (n, 28, 28)))
        _write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(n) % 10)


def write_pictures(folder: Path, train: int, test: int = 4) -> None:
    """A folder of train/ and test/ with three classes of so many pictures each."""
    random = np.random.default_rng(0)
    for split, n in (("train", train), ("test", test)):
        for name in ("bright", "dark", "striped"):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(n):
                Image.fromarray(random.integers(0, 256, (31, 40), np.uint8)).save(place / f"{index}.png")


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def rows(run: Path) -> list[dict[str, str]]:
    """The log of a run."""
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def untimed(run: Path) -> list[dict[str, str]]:
    """The log of a run without the times, which differ from run to run."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(run)]


def assert_same_weights(one: Path, other: Path) -> None:
    """Two checkpoints agree in every bit of every tensor."""
    first, second = bcdnet.load(one).state_dict(), bcdnet.load(other).state_dict()
    assert first.keys() == second.keys()
    differing = [key for key in first if not torch.equal(first[key], second[key])]
    assert not differing


def position(run: Path) -> tuple[int, int]:
    """How far a run's files say that it is: (step, iteration) of the last saved state, (0, 0) without any."""
    for path in sorted(run.glob("step*.ckpt"), reverse=True):
        try:
            # One open file stays what it is, though another may take its name meanwhile.
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        except FileNotFoundError:  # the step ended between the two lines above
            continue
        return int(path.stem[-1]), json.loads(header["__metadata__"]["state"])["iteration"]
    return len(list(run.glob("step*.safetensors"))), 0


def wait_until(process: subprocess.Popen[str], run: Path, target: tuple[int, int], seconds: float = 120) -> None:
    """Return as soon as the run has reached a place; fail if its program ends before or takes too long."""
    end = time.monotonic() + seconds
    while position(run) < target:
        assert process.poll() is None, f"ended at {position(run)} before {target}: {process.communicate()}"
        assert time.monotonic() < end, f"only at {position(run)} after {seconds} s"
        time.sleep(0.002)


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """A Python program on one core, in the working directory, in a session of its own."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *arguments], env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def start_training(*arguments: str) -> subprocess.Popen[str]:
    """``bcdnet train``."""
    return start(["-m", "bcdnet", "train", *arguments])


def family(process: int) -> list[int]:
    """A process and all that it started, directly or not."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [process, *(member for child in children for member in family(int(child)))]


def kill_family(process: subprocess.Popen[str]) -> list[int]:
    """SIGKILL for a program and all that it started; returns whom it hit."""
    members = family(process.pid)
    for member in members:
        os.kill(member, signal.SIGSTOP)  # nobody starts anybody, or ends, meanwhile
    for member in members:
        os.kill(member, signal.SIGKILL)
    process.communicate()
    return members


def complaint(process: subprocess.Popen[str], status: int, seconds: float = 120) -> str:
    """The one sentence with which a program ended; fails if there is more, or another status."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == status, (process.returncode, out, err)
    lines = [line for line in err.splitlines() if line.startswith("bcdnet: ")]
    assert len(lines) == 1 and "Traceback" not in err, err
    return lines[0].removeprefix("bcdnet: ")


def load_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text())
