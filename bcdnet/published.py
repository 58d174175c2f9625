"""Import of the published checkpoints: pickled files (``.pth``, ``.pth.tar``) under names of their own.

The names are a table from our key to the published one, or to two of them: where the channels double, the published
networks run two convolutions with a batch norm each and concatenate their outputs, which equals our one convolution
with twice the filters.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcdnet.checkpoint import CheckpointError, check_file, check_finite, listing
from bcdnet.data.transforms import IMAGENET
from bcdnet.model import Network, UnitPlan, plan_units
from bcdnet.variants import Config, ConfigError, get_config

MAX_BYTES = 2**32
#: Training steps by precision.
STEPS = {"32/1": 1, "1/1": 2}

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Report:
    """What an import found: our keys that were loaded, published names that were missing or left over."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class KeyMismatch(CheckpointError):
    """A file whose names are not those of the variant; ``report`` lists every one."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class PublishedTensor:
    """Name, without the prefix ``module.``, and shape of one tensor of a published file."""

    name: str
    shape: tuple[int, ...]


def published_names(config: Config, step: int) -> dict[str, tuple[PublishedTensor, ...]]:
    """The published tensors behind each key of our state dict.

    Several tensors are concatenated along the first axis, after each took the shape of its share of ours; of counters,
    which are scalars, the first one is taken.

    Args:
        config: a row derived from ``reactnet_a``, ``bcdnet_a`` or ``reactnet_18``.
        step: training step, 1 (32/1) or 2 (1/1): ReActNet-A's second step stores flattened weights.

    Raises:
        ConfigError: there are no published names for such a network.
    """
    named = {"reactnet_a": _mobile_names, "bcdnet_a": _mobile_names, "reactnet_18": _resnet_names}
    if config.name not in named or config.embedding_ratio or config.doubling_groups or config.branches != "PSL":
        raise ConfigError(f"published names are known for {', '.join(named)} only, not for this {config.name}.")
    names = dict(named[config.name](config))
    for head in ("fc", "fc_dist")[: config.heads]:
        names |= _each(("weight", "bias"), head, [head])
    flattened = config.name == "reactnet_a" and step == 2
    return {
        key: tuple(_published(name, shape, len(names[key]), flattened) for name in names[key])
        for key, shape in _shapes(config).items()
    }


def import_published(
    src: str | Path, variant: str, precision: str = "1/1", max_bytes: int = MAX_BYTES, **overrides: Any
) -> tuple[Network, Report]:
    """Read a published checkpoint into one of our networks, strictly: every name must be there, and no other.

    The file is read with ``weights_only=True``, so that no code in it runs. Its tensors lie under ``model`` or
    ``state_dict``, or at the top; the prefix ``module.`` is optional.

    Args:
        src: ``.pth`` or ``.pth.tar`` file.
        variant: "reactnet_a", "bcdnet_a" or "reactnet_18".
        precision: "32/1" for training step 1, "1/1" for step 2.
        max_bytes: larger files are refused.
        **overrides: fields of :class:`bcdnet.Config` to change, such as ``num_classes``.

    Returns:
        The network in eval mode, and the report of a complete import.

    Raises:
        KeyMismatch: names are missing or left over.
        CheckpointError: the file is missing, damaged, holds code, or tensors that are misshapen or not finite.
        ConfigError: unknown variant, one without published names, or another precision.
    """
    if precision not in STEPS:
        raise ConfigError(f"published checkpoints have the precision {' or '.join(STEPS)}, not {precision!r}.")
    config = get_config(variant, precision=precision, **overrides)
    names = published_names(config, STEPS[precision])
    path = check_file(src, max_bytes)
    found = _read_tensors(path)

    wanted = {part.name for parts in names.values() for part in parts}
    loaded = tuple(key for key, parts in names.items() if all(part.name in found for part in parts))
    report = Report(loaded, tuple(sorted(wanted - set(found))), tuple(sorted(set(found) - wanted)))
    if report.missing or report.unexpected:
        problems = [f"lacks {listing(list(report.missing))}"] if report.missing else []
        problems += [f"holds {listing(list(report.unexpected))}, unknown there"] if report.unexpected else []
        raise KeyMismatch(f"{path.name} is no {variant} at {precision}: it {' and '.join(problems)}.", report)
    for key, parts in names.items():
        for part in parts:
            _check_tensor(found[part.name], part, real=not key.endswith("num_batches_tracked"), file=path.name)
    check_finite(found, path.name)

    with torch.device("meta"):
        network = Network(config)
    ours = {key: _join([found[part.name] for part in names[key]], like) for key, like in network.state_dict().items()}
    network.load_state_dict(ours, strict=True, assign=True)
    network.card = {
        "title": f"{variant}, published, {precision}",
        "description": f"Imported from {path.name}, a file with the published names.",
        "preprocess": IMAGENET.to_dict(),
    }
    return network.eval(), report


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in Network(config).state_dict().items()}


def _published(name: str, shape: tuple[int, ...], parts: int, flattened: bool) -> PublishedTensor:
    share = (shape[0] // parts, *shape[1:]) if shape else shape
    leaf = name.split(".")[-2]
    if flattened and leaf.startswith("binary"):
        return PublishedTensor(f"{name}s", (math.prod(share), 1))
    return PublishedTensor(name, (1, *share, 1, 1) if leaf.startswith("move") else share)


def _mobile_names(config: Config) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "stem.conv.weight", ("feature.0.conv1.weight",)
    yield from _each(_BATCH_NORM, "stem.bn", ["feature.0.bn1"]).items()
    for plan in plan_units(config):
        place, k = plan.name.split("_")
        if place.startswith("mlp"):
            index = config.mlps_per_conv if k == "point" else int(k) - 1
            theirs = f"mlp_layer.{int(place.removeprefix('mlp')) - 1}.mlp_layer.{index}"
            yield from _unit(plan, theirs)
            continue
        theirs = f"feature.{place.removeprefix('conv')}"
        if plan.kernel == 3:
            yield from _unit(plan, theirs, ["binary_3x3"], ["bn1"], ["move11", "move12", "prelu1", "move13"])
        elif plan.outputs == plan.inputs:
            yield from _unit(plan, theirs, ["binary_pw"], ["bn2"], ["move21", "move22", "prelu2", "move23"])
        else:
            halves = ["binary_pw_down1", "binary_pw_down2"]
            yield from _unit(plan, theirs, halves, ["bn2_1", "bn2_2"], ["move21", "move22", "prelu2", "move23"])


def _resnet_names(config: Config) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "stem.conv.weight", ("conv1.weight",)
    yield from _each(_BATCH_NORM, "stem.bn", ["bn1"]).items()
    for plan in plan_units(config):
        stage, unit = plan.name.removeprefix("stage").split("_unit")
        theirs = f"layer{stage}.{int(unit) - 1}"
        yield from _unit(plan, theirs)
        if plan.outputs != plan.inputs:
            yield f"units.{plan.name}.shortcut.1.weight", (f"{theirs}.downsample.1.weight",)
            yield from _each(_BATCH_NORM, f"units.{plan.name}.shortcut.2", [f"{theirs}.downsample.2"]).items()


def _unit(
    plan: UnitPlan,
    theirs: str,
    convs: Sequence[str] = ("binary_conv",),
    norms: Sequence[str] = ("bn1",),
    activation: Sequence[str] = ("move0", "move1", "prelu", "move2"),
) -> Iterator[tuple[str, tuple[str, ...]]]:
    ours, (shift, shift_in, slope, shift_out) = f"units.{plan.name}", activation
    yield f"{ours}.sign.bias", (f"{theirs}.{shift}.bias",)
    if plan.kind == "mlp":
        for branch, conv in enumerate(("binary_conv", "binary_conv1", "binary_conv2")):  # P, S, L
            yield f"{ours}.op.branches.{branch}.weight", (f"{theirs}.{conv}.weight",)
    else:
        yield f"{ours}.op.weight", tuple(f"{theirs}.{conv}.weight" for conv in convs)
    yield from _each(_BATCH_NORM, f"{ours}.bn", [f"{theirs}.{norm}" for norm in norms]).items()
    yield f"{ours}.act.shift_in", (f"{theirs}.{shift_in}.bias",)
    yield f"{ours}.act.slope", (f"{theirs}.{slope}.weight",)
    yield f"{ours}.act.shift_out", (f"{theirs}.{shift_out}.bias",)


def _each(parts: Sequence[str], ours: str, theirs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {f"{ours}.{part}": tuple(f"{name}.{part}" for name in theirs) for part in parts}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged data the reader raises almost anything: KeyError, EOFError ...
        if re.search("Unsupported (global|class)", str(error)):
            reason = "it holds code or objects beside its tensors, and those are never loaded"
        else:
            reason = "it is not one that torch.save wrote, or it is cut off or damaged"
        raise CheckpointError(f"{path.name} cannot be imported: {reason}.") from error
    for place in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(place), dict):
            content = content[place]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path.name} holds no table of tensors, neither under model nor under state_dict.")
    return {str(key).removeprefix("module."): tensor.detach() for key, tensor in content.items()}


def _check_tensor(tensor: Tensor, expected: PublishedTensor, real: bool, file: str) -> None:
    if tuple(tensor.shape) != expected.shape:
        have = tuple(tensor.shape)
        raise CheckpointError(f"{file} holds {expected.name} in the shape {have}; the network needs {expected.shape}.")
    if tensor.layout != torch.strided or tensor.is_floating_point() != real:
        kind = "real" if real else "whole"
        raise CheckpointError(f"{file} holds {expected.name} as {tensor.dtype}; the network needs {kind} numbers.")


def _join(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    if not like.ndim:
        return parts[0].to(like.dtype)
    return torch.cat([part.reshape(-1, *like.shape[1:]) for part in parts]).to(like.dtype)
