"""What a run tells while it trains: rows of a log, TensorBoard, a bar for people and a file for the dashboard."""

import csv
import datetime
import json
import os
import platform
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from bcdnet.binarize import weight_scale
from bcdnet.files import LOG, PROGRESS
from bcdnet.model import Network
from bcdnet.training.state import NotSaved, write_or_stop

FIELDS = (
    *("step", "precision", "epoch", "iteration", "lr", "train_loss", "train_top1", "test_top1", "seconds"),
    *("flips", "error"),
)


def binary_weights(network: Network) -> dict[str, tuple[str, Tensor]]:
    """Latent weights that are, or in step 2 will be, of one bit: by name their kind and values.

    Kinds are "conv3x3", "conv1x1", and the letters P, S, L of a binary MLP's branches.
    """
    names = {module: name for name, module in network.named_modules()}
    return {
        names[layer]: (letter or f"conv{layer.kernel_size}x{layer.kernel_size}", layer.weight.detach())
        for _, letter, layer in network.binary_layers()
    }


def signs_of(network: Network) -> dict[str, Tensor]:
    """Where the latent weights are at least 0, by name, bool."""
    return {name: weight >= 0 for name, (_, weight) in binary_weights(network).items()}


@torch.no_grad()
def weight_statistics(network: Network, before: dict[str, Tensor]) -> dict[str, float]:
    """Over all binary weights and over those of each kind.

    Returns:
        "flips": share whose sign is not what it was in ``before``; "error": mean |W - alpha sign(W)| (paper, Eq. 23);
        "flips_KIND" and "error_KIND" the same for one kind.
    """
    sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(3, dtype=torch.float64))
    for name, (kind, weight) in binary_weights(network).items():
        flipped = (weight >= 0) != before[name]
        error = (weight.abs() - weight_scale(weight)).abs()  # |W - alpha sign(W)| = ||W| - alpha|
        numbers = torch.stack([flipped.sum().double(), error.sum(dtype=torch.float64)]).cpu()
        sums[kind] += torch.cat([numbers, torch.tensor([weight.numel()], dtype=torch.float64)])
    total = torch.stack(list(sums.values())).sum(0) if sums else torch.zeros(3, dtype=torch.float64)
    rows = {"": total, **{f"_{kind}": sums[kind] for kind in sorted(sums)}}
    statistics: dict[str, float] = {}
    for suffix, (flips, error, n) in rows.items():
        statistics |= {f"flips{suffix}": float(flips / n), f"error{suffix}": float(error / n)} if n else {}
    return statistics


class _Console(Console):
    """Falls silent when nobody listens any more; what trains goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Monitor:
    """Writes for one step of a run; every process but the first has a silent one.

    Args:
        folder: of the run.
        number, steps: which step of how many.
        precision: of the step.
        total: iterations.
        speaks: False for all processes but the first.
    """

    def __init__(self, folder: Path, number: int, steps: int, precision: str, total: int, speaks: bool) -> None:
        self.folder, self.number, self.steps, self.precision = folder, number, steps, precision
        self.total, self.speaks = total, speaks
        self.console = _Console(file=sys.stderr)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        more = (TimeRemainingColumn(), TextColumn("{task.fields[loss]}"))
        disable = not speaks or not self.console.is_terminal
        self.bar = Progress(*columns, *more, console=self.console, disable=disable)
        self.task = self.bar.add_task(f"step {number}/{steps}, {precision}", total=total, loss="")
        self.board = TensorBoardLogger(folder, name="", version="tensorboard") if speaks else None
        self.started, self.first, self.reached, self.written = time.monotonic(), 0, 0, 0.0

    def __enter__(self) -> "Monitor":
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.stop()
        if kind is not None:
            with suppress(NotSaved):  # what stopped the run may be a full disk
                self._tell(self.reached, stopped=True)
        if self.board is not None:
            self.board.finalize("success")

    def begin(self, iteration: int) -> None:
        """The step starts, or goes on, at this iteration."""
        self.started, self.first, self.reached = time.monotonic(), iteration, iteration
        self.bar.update(self.task, completed=iteration)
        self._tell(iteration)

    def advance(self, iteration: int, loss: float | None) -> None:
        """So many iterations are done."""
        self.reached = iteration
        if self.speaks:
            self.bar.update(self.task, completed=iteration, loss="" if loss is None else f"loss {loss:.4f}")
            if time.monotonic() - self.written > 2:
                self._tell(iteration)

    def say(self, what: str) -> None:
        """Tell people one thing about this step."""
        if self.speaks:
            self.console.print(f"step {self.number}/{self.steps}: {what}", highlight=False, soft_wrap=True)

    def row(self, values: dict[str, Any]) -> None:
        """Add a row to the log in place of those of later iterations, which a resumed run repeats."""
        if not self.speaks:
            return
        path = self.folder / LOG
        rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if _place(row) < (self.number, int(values["iteration"]))]
        numbers = {key: value for key, value in values.items() if isinstance(value, float)}
        text = {key: f"{value:.6g}" if key in numbers else str(value) for key, value in values.items()}
        rows.append({"step": str(self.number), "precision": self.precision, **text})
        names = [*FIELDS, *sorted({key for row in rows for key in row} - set(FIELDS))]
        lines = [names, *([row.get(name, "") for name in names] for row in rows)]
        write_or_stop(path, "".join(",".join(line) + "\n" for line in lines).encode())
        if self.board is not None:
            tagged = {f"step{self.number}/{key}": value for key, value in numbers.items()}
            self.board.log_metrics(tagged, int(values["iteration"]))
            self.board.save()
        self._tell(int(values["iteration"]))
        self.console.print(
            f"step {self.number}/{self.steps}, iteration {values['iteration']:,} of {self.total:,}: loss "
            f"{values['train_loss']:.4f}, top-1 {values['train_top1']:.2f} % in training and "
            f"{values['test_top1']:.2f} % on the test set",
            highlight=False,
            soft_wrap=True,
        )

    def _tell(self, iteration: int, stopped: bool = False) -> None:
        if not self.speaks:
            return
        self.written = time.monotonic()
        done = iteration - self.first
        left = (self.total - iteration) * (self.written - self.started) / done if done else None
        document = {
            "step": self.number,
            "steps": self.steps,
            "iteration": iteration,
            "iterations": self.total,
            "updated": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "eta_s": None if left is None else round(left),
            "stopped": stopped,
            "process": os.getpid(),
            "host": platform.node(),
        }
        write_or_stop(self.folder / PROGRESS, json.dumps(document).encode())


def _place(row: dict[str, str]) -> tuple[int, int]:
    return int(row["step"]), int(row["iteration"])
