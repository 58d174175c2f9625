"""A training run as data: one YAML file, checked before anything starts."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from bcdnet.training.augment import AUGMENTATIONS
from bcdnet.variants import Config, ConfigError, get_config

_FLOATS = ("lr", "lr_from", "warmup", "weight_decay", "label_smoothing", "ema", "save_every")
AMP = ("32-true", "bf16-mixed", "16-mixed")


class RecipeError(ValueError):
    """A recipe that describes no run; the message is one sentence that says what to change."""


@dataclass(frozen=True)
class Step:
    """One training step: all its weights come from the step before, strictly.

    Attributes:
        precision: weights/activations in bits, "32/1" for step 1 and "1/1" for step 2.
        epochs: passes over the training set; or
        iterations: batches.
        lr: peak learning rate; it decays to 0 by half a cosine.
        lr_from: rate at which the warm-up starts.
        warmup: iterations over which the rate rises linearly; below 1, their share of all.
        weight_decay: AdamW's, on all parameters.
        augment: in place of the recipe's.
        id: name under which the result ships; None keeps it in the run folder only.
        title: what the dashboard calls the shipped result.
    """

    precision: str
    lr: float
    epochs: int | None = None
    iterations: int | None = None
    lr_from: float = 0.0
    warmup: float = 0.0
    weight_decay: float = 0.0
    augment: tuple[str, ...] | None = None
    id: str | None = None
    title: str | None = None

    def total(self, images: int, batch_size: int) -> int:
        """Iterations on a set of so many images."""
        return self.iterations or (self.epochs or 0) * (images // batch_size)

    def rate(self, iteration: int, total: int) -> float:
        """Learning rate of an iteration, from 0: linear warm-up, then half a cosine down to 0."""
        warmup = round(self.warmup * total) if self.warmup < 1 else int(self.warmup)
        if iteration < warmup:
            return self.lr_from + (self.lr - self.lr_from) * (iteration + 1) / warmup
        return self.lr * (1 + math.cos(math.pi * (iteration - warmup) / max(1, total - warmup))) / 2


@dataclass(frozen=True)
class Recipe:
    """A run: data, model, teacher and steps.

    Attributes:
        name: of the run folder.
        description: one sentence for the card.
        data: a data set's name or a folder, see :func:`bcdnet.data.open_dataset`.
        data_root: folder where a named set lies; None: where it is looked for anyway.
        model: ``variant`` and the fields of :class:`bcdnet.Config` it changes.
        steps: in order.
        teacher: whose softmax ``fc_dist`` learns: a checkpoint, or ``hf:`` and the name or folder of an image
            classifier of Hugging Face; None trains on the labels alone.
        teacher_cache: run the teacher once over all images and their mirror images; no augmentation but ``flip`` then.
        init: checkpoint the first step starts from (BCDNet-B continues from A); None starts fresh.
        new_heads: the heads start fresh all the same, for another set of classes.
        label_smoothing: of the label loss.
        batch_size: images of one iteration, over all processes.
        accumulate: parts a batch is computed in, one after another, to save memory.
        augment: names of :data:`bcdnet.training.augment.AUGMENTATIONS`.
        amp: Lightning's name of the arithmetic: 32-true, bf16-mixed or 16-mixed.
        ema: decay of an exponential moving average of the weights, which is then what is measured and kept.
        freeze_bn: leave the running statistics of batch normalisation as they are and use them.
        seed: of weights, order and augmentation.
        compile: let torch.compile fuse the training step where a C++ compiler is found.
        log_every: iterations between two rows of the log; None: an epoch.
        save_every: seconds between two saved states.
        workers: processes that load images; 0 loads them in the training process.
    """

    name: str
    description: str
    data: str
    model: dict[str, Any]
    steps: tuple[Step, ...]
    data_root: str | None = None
    teacher: str | None = None
    teacher_cache: bool = False
    init: str | None = None
    new_heads: bool = False
    label_smoothing: float = 0.1
    batch_size: int = 256
    accumulate: int = 1
    augment: tuple[str, ...] = ("flip",)
    amp: str = "32-true"
    ema: float | None = None
    freeze_bn: bool = False
    seed: int = 0
    compile: bool = True
    log_every: int | None = None
    save_every: float = 60.0
    workers: int = 0
    source: str = field(default="", compare=False)

    def config(self, step: Step) -> Config:
        """The network of one step."""
        changes = {key: value for key, value in self.model.items() if key != "variant"}
        return get_config(self.model["variant"], **changes, precision=step.precision)

    def augmentations(self, step: Step) -> tuple[str, ...]:
        """Of one step."""
        return self.augment if step.augment is None else step.augment

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the card."""
        data = asdict(self)
        data.pop("source")
        plain: dict[str, Any] = json.loads(json.dumps(data))
        return plain

    def describes(self, recorded: Mapping[str, Any]) -> bool:
        """Whether a record made by :meth:`to_dict` trains the same weights as this recipe.

        How often a run is saved, how many processes load images and where they lie make no difference.
        """

        def essence(record: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in record.items() if key not in _HOW}

        return essence(recorded) == essence(self.to_dict())


