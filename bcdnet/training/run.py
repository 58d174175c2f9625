"""One run of a recipe: its steps in order, a folder that can be resumed, and a card that says what happened."""

import datetime
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch import Tensor

from bcdnet.checkpoint import MAX_BYTES, CheckpointError, check_file, load, save, transfer
from bcdnet.data import Preprocess, default_preprocess, open_dataset
from bcdnet.files import RECORD, assets_dir, write_atomically
from bcdnet.model import Network
from bcdnet.training.loop import Lessons, Stopped, accuracy, fit, require_shareable
from bcdnet.training.recipe import Recipe, RecipeError, Step, load_recipe
from bcdnet.training.samples import Samples
from bcdnet.training.state import NotSaved
from bcdnet.training.teacher import HUGGING_FACE, Teacher, kept_logits, load_teacher

#: Ending of the unfinished file that a killed process leaves, see :func:`bcdnet.files.write_atomically`.
LEFTOVER = ".tmp"
#: In a run's folder while it is trained: locked, and the number of the process that trains it.
LOCK = ".lock"
#: In a run's folder until it is finished: what the teacher says of every image, see ``teacher_cache``.
ANSWERS = "teacher.safetensors"
#: How long a process waits for what the first one has written; disks of a network may show it late.
SHARED_SECONDS = 60.0


def train(recipe_path: Path, overrides: list[str] | None = None, resume: Path | None = None) -> dict[str, Any]:
    """Train what a recipe describes, or go on with a run that was stopped.

    Under ``torchrun`` or SLURM's ``srun`` every process calls this and they share the batches out.

    Args:
        recipe_path: YAML file, see :class:`bcdnet.training.recipe.Recipe`.
        overrides: ``key=value`` changes to it.
        resume: folder of a run of the same recipe; finished steps are kept, an unfinished one goes on from its last
            saved state. None starts anew in ``runs/<name>`` under the working directory.

    Returns:
        "run" (folder), "checkpoint" (of the last step) and "metrics" (its accuracy on the test set).

    Raises:
        RecipeError, ConfigError, DataError, CheckpointError, TeacherError, StateError: something the user can mend.
        Stopped: the user pressed Ctrl+C.
        Diverged, NotSaved: see :func:`bcdnet.training.loop.fit`.
    """
    recipe = load_recipe(recipe_path, overrides)
    folder = Path("runs") / recipe.name if resume is None else resume
    fabric = _fabric(recipe)
    if resume is not None:
        require_same_run(folder, recipe)
    elif folder.is_dir() and any(path.suffix != LEFTOVER and path.name != LOCK for path in folder.iterdir()):
        raise RecipeError(f"{folder} holds a run already; go on with --resume {folder}, or move it away.")
    run = _Run(recipe, folder, fabric)  # whatever is missing or wrong shows here, before anything is written
    fabric.barrier()
    with _sole_trainer(folder) if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            for note in run.notes:
                print(note, file=sys.stderr)
            if resume is None:
                record = {"recipe": recipe.to_dict(), "inputs": run.inputs, "commit": _commit()}
                try:
                    write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())
                except OSError as error:
                    raise _not_started(folder, error) from error
            for path in folder.glob(f".*{LEFTOVER}"):
                path.unlink()
        fabric.barrier()
        _require_shared(folder, fabric)
        try:
            return run.execute()
        except KeyboardInterrupt:
            raise Stopped(f"stopped by Ctrl+C; go on with --resume {folder}.") from None


@contextmanager
def _sole_trainer(folder: Path) -> Iterator[None]:
    """Make a run's folder and keep other processes from training it. Raises RecipeError while one does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process, not of its children
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise RecipeError(f"{folder} is being trained by process {file.read()}; wait for it or stop it.") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    except OSError as error:
        raise _not_started(folder, error) from error
    with file:
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _not_started(folder: Path, error: OSError) -> NotSaved:
    return NotSaved(f"{folder} cannot be written ({error.strerror}); make room, or start elsewhere.")


def _require_shared(folder: Path, fabric: Fabric) -> None:
    """Raise RecipeError unless this process sees the folder that the first one writes."""
    end = time.monotonic() + SHARED_SECONDS
    while not (folder / RECORD).is_file():
        if time.monotonic() >= end:
            raise RecipeError(
                f"process {fabric.global_rank} does not see {folder.absolute()}, which the first one has made; start "
                "all of them in one working directory, on a disk that all machines share."
            )
        time.sleep(0.2)


def inputs(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of the weights a recipe starts from or learns from, by the name the recipe gives them.

    A Hugging Face model that is no folder is recorded by its name alone.
    """
    digests = {}
    for name in (recipe.teacher, recipe.init):
        if name is None:
            continue
        if name.startswith(HUGGING_FACE):
            weights = Path(name.removeprefix(HUGGING_FACE)) / "model.safetensors"
            digests[name] = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else name
        else:
            digests[name] = hashlib.sha256(check_file(checkpoint_path(name), MAX_BYTES).read_bytes()).hexdigest()
    return digests


