"""The training loop of one step, on Lightning Fabric: one process or many, to be left and taken up at any moment."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bcdnet import kernels
from bcdnet.evaluate import Tally, evaluating
from bcdnet.layers import BinaryConv2d
from bcdnet.model import Network
from bcdnet.training.distillation import distillation_loss
from bcdnet.training.monitor import Monitor, signs_of, weight_statistics
from bcdnet.training.recipe import Recipe, RecipeError
from bcdnet.training.samples import BatchSampler, Samples, test_loader, training_loader
from bcdnet.training.state import State
from bcdnet.training.teacher import Teacher

TEST_BATCH = 250
#: Iterations after which many processes tell each other whether to save or stop.
AGREE_EVERY = 10


class Stopped(RuntimeError):
    """A run that somebody stopped; what it had reached lies in its folder."""


class Diverged(RuntimeError):
    """The loss or the weights are not finite any more; the last state that was is kept."""


class Learner(nn.Module):
    """A network with its loss, as one module, so that wrappers for many processes see the whole forward pass."""

    def __init__(self, network: Network, label_smoothing: float, compiled: bool) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.label_smoothing = label_smoothing
        for module in network.modules():
            if isinstance(module, BinaryConv2d):
                counts = kernels.active() != kernels.REFERENCE and kernels.countable(module.weight)
                module.xnor = module.binary and counts
        # Fusing element-wise passes shortens a step (benchmarks.training); inductor needs a C++ compiler for it.
        self.compiles = compiled and any(shutil.which(name) for name in ("g++", "c++", "clang++"))
        self._logits = torch.compile(network.head_logits) if self.compiles else network.head_logits

    def forward(self, images: Tensor, labels: Tensor, teacher: Tensor | None) -> tuple[Tensor, Tensor]:
        """Loss, and how many of ``fc``'s classes are right."""
        logits, distilled = self._logits(images.to(memory_format=torch.channels_last))
        loss = distillation_loss(logits, distilled, labels, teacher, self.label_smoothing)
        return loss, (logits.detach().argmax(1) == labels).sum()


@dataclass(frozen=True)
class Lessons:
    """What a step learns from: training and test images, and a teacher or its logits (2, N, K) as they are cached."""

    train: Samples
    test: Samples
    teacher: Teacher | Tensor | None


