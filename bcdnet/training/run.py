"""One run of a recipe: its steps in order, a folder that can be resumed, and a card that says what happened."""

import csv
import datetime
import hashlib
import json
import logging
import platform
import subprocess
import time
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from bcdnet.checkpoint import MAX_BYTES, CheckpointError, check_file, load, save, transfer
from bcdnet.data import FASHION_MNIST, DataError, fashion_mnist
from bcdnet.evaluate import evaluate
from bcdnet.files import assets_dir, write_atomically
from bcdnet.model import Network
from bcdnet.training.batches import EpochSampler, MemoryBatches, loader
from bcdnet.training.distillation import teacher_logits
from bcdnet.training.module import TrainingModule
from bcdnet.training.recipe import Recipe, RecipeError, Step, load_recipe

#: In every run's folder: the recipe, the digests of the checkpoints it uses, and the commit it was started from.
RECORD = "run.json"
LOG_FIELDS = ("step", "precision", "epoch", "lr", "train_loss", "train_top1", "test_top1", "seconds")


class Stopped(RuntimeError):
    """A run that somebody stopped; what it had reached lies in its folder."""


def train(recipe_path: Path, overrides: list[str] | None = None, resume: Path | None = None) -> dict[str, Any]:
    """Train what a recipe describes, or go on with a run that was stopped.

    Args:
        recipe_path: YAML file, see :class:`bcdnet.training.recipe.Recipe`.
        overrides: ``key=value`` changes to it.
        resume: folder of a run of the same recipe; finished steps are kept, an unfinished one goes on after its last
            whole epoch. None starts anew in ``runs/<name>`` under the working directory.

    Returns:
        "run" (folder), "checkpoint" (of the last step) and "metrics" (its accuracy on the test set).

    Raises:
        RecipeError, ConfigError, DataError, CheckpointError: something the user can mend.
        Stopped: the user pressed Ctrl+C.
    """
    recipe = load_recipe(recipe_path, overrides)
    folder = Path("runs") / recipe.name if resume is None else resume
    if resume is not None:
        require_same_run(folder, recipe)
    elif folder.exists():
        raise RecipeError(f"{folder} holds a run already; go on with --resume {folder}, or move it away.")
    run = _Run(recipe, folder)  # whatever is missing or wrong shows here, before anything is written
    if resume is None:
        folder.mkdir(parents=True)
        record = {"recipe": recipe.to_dict(), "inputs": run.inputs, "commit": _commit()}
        write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())
    return run.execute()


