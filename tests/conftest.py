"""What several test files share: a folder of tiny checkpoints with random weights, and no network."""

import ipaddress
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
    """Connections beyond this machine fail, so that no test can come to depend on one."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        far = self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "localhost"
        if far and not ipaddress.ip_address(address[0]).is_loopback:
            raise OSError(f"the tests have no network, so none of them may connect to {address[0]}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    patch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
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
