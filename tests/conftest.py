"""What several test files share: a folder of tiny checkpoints with random weights, and no network."""

import importlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import TINY

import bcdnet
from bcdnet.data import FASHION_MNIST
from bcdnet.data.fashion_mnist import CLASSES


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Connections of Python beyond this machine fail, here and in programs that tests start: none can come to need one.

    See ``offline/sitecustomize.py``.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", socket.socket.connect)  # put back in the end
    importlib.import_module("offline.sitecustomize")
    offline = str(Path(__file__).parent / "offline")
    patch.setenv("PYTHONPATH", offline, prepend=os.pathsep)
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield
    patch.undo()


def write_checkpoint(folder: Path, name: str, variant: str, **changes: Any) -> None:
    torch.manual_seed(len(name))
    model = bcdnet.create_model(variant, **{**TINY, **changes})
    card = {
        "title": f"Tiny {name}",
        "classes": list(CLASSES),
        "preprocess": FASHION_MNIST.to_dict(),
        "dataset": "fashion-mnist",
        "metrics": {"top1": 10.0 + len(name) / 10, "top5": 50.0, "n": 10000, "ci95": [9.4, 12.1]},
    }
    bcdnet.save(model, folder / f"{name}.safetensors", card)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tiny untrained networks: a real-valued one, one without MLPs, BCDNet-A and BCDNet-B."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder, "a_bcdnet", "bcdnet_a", mlp_groups=2)
    write_checkpoint(folder, "b_bcdnet", "bcdnet_b", mlp_groups=2)
    write_checkpoint(folder, "reactnet", "reactnet_a")
    write_checkpoint(folder, "twin", "bcdnet_a", mlp_groups=2, precision="32/32")
    return folder
