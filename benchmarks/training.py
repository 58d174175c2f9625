"""A training step of BCDNet-A at 224 pixels: ours, the published formulation, and the network without binarization.

The published formulation takes the sign apart into masks and detached terms (as Bi-Real Net, written out from Eq. 9);
the unbinarized network has plain convolutions and hardtanh where the signs are. All do the same: forward, loss,
backward and AdamW, on a batch of 4. Steps take turns in one process, warm. Memory is the peak of ten steps in a process
of their own, the median of three such processes: it still grows after the first steps, as freed memory leaves gaps.

    python -m benchmarks.training [--quick] [--output FILE]
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcdnet import create_model
from bcdnet.bench import machine, torch_threads
from bcdnet.files import write_atomically
from bcdnet.layers import BinaryConv2d
from bcdnet.model import Network
from bcdnet.training.loop import Learner

RESULT = Path(__file__).parent / "results" / "training.json"
BATCH, SIZE, CLASSES = 4, 224, 1000
MEMORY_STEPS, MEMORY_RUNS = 10, 3
KINDS = ("ours", "ours, compiled", "unbinarized", "unbinarized, compiled", "published")


class PublishedSign(nn.Module):
    """Forward sign(x + b), backward Eq. 9, as sums of masked polynomials and detached terms."""

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> the same."""
        x = x + self.bias[..., None, None]
        below, negative, inside = ((x < bound).type(torch.float32) for bound in (-1, 0, 1))
        first = -1 * below + (x * x + 2 * x) * (1 - below)
        second = first * negative + (-x * x + 2 * x) * (1 - negative)
        third = second * inside + 1 * (1 - inside)
        # The mask in place of torch.sign, which is 0 at 0.
        return (2 * (x >= 0).type(torch.float32) - 1).detach() - third.detach() + third


class Hardtanh(PublishedSign):
    """hardtanh(x + b) in place of the sign."""

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> the same."""
        return F.hardtanh(x + self.bias[..., None, None])


class PublishedConv2d(nn.Module):
    """A binary convolution whose weights are scaled signs by detached terms."""

    def __init__(self, like: BinaryConv2d) -> None:
        super().__init__()
        self.weight, self.stride, self.padding = like.weight, like.stride, like.padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        alpha = self.weight.abs().mean(dim=(1, 2, 3), keepdim=True).detach()
        signs = alpha * (2 * (self.weight >= 0).type(torch.float32) - 1)
        clipped = self.weight.clamp(-1, 1)
        return F.conv2d(x, signs.detach() - clipped.detach() + clipped, stride=self.stride, padding=self.padding)


def network(kind: str) -> Network:
    """BCDNet-A of one kind, all with the same weights."""
    torch.manual_seed(0)
    model = create_model("bcdnet_a", precision="32/32" if kind.startswith("unbinarized") else "1/1")
    for _, unit in model.residual_units():
        if kind.startswith("unbinarized"):
            unit.sign = Hardtanh(unit.sign.bias)
        elif kind == "published":
            unit.sign = PublishedSign(unit.sign.bias)
    if kind == "published":
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, BinaryConv2d):
                    setattr(module, name, PublishedConv2d(child))
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Random images (N, 3, H, W) and labels (N,), the same for all."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    return images, torch.randint(CLASSES, (BATCH,), generator=generator)


@torch.no_grad()
def beginning(kind: str) -> Tensor:
    """What comes out of the first three units in training mode, (N, 64, 56, 56)."""
    model = network(kind).train()
    Learner(model, 0.1, compiled=False)
    first = nn.Sequential(model.stem, *list(model.units)[:3])
    found = (torch.compile(first) if kind.endswith("compiled") else first)(batch()[0])
    assert isinstance(found, Tensor)
    return found


def trainer(kind: str) -> Callable[[], float]:
    """A function that trains one step on the same random batch and returns its loss."""
    model = network(kind).train()
    learner = Learner(model, 0.1, compiled=kind.endswith("compiled"))
    if kind == "published":
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=kind != "published")
    images, labels = batch()

    def step() -> float:
        optimizer.zero_grad()
        loss, _ = learner(images, labels, None)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def peak_memory(kind: str) -> int:
    """Bytes that ten steps need above what the process needed before the network, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--memory", kind]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def _measure_memory(kind: str) -> int:
    def resident(what: str) -> int:
        # Not getrusage: a new process inherits the peak of the one that started it.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

    # The compiler's own code is no part of a step; every kind starts with it loaded.
    torch.compile(torch.sin)(torch.ones(1000, requires_grad=True)).sum().backward()
    before = resident("VmHWM")
    step = trainer(kind)
    for _ in range(MEMORY_STEPS):
        step()
    return resident("VmHWM") - before


def main() -> None:
    """Check that ours and the published formulation compute the same, then time all kinds in turns."""
    parser = argparse.ArgumentParser(description="Time a training step beside other formulations of it.")
    parser.add_argument("--quick", action="store_true", help="five rounds")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file to write")
    parser.add_argument("--memory", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with torch_threads(2):
        if arguments.memory:
            print(_measure_memory(arguments.memory))
            return
        document: dict[str, Any] = {"machine": machine(), "batch": BATCH, "image_size": SIZE, "threads": 2}
        steps = {kind: trainer(kind) for kind in KINDS}
        losses = {kind: step() for kind, step in steps.items()}
        if abs(losses["ours"] - losses["published"]) > 1e-5 * losses["published"]:
            raise SystemExit(f"The formulations disagree in their losses: {losses}.")
        # Compiled code rounds otherwise, so a few bits of a random network flip, and each flips more further on: what
        # compares is its beginning. The network without binarization shows that this tells another network apart.
        beginnings = {kind: beginning(kind) for kind in KINDS}
        differing = {kind: float(((found - beginnings["published"]).abs() > 1e-3).float().mean())
                     for kind, found in beginnings.items()}  # fmt: skip
        for kind, share in differing.items():
            if share < 0.5 if kind.startswith("unbinarized") else share > 0.01:
                raise SystemExit(f"The formulations disagree, or nothing is told apart: {differing}.")
        document["losses"], document["differing_after_three_units"] = losses, differing
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for step in steps.values():
            step()
        for round_ in range(5 if arguments.quick else 15):
            for kind, step in steps.items():
                started = time.perf_counter()
                step()
                times[kind].append(time.perf_counter() - started)
            print(
                f"round {round_ + 1}: " + ", ".join(f"{kind} {t[-1]:.2f}" for kind, t in times.items()), file=sys.stderr
            )
        del steps
    median = {kind: float(np.median(t)) for kind, t in times.items()}
    document["seconds"] = {kind: {"median": median[kind], "all": t} for kind, t in times.items()}
    peaks: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for _ in range(MEMORY_RUNS):
        for kind in KINDS:
            peaks[kind].append(peak_memory(kind))
    memory = {kind: float(np.median(found)) for kind, found in peaks.items()}
    document["memory"] = {kind: {"median": memory[kind], "all": found} for kind, found in peaks.items()}
    document["ratios"] = {
        "published / ours, compiled": median["published"] / median["ours, compiled"],
        "published / ours": median["published"] / median["ours"],
        "unbinarized, compiled / ours, compiled": median["unbinarized, compiled"] / median["ours, compiled"],
        "unbinarized / ours": median["unbinarized"] / median["ours"],
        "memory, ours, compiled / published": memory["ours, compiled"] / memory["published"],
        "memory, ours / published": memory["ours"] / memory["published"],
    }
    write_atomically(arguments.output, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(document["ratios"], indent=1))


if __name__ == "__main__":
    main()