def inputs(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of the checkpoints a recipe starts from or learns from, by the name the recipe gives them."""
    paths = {name: checkpoint_path(name) for name in (recipe.teacher, recipe.init) if name is not None}
    return {
        name: hashlib.sha256(check_file(path, MAX_BYTES).read_bytes()).hexdigest() for name, path in paths.items()
    }


def require_same_run(folder: Path, recipe: Recipe) -> None:
    """Raise RecipeError unless the folder holds a run of this very recipe, teacher and start."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        same = record["recipe"] == json.loads(json.dumps(recipe.to_dict())) and record["inputs"] == inputs(recipe)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise RecipeError(f"{folder} holds no run to resume; leave --resume out to start one.") from error
    if not same:
        raise RecipeError(f"{folder} was started with other settings; resume it with the same recipe and --set values.")


class _Run:
    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder, self.inputs = recipe, folder, inputs(recipe)
        if recipe.data != "fashion-mnist":
            raise DataError(f"recipes train on fashion-mnist in this version, not on {recipe.data!r}.")
        for config in map(recipe.config, recipe.steps):
            shape = (config.in_channels, *config.image_size, config.num_classes)
            if shape != (1, 28, 28, len(fashion_mnist.CLASSES)):
                raise RecipeError(
                    "fashion-mnist has in_channels 1, image_size 28 and num_classes 10; the model has "
                    f"{config.in_channels}, {config.image_size} and {config.num_classes}."
                )
        self.teacher = None if recipe.teacher is None else load(checkpoint_path(recipe.teacher))
        self.start = None if recipe.init is None else load(checkpoint_path(recipe.init))
        if self.start is not None:
            transfer(self.start, Network(recipe.config(recipe.steps[0])))
        pixels, labels = fashion_mnist.load("train")
        self.images, self.labels = FASHION_MNIST.batch(pixels), torch.from_numpy(labels)
        pixels, labels = fashion_mnist.load("test")
        self.test = MemoryBatches(FASHION_MNIST.batch(pixels), torch.from_numpy(labels), None)

    def execute(self) -> dict[str, Any]:
        network = self.start
        for number, step in enumerate(self.recipe.steps, start=1):
            path = self.folder / f"step{number}.safetensors"
            if path.exists():
                network = load(path)
            else:
                network = self._train_step(number, step, network)
                save(network, path, network.card)
                (self.folder / f"step{number}.ckpt").unlink(missing_ok=True)
        assert network is not None
        return {"run": str(self.folder), "checkpoint": str(path), "metrics": network.card["metrics"]}

    def _train_step(self, number: int, step: Step, previous: Network | None) -> Network:
        recipe = self.recipe
        lightning.seed_everything(recipe.seed, verbose=False)
        network = Network(recipe.config(step))
        if previous is not None:
            transfer(previous, network)
        module = TrainingModule(network, step, recipe.label_smoothing, recipe.compile)
        batches = loader(
            MemoryBatches(self.images, self.labels, self._teacher_logits), recipe.batch_size, recipe.seed, recipe.flip
        )
        resume = self.folder / f"step{number}.ckpt"
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the data lies in memory
            warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # as it must, to be resumed
            warnings.filterwarnings("ignore", ".*LeafSpec.*")  # of Lightning to itself
            trainer = lightning.Trainer(
                accelerator="auto",
                devices=1,
                max_epochs=step.epochs,
                logger=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                default_root_dir=self.folder,
                callbacks=[
                    _EpochLog(self.folder / "log.csv", number, step),
                    ModelCheckpoint(self.folder, resume.stem, save_top_k=1, enable_version_counter=False),
                    RichProgressBar(),
                ],
            )
            try:
                last = resume if resume.exists() else None
                trainer.fit(module, batches, self._test_loader(), ckpt_path=last, weights_only=True)
            except SystemExit:  # Lightning's answer to Ctrl+C
                raise Stopped(f"stopped by Ctrl+C; go on with --resume {self.folder}.") from None
        network.round_embeddings()
        network.card = self._card(step, network.eval())
        return network

    def _test_loader(self) -> DataLoader:
        sampler = EpochSampler(len(self.test.labels), 500, seed=0, flip=False)
        return DataLoader(self.test, sampler=sampler, batch_size=None)

    @cached_property
    def _teacher_logits(self) -> Tensor | None:
        return None if self.teacher is None else teacher_logits(self.teacher, self.images)

    def _card(self, step: Step, network: Network) -> dict[str, Any]:
        card = {
            "title": step.title or step.id or self.recipe.name,
            "description": self.recipe.description,
            "classes": list(fashion_mnist.CLASSES),
            "preprocess": FASHION_MNIST.to_dict(),
            "dataset": self.recipe.data,
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
        network.card = card
        result = evaluate(network, fashion_mnist.dataset("test"))
        metrics = {"top1": result.top1, "top5": result.top5, "n": result.n, "ci95": list(result.ci95)}
        return card | {"metrics": metrics}


class _EpochLog(Callback):
    """One CSV row an epoch; rows a resumed run repeats are replaced."""

    def __init__(self, path: Path, number: int, step: Step) -> None:
        self.path, self.number, self.step = path, number, step
        self.started = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        rows = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        here = (self.number, trainer.current_epoch + 1)
        rows = [row for row in rows if (int(row["step"]), int(row["epoch"])) < here]
        metrics = {key: f"{float(value):.4f}" for key, value in trainer.callback_metrics.items()}
        row = {
            "step": here[0],
            "precision": self.step.precision,
            "epoch": here[1],
            "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.3e}",
            "seconds": f"{time.perf_counter() - self.started:.1f}",
            **{key: metrics.get(key, "") for key in ("train_loss", "train_top1", "test_top1")},
        }
        lines = [",".join(LOG_FIELDS), *(",".join(str(r[f]) for f in LOG_FIELDS) for r in [*rows, row])]
        write_atomically(self.path, ("\n".join(lines) + "\n").encode())


def checkpoint_path(name: str) -> Path:
    """A checkpoint by path, or by the name of a shipped one."""
    shipped = assets_dir() / "checkpoints" / f"{name}.safetensors"
    return shipped if shipped.exists() else Path(name)


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
