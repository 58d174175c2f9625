"""A training run as data: one YAML file, checked before anything starts."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from bcdnet.variants import Config, ConfigError, get_config


class RecipeError(ValueError):
    """A recipe that describes no run; the message is one sentence that says what to change."""


@dataclass(frozen=True)
class Step:
    """One training step: all its weights come from the step before, strictly.

    Attributes:
        precision: weights/activations in bits, "32/1" for step 1 and "1/1" for step 2.
        epochs: passes over the training set.
        lr: peak learning rate; it decays to 0 by half a cosine.
        warmup: share of the iterations over which the rate rises linearly from 0.
        weight_decay: AdamW's, on all parameters.
        id: name under which the result ships; None keeps it in the run folder only.
        title: what the dashboard calls the shipped result.
    """

    precision: str
    epochs: int
    lr: float
    warmup: float = 0.0
    weight_decay: float = 0.0
    id: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A run: data, model, teacher and steps.

    Attributes:
        name: of the run folder.
        description: one sentence for the card.
        data: name of the data set, see :func:`bcdnet.data.open_dataset`.
        model: ``variant`` and the fields of :class:`bcdnet.Config` it changes.
        steps: in order.
        teacher: checkpoint whose softmax ``fc_dist`` learns; None trains ``fc`` on the labels alone.
        init: checkpoint the first step starts from (BCDNet-B continues from A); None starts fresh.
        label_smoothing: of the label loss.
        batch_size, seed: as they say.
        flip: mirror images at random.
        compile: let torch.compile fuse the training step where a C++ compiler is found.
    """

    name: str
    description: str
    data: str
    model: dict[str, Any]
    steps: tuple[Step, ...]
    teacher: str | None = None
    init: str | None = None
    label_smoothing: float = 0.1
    batch_size: int = 256
    seed: int = 0
    flip: bool = True
    compile: bool = True
    source: str = field(default="", compare=False)

    def config(self, step: Step) -> Config:
        """The network of one step."""
        changes = {key: value for key, value in self.model.items() if key != "variant"}
        return get_config(self.model["variant"], **changes, precision=step.precision)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the card."""
        data = asdict(self)
        data.pop("source")
        return data


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
    try:
        steps = tuple(_build(Step, step, f"a step in {path.name}") for step in data.pop("steps", None) or [])
        data.setdefault("name", path.stem)
        recipe: Recipe = _build(Recipe, {**data, "steps": steps, "source": path.name}, path.name)
        _check(recipe)
    except (TypeError, AttributeError) as error:
        raise RecipeError(f"{path.name} is not laid out as a recipe is, see recipes/ ({error}).") from error
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
    unknown = sorted(set(data) - {*known, "source"})
    if unknown:
        raise RecipeError(f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(known)}.")
    return kind(**data)


def _check(recipe: Recipe) -> None:
    def require(ok: bool, sentence: str) -> None:
        if not ok:
            raise RecipeError(f"{recipe.source}: {sentence}")

    def number(value: object, low: float, high: float) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < high

    def whole(value: object, low: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= low

    require(bool(recipe.steps), "give at least one step.")
    for name in ("name", "description", "data"):
        require(isinstance(getattr(recipe, name), str) and bool(getattr(recipe, name)), f"{name} must be a text.")
    for name in ("teacher", "init"):
        value = getattr(recipe, name)
        require(value is None or (isinstance(value, str) and bool(value)), f"{name} must name a checkpoint or be null.")
    require(isinstance(recipe.model, dict) and "variant" in recipe.model, "model needs a variant, e.g. bcdnet_a.")
    require(whole(recipe.batch_size, 2), "batch_size must be a whole number of at least 2.")
    require(whole(recipe.seed, 0), "seed must be a whole number that is not negative.")
    require(number(recipe.label_smoothing, 0, 1), "label_smoothing must be a number from 0 up to 1.")
    for name in ("flip", "compile"):
        require(isinstance(getattr(recipe, name), bool), f"{name} must be true or false.")
    for step in recipe.steps:
        require(whole(step.epochs, 1), "epochs must be a positive whole number.")
        require(number(step.lr, 1e-12, 10), "lr must be a positive number below 10, e.g. 1.0e-3.")
        require(number(step.warmup, 0, 1), "warmup is a share of the iterations, from 0 up to 1.")
        require(number(step.weight_decay, 0, 10), "weight_decay must be a number from 0 up to 10.")
        for name in ("id", "title"):
            value = getattr(step, name)
            require(value is None or isinstance(value, str), f"{name} must be a text.")
        try:
            recipe.config(step)
        except ConfigError as error:
            raise RecipeError(f"{recipe.source}: {error}") from error
