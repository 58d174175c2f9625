"""Runs that are killed, stopped, starved of disk or led astray go on to the very weights of one that was left alone."""

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from training.miniature import (
    assert_same_weights,
    complaint,
    load_json,
    position,
    rows,
    start_training,
    untimed,
    wait_until,
    write_pictures,
)

import bcdnet
from bcdnet import kernels
from bcdnet.training import loop, monitor, teacher
from bcdnet.training.loop import Diverged
from bcdnet.training.monitor import Monitor
from bcdnet.training.recipe import RecipeError
from bcdnet.training.run import train
from bcdnet.training.state import NotSaved, State, StateError

#: Everything that a state has to remember: averages, parts of batches, rows that are due between two states.
RICH = ["ema=0.9", "accumulate=2", "augment=[shift, flip]", "log_every=7"]
LONG = ["steps.0.epochs=40", "steps.1.epochs=40"]
ITERATIONS = 40 * 3
WIDE = ["model.width=0.0625"]  # 32 channels and more, so that products are counted by the XNOR kernels
SHORT = ["steps=[{precision: 1/1, iterations: 12, lr: 1.0e-3}]"]


class Pulled(Exception):
    """The plug of a run in this process is pulled."""


def at_iteration(monkeypatch: pytest.MonkeyPatch, iteration: int, action: Any) -> None:
    """Call the action once, at the end of an iteration and before its row and state are written."""
    advance, done = Monitor.advance, []

    def hook(self: Monitor, reached: int, loss: float | None) -> None:
        advance(self, reached, loss)
        if reached == iteration and not done:
            done.append(True)
            action()

    monkeypatch.setattr(Monitor, "advance", hook)


def pull() -> None:
    raise Pulled