#: What changes how a run goes, not what comes of it.
_HOW = ("data_root", "save_every", "workers", "log_every")


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file.

    Args:
        path: YAML file; its key ``extends`` names another beside it whose values it changes.
        overrides: ``key=value`` with dots into nested keys, values read as YAML, e.g. ``steps.0.epochs=1``.

    Raises:
        RecipeError: unreadable file, unknown key, or a value that makes no sense.
    """
    data = _read(path)
    for override in overrides or []:
        _set(data, override)
    given = data.pop("steps", None) or []
    if not (isinstance(given, list) and all(isinstance(step, dict) for step in given)):
        raise RecipeError(f"{path.name}: steps must be a list of keys and values, e.g. steps.0.epochs=1.")
    try:
        steps = tuple(_build(Step, step, f"a step in {path.name}") for step in given)
        data.setdefault("name", path.stem)
        recipe: Recipe = replace(_build(Recipe, {**data, "steps": steps}, path.name), source=path.name)
        _check(recipe)
    except (TypeError, AttributeError) as error:
        raise RecipeError(f"{path.name} is not laid out as a recipe is; compare it with those in recipes/.") from error
    return recipe


def _read(path: Path, depth: int = 0) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"there is no recipe {path}; the shipped ones are in recipes/.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not a YAML file: {' '.join(str(error).split())}.") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path} must hold keys and values, such as `data: fashion-mnist`.")
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise RecipeError(f"{path}: extends must be the name of a recipe beside it, not {base!r}.")
    if depth == 5:
        raise RecipeError(f"{path} extends itself; let it extend another file.")
    return _merge(_read(path.parent / base, depth + 1), data)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both_maps = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_maps else value
    return merged


def _set(data: dict[str, Any], override: str) -> None:
    key, found, value = override.partition("=")
    *path, last = key.split(".")
    target: Any = data
    try:
        if not found:
            raise KeyError(key)
        for part in path:
            target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
        target[int(last) if isinstance(target, list) else last] = yaml.safe_load(value)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RecipeError(f"--set {override!r} does not fit the recipe; write it as key=value, e.g. seed=1.") from error


def _build(kind: type, data: dict[str, Any], where: str) -> Any:
    known = sorted(f.name for f in fields(kind) if f.name != "source")
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise RecipeError(f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(known)}.")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in data]
    if missing:
        raise RecipeError(f"{where} lacks {missing[0]!r}.")
    return kind(**{key: _plain(key, value) for key, value in data.items()})


def _plain(key: str, value: Any) -> Any:
    if key == "augment" and isinstance(value, list):
        return tuple(value)
    if key in _FLOATS and isinstance(value, str):  # YAML reads 1e-3, without a point, as a text
        try:
            return float(value)
        except ValueError:
            return value
    return value


#: Of a run's folder and a model's file: nothing that leads elsewhere.
_NAME = "{} names a folder or file; give it letters, digits, '.', '_' and '-' only, and no '.' in front."


def _is_plain_name(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*", name) is not None


def _check(recipe: Recipe) -> None:
    def require(ok: bool, sentence: str) -> None:
        if not ok:
            raise RecipeError(f"{recipe.source}: {sentence}")

    def number(value: object, low: float, high: float) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < high

    def whole(value: object, low: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= low

    def of_type(value: object, kind: type) -> bool:
        return isinstance(value, kind)

    require(bool(recipe.steps), "give at least one step.")
    for name in ("name", "description", "data"):
        require(isinstance(getattr(recipe, name), str) and bool(getattr(recipe, name)), f"{name} must be a text.")
    require(_is_plain_name(recipe.name), _NAME.format("name"))
    for name in ("teacher", "init", "data_root"):
        value = getattr(recipe, name)
        require(value is None or (isinstance(value, str) and bool(value)), f"{name} must be a text or null.")
    require(isinstance(recipe.model, dict) and "variant" in recipe.model, "model needs a variant, e.g. bcdnet_a.")
    require(isinstance(recipe.model["variant"], str), "the variant of model must be a name, e.g. bcdnet_a.")
    require("precision" not in recipe.model, "precision belongs to the steps, e.g. steps.0.precision=32/1.")
    require(whole(recipe.batch_size, 2), "batch_size must be a whole number of at least 2.")
    require(whole(recipe.accumulate, 1), "accumulate must be a positive whole number.")
    require(recipe.batch_size % recipe.accumulate == 0, "batch_size must be a multiple of accumulate.")
    require(whole(recipe.seed, 0) and recipe.seed < 2**63, "seed must be a whole number from 0 up to 2 to the 63rd.")
    require(whole(recipe.workers, 0), "workers must be a whole number that is not negative.")
    require(number(recipe.label_smoothing, 0, 1), "label_smoothing must be a number from 0 up to 1.")
    require(number(recipe.save_every, 0, 1e9), "save_every must be a number of seconds.")
    every = recipe.log_every
    require(every is None or whole(every, 1), "log_every must be a positive whole number or null.")
    require(recipe.amp in AMP, f"amp must be one of {', '.join(AMP)}.")
    require(recipe.ema is None or number(recipe.ema, 0, 1), "ema must be a number from 0 up to 1, e.g. 0.999, or null.")
    for name in ("teacher_cache", "new_heads", "freeze_bn", "compile"):
        require(of_type(getattr(recipe, name), bool), f"{name} must be true or false.")
    require(not recipe.new_heads or recipe.init is not None, "new_heads needs init, the checkpoint to start from.")
    require(not recipe.teacher_cache or recipe.teacher is not None, "teacher_cache needs a teacher.")
    for step in recipe.steps:
        given = [name for name in ("epochs", "iterations") if getattr(step, name) is not None]
        require(len(given) == 1, "give each step either epochs or iterations.")
        require(whole(getattr(step, given[0]), 1), f"{given[0]} must be a positive whole number.")
        require(number(step.lr, 1e-12, 10), "lr must be a positive number below 10, e.g. 1.0e-3.")
        require(number(step.lr_from, 0, 10), "lr_from must be a number from 0 up to 10.")
        warmup = step.warmup
        require(number(warmup, 0, 1) or whole(warmup, 0), "warmup is a number of iterations, or below 1 a share.")
        require(number(step.weight_decay, 0, 10), "weight_decay must be a number from 0 up to 10.")
        for name in ("id", "title"):
            value = getattr(step, name)
            require(value is None or isinstance(value, str), f"{name} must be a text.")
        require(step.id is None or _is_plain_name(step.id), _NAME.format("id"))
        names = recipe.augmentations(step)
        known = isinstance(names, tuple) and all(name in AUGMENTATIONS for name in names)
        require(known, f"augment is a list of {', '.join(AUGMENTATIONS)}; [] for none.")
        require(
            not recipe.teacher_cache or set(names) <= {"flip"},
            "teacher_cache knows no augmentation but flip; leave the others out, or the cache.",
        )
        try:
            recipe.config(step)
        except ConfigError as error:
            raise RecipeError(f"{recipe.source}: {error}") from error