def require_same_run(folder: Path, recipe: Recipe) -> None:
    """Raise RecipeError unless the folder holds a run of this very recipe, teacher and start."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        same = recipe.describes(record["recipe"]) and record["inputs"] == inputs(recipe)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise RecipeError(f"{folder} holds no run to resume; leave --resume out to start one.") from error
    if not same:
        raise RecipeError(f"{folder} was started with other settings; resume it with the same recipe and --set values.")


class _Run:
    def __init__(self, recipe: Recipe, folder: Path, fabric: Fabric) -> None:
        self.recipe, self.folder, self.fabric, self.inputs = recipe, folder, fabric, inputs(recipe)
        config = recipe.config(recipe.steps[0])
        self.train = open_dataset(recipe.data, "train", _path(recipe.data_root))
        self.test = open_dataset(recipe.data, "test", _path(recipe.data_root))
        self.notes = tuple(dict.fromkeys((*self.train.notes, *self.test.notes)))
        if len(self.train.classes) != config.num_classes:
            raise RecipeError(
                f"{recipe.data} has {len(self.train.classes)} classes, the model {config.num_classes}; set "
                f"model.num_classes to {len(self.train.classes)}."
            )
        if self.train.classes != self.test.classes:
            raise RecipeError(f"the training and the test images of {recipe.data} have different classes.")
        require_shareable(recipe, len(self.train), fabric.world_size)
        with torch.device("meta"):  # maps that cannot be halved show here
            for step in recipe.steps:
                Network(recipe.config(step))
        try:
            self.preprocess: Preprocess = default_preprocess(recipe.data, config.image_size, config.in_channels)
        except ValueError as error:
            raise RecipeError(f"{recipe.source}: {error}") from error
        self.start = None if recipe.init is None else load(checkpoint_path(recipe.init))
        if self.start is not None:
            transfer(self.start, Network(config), heads=not recipe.new_heads)
        self.teacher: Teacher | None = None
        if recipe.teacher is not None:
            path = checkpoint_path(recipe.teacher)
            self.teacher = load_teacher(recipe.teacher, path, self.preprocess, config.num_classes)

    def execute(self) -> dict[str, Any]:
        network = self.start
        for number, step in enumerate(self.recipe.steps, start=1):
            path = self.folder / f"step{number}.safetensors"
            if path.exists():
                network = load(path)
            else:
                network = self._train_step(number, step, network)
                if self.fabric.is_global_zero:
                    try:
                        save(network, path, network.card)
                    except CheckpointError as error:
                        if not isinstance(error.__cause__, OSError):
                            raise
                        reason = f"{path} cannot be written ({error.__cause__.strerror})"
                        raise NotSaved(f"{reason}; make room and go on with --resume {self.folder}.") from error
                self.fabric.barrier()
            if self.fabric.is_global_zero:
                (self.folder / f"step{number}.ckpt").unlink(missing_ok=True)
        if self.fabric.is_global_zero:
            (self.folder / ANSWERS).unlink(missing_ok=True)
        assert network is not None
        return {"run": str(self.folder), "checkpoint": str(path), "metrics": network.card["metrics"]}

    def _train_step(self, number: int, step: Step, previous: Network | None) -> Network:
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        network = Network(recipe.config(step))
        if previous is not None:
            transfer(previous, network, heads=number > 1 or not recipe.new_heads)
        train = Samples(self.train, self.preprocess, recipe.augmentations(step), recipe.seed)
        test = Samples(self.test, self.preprocess)
        network = fit(self.fabric, recipe, number, network, Lessons(train, test, self._teacher), self.folder)
        network.round_embeddings()
        metrics = accuracy(self.fabric, network, test, recipe.workers)
        network = network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        network.card = self._card(step) | {"metrics": metrics}
        return network

    @cached_property
    def _teacher(self) -> Teacher | Tensor | None:
        if self.teacher is None:
            return None
        teacher = self.teacher.to(self.fabric.device)
        if not self.recipe.teacher_cache:
            return teacher
        assert self.recipe.teacher is not None
        digest, first = self.inputs[self.recipe.teacher], self.fabric.is_global_zero
        return kept_logits(self.folder / ANSWERS, digest, teacher, self.train, self.preprocess, first)

    def _card(self, step: Step) -> dict[str, Any]:
        return {
            "title": step.title or step.id or self.recipe.name,
            "description": self.recipe.description,
            "classes": list(self.train.classes),
            "preprocess": self.preprocess.to_dict(),
            "dataset": self.train.name,
            "notes": list(self.notes),
            "recipe": self.recipe.to_dict(),
            "seed": self.recipe.seed,
            "commit": json.loads((self.folder / RECORD).read_text(encoding="utf-8"))["commit"],
            "inputs": self.inputs,
            "created": datetime.date.today().isoformat(),
            "versions": {
                "torch": torch.__version__,
                "lightning": lightning.__version__,
                "python": platform.python_version(),
            },
        }


def checkpoint_path(name: str) -> Path:
    """A checkpoint by path, or by the name of a shipped one; ``NAME-seedN`` is that of a further seed."""
    if Path(name).name != name:
        return Path(name)
    seedless, assets = re.sub(r"-seed\d+$", "", name), assets_dir()
    shipped = (assets / "runs" / name / f"{seedless}.safetensors", assets / "checkpoints" / f"{name}.safetensors")
    return next((path for path in shipped if path.exists()), Path(name))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _fabric(recipe: Recipe) -> Fabric:
    """One process, or as many as torchrun or SLURM have started."""
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun
        here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    elif SLURMEnvironment.detect():
        everywhere = int(os.environ["SLURM_NTASKS"])
        here = everywhere // int(os.environ.get("SLURM_NNODES", "1"))
    else:
        here = everywhere = 1
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    strategy = "ddp" if everywhere > 1 else "auto"
    fabric = Fabric(
        devices=here,
        num_nodes=everywhere // here,
        strategy=strategy,
        precision=recipe.amp,  # type: ignore[arg-type]
    )
    if recipe.amp == "16-mixed" and fabric.device.type == "cpu":  # Lightning would take bfloat16 instead
        raise RecipeError("amp: 16-mixed needs a GPU; set amp to bf16-mixed or 32-true to train on a processor.")
    fabric.launch()
    return fabric


def _commit() -> str:
    """The commit of the code that runs, with "-dirty" if files differ from it; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", ":/bcdnet", ":/recipes")
        return git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