def killed(name: str, moments: random.Random, kills: int) -> Path:
    """A run that is killed so many times, each time at another moment of its training, and then ends by itself."""
    run, settings = Path("runs") / name, [f"--set={item}" for item in (f"name={name}", "save_every=0", *RICH, *LONG)]
    # Places to be reached before each kill, in both steps; the kill then comes within a few iterations of them.
    places = sorted(moments.sample(range(5, 2 * ITERATIONS - 80), kills))
    reached = (0, 0)
    for place in places:
        process = start_training("tiny.yaml", *settings, *(["--resume", str(run)] if reached > (0, 0) else []))
        target = max((1 + place // ITERATIONS, 1 + place % ITERATIONS), (reached[0], reached[1] + 1))
        wait_until(process, run, target)
        time.sleep(moments.uniform(0, 0.1))
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert position(run) > reached and not (run / "step2.safetensors").exists()
        reached = position(run)
    process = start_training("tiny.yaml", *settings, "--resume", str(run), "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert '"n": 20' in out
    return run


def test_a_run_killed_three_times_ends_with_the_bits_of_one_left_alone(miniature: Path) -> None:
    settings = [f"--set={item}" for item in ("name=whole", *RICH, *LONG)]
    whole = start_training("tiny.yaml", *settings)
    run = killed("killed", random.Random(5), kills=3)
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    for step in (1, 2):
        assert_same_weights(Path(f"runs/whole/step{step}.safetensors"), run / f"step{step}.safetensors")
    assert untimed(run) == untimed(Path("runs/whole"))
    assert [row["iteration"] for row in rows(run)][:3] == ["7", "14", "21"]
    left = {path.name for path in run.iterdir()}
    assert left == {"log.csv", "progress.json", "run.json", "step1.safetensors", "step2.safetensors", "tensorboard"}


@pytest.mark.parametrize(
    "settings",
    [
        RICH,
        ["amp=bf16-mixed", "augment=[resized_crop, colour, flip]"],
        ["workers=1", "freeze_bn=true"],
        WIDE,
        [*WIDE, "compile=true"],
    ],
    ids=["rich", "bf16", "workers", "counted", "counted, compiled"],
)
@pytest.mark.parametrize("save_every", [0, 1000], ids=["saved", "unsaved"])
def test_whatever_the_settings_a_resumed_step_ends_the_same(
    miniature: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    save_every: int,
) -> None:
    counted = []
    count = kernels.sign_conv2d
    monkeypatch.setattr(kernels, "sign_conv2d", lambda *operands: counted.append(1) or count(*operands))
    wide = settings[: len(WIDE)] == WIDE
    settings = [*settings, *SHORT, f"save_every={save_every}"]
    train(miniature, ["name=whole", *settings])
    assert bool(counted) == (wide and kernels.active() != kernels.REFERENCE)
    compiler = any(map(shutil.which, ("g++", "c++", "clang++")))
    assert ("compiles the step" in capsys.readouterr().err) == ("compile=true" in settings and compiler)
    with monkeypatch.context() as patch:
        at_iteration(patch, 8, pull)
        with pytest.raises(Pulled):
            train(miniature, ["name=cut", *settings])
    # The plug was pulled after iteration 8, before its state was saved.
    assert position(Path("runs/cut")) == ((1, 7) if save_every == 0 else (0, 0))
    train(miniature, ["name=cut", *settings], Path("runs/cut"))
    assert_same_weights(Path("runs/whole/step1.safetensors"), Path("runs/cut/step1.safetensors"))
    assert untimed(Path("runs/whole")) == untimed(Path("runs/cut"))


def test_a_resumed_run_reads_what_the_teacher_said(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(miniature, ["name=teacher", *SHORT])
    settings = ["teacher=runs/teacher/step1.safetensors", "teacher_cache=true", *SHORT]
    train(miniature, ["name=whole", *settings])
    with monkeypatch.context() as patch:
        at_iteration(patch, 8, pull)
        with pytest.raises(Pulled):
            train(miniature, ["name=cut", *settings])
    assert Path("runs/cut/teacher.safetensors").exists()
    monkeypatch.setattr(teacher, "cached_logits", lambda *_: pytest.fail("the teacher is asked again"))
    train(miniature, ["name=cut", *settings], Path("runs/cut"))
    assert_same_weights(Path("runs/whole/step1.safetensors"), Path("runs/cut/step1.safetensors"))
    assert not list(Path("runs").glob("*/teacher.safetensors"))


def test_a_run_killed_between_its_folder_and_its_record_can_be_started_again(miniature: Path) -> None:
    folder = Path("runs/tiny")
    folder.mkdir(parents=True)
    (folder / ".run.json.abcd.tmp").write_text('{"rec')
    train(miniature, SHORT)
    assert not list(folder.glob(".*"))
    with pytest.raises(RecipeError, match="holds a run already"):
        train(miniature, SHORT)


@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGTERM, "process"), (signal.SIGTERM, "group"), (signal.SIGINT, "group")]
)
def test_a_stopped_run_says_so_and_goes_on(miniature: Path, number: signal.Signals, whom: str) -> None:
    settings = [*RICH, "log_every=30", "steps=[{precision: 1/1, iterations: 90, lr: 1.0e-3}]"]
    arguments = ["name=stopped", "save_every=0", "workers=1", *settings]
    process = start_training("tiny.yaml", *(f"--set={item}" for item in arguments))
    run = Path("runs/stopped")
    wait_until(process, run, (1, 10))
    # It reaches the workers too, as a terminal sends Ctrl+C to the whole group, and a batch system SIGTERM.
    (os.killpg if whom == "group" else os.kill)(process.pid, number)
    assert complaint(process, status=1) == "stopped; go on with --resume runs/stopped."
    step, iteration = position(run)
    assert step == 1 and 10 <= iteration < 90
    progress = load_json(run / "progress.json")
    assert progress["stopped"] is True and progress["iteration"] == iteration
    train(miniature, ["name=stopped", *settings], run)
    train(miniature, ["name=whole", *settings])
    assert_same_weights(run / "step1.safetensors", Path("runs/whole/step1.safetensors"))


def test_a_run_whose_reader_is_gone_goes_on_and_saves_when_it_is_stopped(miniature: Path) -> None:
    # As in `bcdnet train … 2>&1 | tee log` at Ctrl+C, which ends tee at once.
    settings = ["steps=[{precision: 1/1, iterations: 100000, lr: 1.0e-3}]", "log_every=5", "save_every=1000"]
    process = start_training("tiny.yaml", *(f"--set={item}" for item in settings))
    run = Path("runs/tiny")
    assert process.stderr is not None and process.stdout is not None
    process.stderr.close()
    process.stdout.close()
    end = time.monotonic() + 120
    while not (run / "log.csv").exists() or len(rows(run)) < 3:  # each row is told, to nobody
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    assert position(run) == (0, 0)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert position(run) >= (1, 15)


def test_a_run_is_trained_by_one_process_at_a_time(miniature: Path) -> None:
    settings = ["workers=1", "save_every=0", "steps=[{precision: 1/1, iterations: 2000, lr: 1.0e-3}]"]
    process = start_training("tiny.yaml", *(f"--set={item}" for item in settings))
    run = Path("runs/tiny")
    wait_until(process, run, (1, 3))
    said = f"runs/tiny is being trained by process {process.pid}; wait for it or stop it."
    with pytest.raises(RecipeError, match=re.escape(said)):
        train(miniature, settings, run)
    wait_until(process, run, (1, position(run)[1] + 3))  # nothing of it was touched
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    again = start_training("tiny.yaml", *(f"--set={item}" for item in settings), "--resume", str(run))
    wait_until(again, run, (1, position(run)[1] + 1))  # a dead process holds nothing, nor does its worker
    again.terminate()
    assert complaint(again, status=1) == "stopped; go on with --resume runs/tiny."
    assert not (run / ".lock").exists()


@pytest.mark.parametrize("iteration", [5, 12], ids=["middle", "last"])
def test_a_signal_ends_the_iteration_and_saves_it(
    miniature: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], iteration: int
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_iteration(patch, iteration, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(loop.Stopped, match="--resume runs/tiny"):
            train(miniature, SHORT)
    assert capfd.readouterr().err.count("stopping: this iteration is finished first") == 1
    assert signal.getsignal(signal.SIGTERM) == before
    assert position(Path("runs/tiny")) == (1, iteration)
    train(miniature, SHORT, Path("runs/tiny"))
    train(miniature, ["name=whole", *SHORT])
    assert_same_weights(Path("runs/whole/step1.safetensors"), Path("runs/tiny/step1.safetensors"))
    assert untimed(Path("runs/whole")) == untimed(Path("runs/tiny"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_picture_that_a_worker_meets_is_one_sentence(miniature: Path, split: str) -> None:
    write_pictures(miniature.parent / "pictures", 8)
    damaged = miniature.parent / "pictures" / split / "dark" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    settings = ["data=pictures", "model.num_classes=3", "workers=1", *SHORT]
    process = start_training("tiny.yaml", *(f"--set={item}" for item in settings))
    sentence = complaint(process, status=2, seconds=60)  # it ends, and its worker too
    assert sentence.startswith(f"pictures/{split}/dark/3.png: ") and sentence.endswith(".")


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(
    miniature: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = loop.distillation_loss, []

    def poisoned(*arguments: Any) -> torch.Tensor:
        calls.append(True)
        return loss(*arguments) * (float("nan") if len(calls) == 9 else 1)

    settings = [*SHORT, "save_every=0", "ema=0.9"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "distillation_loss", poisoned)
        with pytest.raises(Diverged, match=r"iteration 9; the last good state is kept in runs/tiny\. Lower lr"):
            train(miniature, settings)
    assert position(Path("runs/tiny")) == (1, 8)
    tensors = safetensors.torch.load_file("runs/tiny/step1.ckpt")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    train(miniature, settings, Path("runs/tiny"))  # healthy again
    train(miniature, ["name=whole", *settings])
    assert_same_weights(Path("runs/whole/step1.safetensors"), Path("runs/tiny/step1.safetensors"))


def test_a_run_that_diverges_from_the_start_is_one_sentence(miniature: Path) -> None:
    train(miniature, ["name=teacher", *SHORT])
    poison = bcdnet.load("runs/teacher/step1.safetensors")
    with torch.no_grad():
        poison.fc.weight.mul_(1e38).mul_(10)
        poison.fc.weight.clamp_(-3e38, 3e38)  # finite, but its logits are not
    bcdnet.save(poison, "poison.safetensors", poison.card)
    process = start_training("tiny.yaml", "--set", "teacher=poison.safetensors")
    sentence = complaint(process, status=1)
    assert sentence.startswith("the loss is not a number any more at iteration 3; nothing was saved before.")
    assert not list(Path("runs/tiny").glob("step1*"))


@pytest.fixture
def small_disk(miniature: Path) -> Iterator[Path]:
    """A working directory on a disk of 400 kB of its own; where it may not be mounted, the test is skipped aloud."""
    disk = miniature.parent / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here ({mounted.stderr.strip()}); full disks are only imitated")
    os.chdir(disk)
    try:
        yield disk
    finally:
        os.chdir(miniature.parent)
        subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Write until nothing more can be written."""
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("iteration", [5, 7, 11], ids=["state", "row", "checkpoint"])
def test_a_full_disk_stops_with_a_sentence_and_keeps_what_there_was(
    miniature: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, iteration: int
) -> None:
    settings = [*SHORT, "log_every=7"]
    saving = f"save_every={1000 if iteration == 11 else 0}"
    with monkeypatch.context() as patch:
        at_iteration(patch, iteration, lambda: fill(small_disk))
        with pytest.raises(NotSaved, match=r"cannot be written \(No space left on device\)"):
            train(miniature, [*settings, saving])
    if iteration < 11:
        assert position(Path("runs/tiny")) == (1, iteration - 1)
    (small_disk / "filler").unlink()
    train(miniature, [*settings, saving], Path("runs/tiny"))
    train(miniature, ["name=whole", *settings])
    assert_same_weights(Path("runs/whole/step1.safetensors"), Path("runs/tiny/step1.safetensors"))
    assert untimed(Path("runs/whole")) == untimed(Path("runs/tiny"))


@pytest.mark.parametrize("file", ["run.json", "log.csv", "progress.json", "step1.ckpt", "step1.safetensors"])
def test_no_file_of_a_run_fails_without_a_sentence(miniature: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """The same where no disk can be mounted: the system refuses to write one file of the run after the other."""
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(NotSaved, match="No space left on device"):
            train(miniature, [*SHORT, "save_every=0"])
    assert not list(Path("runs/tiny").glob(".*"))
    train(miniature, [*SHORT, "save_every=0"], None if file == "run.json" else Path("runs/tiny"))


@pytest.mark.parametrize("damage", ["cut", "empty", "other network", "nothing of it"])
def test_a_damaged_state_is_one_sentence(miniature: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    settings = [*SHORT, "save_every=0"]
    with monkeypatch.context() as patch:
        at_iteration(patch, 6, pull)
        with pytest.raises(Pulled):
            train(miniature, settings)
    state = Path("runs/tiny/step1.ckpt")
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-10])
    elif damage == "empty":
        state.write_bytes(b"")
    elif damage == "other network":
        tensors = safetensors.torch.load_file(state)
        tensors["network.fc.weight"] = torch.zeros(3, 3)
        safetensors.torch.save_file(tensors, state, {"state": '{"iteration": 5, "seconds": 0.0, "scaler": null}'})
    else:
        state.write_bytes(Path("tiny.yaml").read_bytes())
    with pytest.raises(StateError) as caught:
        train(miniature, settings, Path("runs/tiny"))
    sentence = str(caught.value)
    assert "step1.ckpt is no state of this run" in sentence and sentence.endswith("delete it to start the step anew.")
    assert "\n" not in sentence
    state.unlink()
    train(miniature, settings, Path("runs/tiny"))


def test_a_state_remembers_the_scale_of_half_precision_gradients(tmp_path: Path) -> None:
    def state(scale: float) -> State:
        layer = torch.nn.Linear(2, 2)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
        return State(layer, torch.optim.AdamW(layer.parameters()), None, {}, torch.zeros(3), scaler)

    one = state(8.0)
    assert one.scaler is not None
    for _ in range(2):  # two good steps of the three after which the scale doubles
        one.scaler.scale(one.network(torch.ones(1, 2)).sum()).backward()
        one.scaler.step(one.optimizer)
        one.scaler.update()
    one.save(tmp_path / "state")
    other = state(1.0)
    other.restore(tmp_path / "state")
    assert other.scaler is not None
    assert other.scaler.state_dict() == one.scaler.state_dict()
    assert other.scaler.state_dict()["scale"] == 8.0 and other.scaler.state_dict()["_growth_tracker"] == 2


def test_rows_written_after_the_last_state_are_written_again(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [*SHORT, "log_every=3", "save_every=1000"]
    with monkeypatch.context() as patch:
        at_iteration(patch, 8, pull)
        with pytest.raises(Pulled):
            train(miniature, settings)
    assert [row["iteration"] for row in rows(Path("runs/tiny"))] == ["3", "6"]
    written: list[list[str]] = []
    write = monitor.write_or_stop

    def recording(path: Path, content: bytes) -> None:
        write(path, content)
        if path.name == monitor.LOG:
            written.append([row["iteration"] for row in rows(path.parent)])

    monkeypatch.setattr(monitor, "write_or_stop", recording)
    train(miniature, settings, Path("runs/tiny"))
    assert written == [["3"], ["3", "6"], ["3", "6", "9"], ["3", "6", "9", "12"]]