def fit(fabric: Fabric, recipe: Recipe, number: int, network: Network, lessons: Lessons, folder: Path) -> Network:
    """Train one step, or go on with it where its saved state ends.

    Args:
        fabric: launched.
        recipe: of the run.
        number: of the step, from 1.
        network: with the weights the step starts from; it is changed.
        lessons: images and teacher.
        folder: of the run.

    Returns:
        The network in eval mode; with ``ema``, the average.

    Raises:
        Stopped: by Ctrl+C or SIGTERM.
        Diverged: the loss is not finite.
        NotSaved: the disk is full.
        StateError: the saved state belongs to something else.
    """
    step = recipe.steps[number - 1]
    total = step.total(len(lessons.train), recipe.batch_size)
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # statistics of the whole batch
    learner = Learner(network, recipe.label_smoothing, recipe.compile)
    plain = torch.optim.AdamW(network.parameters(), lr=step.lr, weight_decay=step.weight_decay, fused=True)
    model, optimizer = fabric.setup(learner, plain)
    average = _average(network, recipe.ema)
    sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    state = State(network, plain, average, signs_of(network), sums, scaler)
    path = folder / f"step{number}.ckpt"
    if path.exists():
        state.restore(path)
        if not fabric.is_global_zero:
            state.sums.zero_()  # they are those of all processes
    share = (recipe.accumulate, fabric.global_rank, fabric.world_size)
    sampler = BatchSampler(len(lessons.train), recipe.batch_size, recipe.seed, state.iteration, total, *share)
    model.train()
    for module in network.modules():
        if recipe.freeze_bn and isinstance(module, _BatchNorm):
            module.eval()
    every = recipe.log_every or max(1, len(lessons.train) // recipe.batch_size)
    result = network if average is None else average.module
    batches = training_loader(lessons.train, sampler, recipe.workers, fabric.device.type == "cuda")
    monitor = Monitor(folder, number, len(recipe.steps), step.precision, total, fabric.is_global_zero)
    with closing(batches), monitor, _stop_signals(fabric) as stopped:
        monitor.begin(state.iteration)
        if learner.compiles and state.iteration < total:
            monitor.say("the first iteration compiles the step, which takes a while")
        saved = time.monotonic()
        while state.iteration < total:
            began = time.monotonic()
            rate = step.rate(state.iteration, total)
            for group in plain.param_groups:
                group["lr"] = rate
            for part in range(recipe.accumulate):
                batch = next(batches)
                images, labels = fabric.to_device(batch.images), fabric.to_device(batch.labels)
                with _local(fabric, model, part + 1 < recipe.accumulate):
                    loss, hits = model(images, labels, _teach(lessons.teacher, images, batch))
                    fabric.backward(loss / recipe.accumulate)
                state.sums += torch.stack([loss.detach() * len(labels), hits, torch.full_like(hits, len(labels))])
            optimizer.step()
            optimizer.zero_grad()
            if average is not None:
                average.update_parameters(network)
            state.iteration += 1
            state.seconds += time.monotonic() - began
            monitor.advance(state.iteration, loss.item() if fabric.device.type == "cpu" else None)
            if state.iteration % every == 0 or state.iteration == total:
                _require_finite(state, folder)
                monitor.row(_row(fabric, state, result, lessons.test, recipe, rate, every))
                began = time.monotonic()
            due = state.iteration < total and time.monotonic() - saved >= recipe.save_every
            stop, save = bool(stopped), bool(stopped) or due
            if fabric.world_size > 1:
                stop, save = _agreed(fabric, stop, save, state.iteration % AGREE_EVERY == 0 or state.iteration == total)
            if save:
                _require_finite(state, folder)
                _give_sums_to_the_first(fabric, state)
                if fabric.is_global_zero:
                    state.save(path)
                saved = time.monotonic()
            if stop:
                fabric.barrier()  # a launcher that sees one process end may end the one that saves
                raise Stopped(f"stopped; go on with --resume {folder}.")
    fabric.barrier()
    assert isinstance(result, Network)
    return result.eval()


@torch.no_grad()
def accuracy(fabric: Fabric, network: nn.Module, test: Samples, workers: int) -> dict[str, Any]:
    """Accuracy on the whole test set, each process measuring its share of the images.

    Returns:
        :meth:`bcdnet.evaluate.Result.metrics`.
    """
    if fabric.world_size > 1:
        for buffer in network.buffers():  # the first process's running statistics are those that are kept
            torch.distributed.broadcast(buffer, 0)
    share = test_loader(test, TEST_BATCH, workers, False, fabric.global_rank, fabric.world_size)
    classes = len(test.dataset.classes)
    tally = Tally(test.dataset.labels, torch.arange(classes), classes)
    with closing(share), evaluating(network):
        for batch in share:
            logits = network(fabric.to_device(batch.images).to(memory_format=torch.channels_last))
            tally.add(batch.indices.cpu(), logits.cpu())
    tally.seen = _summed(fabric, tally.seen)
    return tally.result().metrics()


def require_shareable(recipe: Recipe, images: int, processes: int) -> None:
    """Raise RecipeError unless the images make a batch and every process gets an equal part of it."""
    if recipe.batch_size > images:
        raise RecipeError(f"batch_size {recipe.batch_size} is more than the {images} training images; make it smaller.")
    if recipe.batch_size % (recipe.accumulate * processes):
        raise RecipeError(
            f"batch_size {recipe.batch_size} cannot be shared out among {processes} processes of "
            f"{recipe.accumulate} part(s) each; make it a multiple of {recipe.accumulate * processes}."
        )


def _average(network: Network, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _teach(teacher: Teacher | Tensor | None, images: Tensor, batch: Any) -> Tensor | None:
    if isinstance(teacher, Tensor):
        return teacher[batch.mirrored.long(), batch.indices].to(images.device)
    return None if teacher is None else teacher(images).float()


def _local(fabric: Fabric, model: Any, enabled: bool) -> AbstractContextManager[None]:
    """While parts of a batch accumulate, processes exchange nothing."""
    return fabric.no_backward_sync(model) if enabled and fabric.world_size > 1 else nullcontext()


def _summed(fabric: Fabric, values: Tensor) -> Tensor:
    if fabric.world_size == 1:
        return values
    summed = fabric.all_reduce(values.to(fabric.device), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return summed.cpu()


def _agreed(fabric: Fabric, stop: bool, save: bool, now: bool) -> tuple[bool, bool]:
    """Whether any process wants to stop or to save; neither unless all ask each other ``now``, at one iteration."""
    if not now:
        return False, False
    stops, saves = _summed(fabric, torch.tensor([int(stop), int(save)])).tolist()
    return stops > 0, saves > 0


def _give_sums_to_the_first(fabric: Fabric, state: State) -> None:
    """The first process, whose state is saved, holds the sums of all, and the others none; the row adds them up."""
    total = _summed(fabric, state.sums.clone())
    state.sums.copy_(total if fabric.is_global_zero else torch.zeros_like(total))


def _row(
    fabric: Fabric, state: State, result: nn.Module, test: Samples, recipe: Recipe, rate: float, every: int
) -> dict[str, Any]:
    """One row of the log; the sums and signs start anew."""
    loss, hits, n = (float(value) for value in _summed(fabric, state.sums.clone()))
    network = state.network
    assert isinstance(network, Network)
    row = {
        "epoch": -(-state.iteration // every) if recipe.log_every is None else "",
        "iteration": state.iteration,
        "lr": rate,
        "train_loss": loss / n,
        "train_top1": 100 * hits / n,
        "test_top1": accuracy(fabric, result, test, recipe.workers)["top1"],
        "seconds": state.seconds,
        **weight_statistics(network, state.signs),
    }
    state.sums.zero_()
    state.signs, state.seconds = signs_of(network), 0.0
    return row


def _require_finite(state: State, folder: Path) -> None:
    if all(bool(torch.isfinite(tensor).all()) for tensor in (state.sums, *state.network.parameters())):
        return
    kept = f"the last good state is kept in {folder}" if any(folder.glob("step*")) else "nothing was saved before"
    raise Diverged(
        f"the loss is not a number any more at iteration {state.iteration:,}; {kept}. Lower lr, or lengthen warmup, "
        "and start again under another name."
    )


@contextmanager
def _stop_signals(fabric: Fabric) -> Iterator[list[int]]:
    """A list that Ctrl+C or SIGTERM fills, so that the iteration can end and be saved."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _: object) -> None:
        if not received and fabric.is_global_zero:
            with suppress(OSError):  # past Python's streams, which may be at work at this moment, or closed
                os.write(2, b"\nstopping: this iteration is finished first, and what was learnt is saved\n")
        received.append(number)
        if fabric.world_size == 1:  # torchrun passes on what the terminal has sent already, and kills in the end
            signal.signal(number, before[number])  # the second time it acts as ever

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
