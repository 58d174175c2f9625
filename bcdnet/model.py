"""One definition of every network: a real-valued stem, a stack of residual units, one or two linear heads."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bcdnet.layers import BinaryConv2d, BinaryMLP, MixerBlock, Repeat, ResidualUnit
from bcdnet.variants import Config, get_config


class InputError(ValueError):
    """An input the network cannot take; the message is one sentence that says what it can."""


class Network(nn.Module):
    """A network described by a :class:`Config`.

    ``model(x)`` takes float images (N, C, H, W), normalised, and returns logits (N, num_classes): with two heads,
    their mean. ``model.units`` maps readable names to residual units, in order.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        #: What came with the weights: class names, preprocessing, recipe, measured accuracy (see bcdnet.checkpoint).
        self.card: dict[str, Any] = {}
        self.stem = _stem(config)
        sizes = map_sizes(config)
        self.units = nn.Sequential(
            OrderedDict((plan.name, _build_unit(config, plan, sizes[plan.name])) for plan in plan_units(config))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        features = config.scaled(config.channels[-1])
        self.fc = nn.Linear(features, config.num_classes)
        self.fc_dist = nn.Linear(features, config.num_classes) if config.heads == 2 else None

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> pooled features (N, C_last)."""
        self.check_input(x)
        return self.pool(self.units(self.stem(x))).flatten(1)

    def head_logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of ``fc`` (labels) and of ``fc_dist`` (teacher; None with one head), each (N, num_classes)."""
        features = self.features(x)
        return self.fc(features), None if self.fc_dist is None else self.fc_dist(features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, num_classes)."""
        labels, distilled = self.head_logits(x)
        return labels if distilled is None else (labels + distilled) / 2

    def check_input(self, x: Tensor) -> None:
        """Raise InputError unless ``x`` is a (N, C, H, W) batch whose size the strides allow."""
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            want = f"(N, {self.config.in_channels}, H, W)"
            raise InputError(f"the network takes images of shape {want}, not {tuple(x.shape)}.")
        map_sizes(self.config, (x.shape[2], x.shape[3]))

    def round_embeddings(self) -> None:
        """Round the matrices of all context embeddings to half precision, so that packing loses nothing of them."""
        for _, unit in self.residual_units():
            if unit.embedding is not None:
                unit.embedding.round_matrices()

    def residual_units(self) -> Iterator[tuple[str, ResidualUnit]]:
        """(name, unit) of every residual unit in order; those of a Mixer block are named ``block.unit``."""
        for name, module in self.units.named_modules():
            if isinstance(module, ResidualUnit):
                yield name, module

    def binary_layers(self) -> Iterator[tuple[str, str | None, BinaryConv2d]]:
        """(unit, letter of the branch or None, layer) of every binary product, branches in order, at any precision."""
        for name, unit in self.residual_units():
            if isinstance(unit.op, BinaryMLP):
                for letter, branch in zip(unit.op.kinds, unit.op.branches, strict=True):
                    assert isinstance(branch, BinaryConv2d)
                    yield name, letter, branch
            elif isinstance(unit.op, BinaryConv2d):
                yield name, None, unit.op


def create_model(name: str, **overrides: Any) -> Network:
    """Build a network with fresh weights.

    Args:
        name: a row of the table of variants, see :func:`bcdnet.list_models`.
        **overrides: fields of :class:`bcdnet.Config` to change, e.g. ``width=0.5, num_classes=10, precision="32/1"``.

    Raises:
        ConfigError: unknown name or field, or a combination that describes no network.
    """
    return Network(get_config(name, **overrides))


@dataclass(frozen=True)
class UnitPlan:
    """One entry of ``Network.units`` before it is built.

    ``kind`` is "conv", "mlp" or "mixer"; ``stage`` is "mlp" from the first binary MLP of the mobile family on, else
    "conv": dynamic embeddings belong to the convolution stage.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    stage: str = "conv"


def plan_units(config: Config) -> list[UnitPlan]:
    """The units of a network in order, channels after the width multiplier."""
    plans = {"mobile": _plan_mobile, "resnet": _plan_resnet, "mixer": _plan_mixer}
    return list(plans[config.family](config))


def _plan_mobile(config: Config) -> Iterator[UnitPlan]:
    inputs, number = config.scaled(config.stem_channels), 0
    for channels, blocks, stride in zip(config.channels, config.conv_blocks(), config.strides, strict=True):
        outputs = config.scaled(channels)
        for block in range(blocks):
            number += 1
            yield UnitPlan(f"conv{number}_3x3", "conv", inputs, inputs, 3, stride if block == 0 else 1)
            yield UnitPlan(f"conv{number}_1x1", "conv", inputs, outputs)
            inputs = outputs
    for group in range(1, config.mlp_groups + 1):
        for k in range(1, config.mlps_per_conv + 1):
            yield UnitPlan(f"mlp{group}_{k}", "mlp", inputs, inputs, stage="mlp")
        yield UnitPlan(f"mlp{group}_point", "conv", inputs, inputs, stage="mlp")


def _plan_resnet(config: Config) -> Iterator[UnitPlan]:
    inputs = config.scaled(config.stem_channels)
    for stage, (channels, units, stride) in enumerate(
        zip(config.channels, config.blocks, config.strides, strict=True), start=1
    ):
        outputs = config.scaled(channels)
        for unit in range(1, units + 1):
            name, step = f"stage{stage}_unit{unit}", stride if unit == 1 else 1
            if stage in config.mlp_stages and step == 1 and inputs == outputs:
                for k in range(1, config.mlps_per_conv + 1):
                    yield UnitPlan(f"{name}_{config.replacement}{k}", config.replacement, inputs, inputs)
            else:
                yield UnitPlan(name, "conv", inputs, outputs, 3, step)
            inputs = outputs


def _plan_mixer(config: Config) -> Iterator[UnitPlan]:
    channels = config.scaled(config.stem_channels)
    for k in range(1, config.blocks[0] + 1):
        yield UnitPlan(f"mixer{k}", "mixer", channels, channels)


def map_sizes(config: Config, image_size: tuple[int, int] | None = None) -> dict[str, tuple[int, int]]:
    """(height, width) in tokens of the output of "stem" and of every entry of ``Network.units``.

    Args:
        config: the network.
        image_size: (height, width) in pixels; the configuration's own if None.

    Raises:
        InputError: a stride-2 unit would halve an odd map, or the size is not the one a Mixer's weights belong to.
    """
    image = config.image_size if image_size is None else (image_size[0], image_size[1])
    plans, stride = plan_units(config), config.stem_stride
    if image != config.image_size and any(plan.kind == "mixer" for plan in plans):
        raise InputError(
            f"token-mixing weights belong to one image size, here {_size(config.image_size)}; "
            f"resize the image, which is {_size(image)}, or create a model for it."
        )
    if config.family == "mixer" and (image[0] % stride or image[1] % stride):
        raise InputError(f"image sides must be multiples of the patch size {stride}; {_size(image)} is not.")
    size = (-(-image[0] // stride), -(-image[1] // stride))
    if config.stem_pool:
        size = (-(-size[0] // 2), -(-size[1] // 2))
    sizes = {"stem": size}
    for plan in plans:
        if plan.stride == 2:
            if size[0] % 2 or size[1] % 2:
                factor = stride * (1 + config.stem_pool) * math.prod(config.strides)
                raise InputError(
                    f"an image of {_size(image)} pixels gives unit {plan.name} an odd map of {_size(size)} tokens to "
                    f"halve; use sides that are multiples of {factor}."
                )
            size = (size[0] // 2, size[1] // 2)
        sizes[plan.name] = size
    return sizes


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _stem(config: Config) -> nn.Sequential:
    channels, stride = config.scaled(config.stem_channels), config.stem_stride
    kernel = {"mobile": 3, "resnet": 7, "mixer": stride}[config.family]
    padding = 0 if config.family == "mixer" else kernel // 2
    conv = nn.Conv2d(config.in_channels, channels, kernel, stride, padding, bias=False)
    layers = OrderedDict[str, nn.Module](conv=conv, bn=nn.BatchNorm2d(channels))
    if config.stem_pool:
        layers["pool"] = nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(layers)


def _build_unit(config: Config, plan: UnitPlan, size: tuple[int, int]) -> nn.Module:
    weights, activations = config.binary_weights, config.binary_activations
    if plan.kind == "mixer":
        return MixerBlock(plan.inputs, size[0] * size[1], config.mixer_ratio, weights, activations)
    widens = plan.outputs != plan.inputs
    op: nn.Module
    if plan.kind == "mlp":
        op = BinaryMLP(plan.inputs, plan.outputs, config.branches, config.long_range, weights)
    elif config.doubling_groups and widens and plan.kernel == 1:
        op = nn.Conv2d(plan.inputs, plan.outputs, 1, groups=config.doubling_groups, bias=False)
    else:
        op = BinaryConv2d(plan.inputs, plan.outputs, plan.kernel, plan.stride, weights)
    embedded = plan.kind == "conv" and plan.stage == "conv"
    return ResidualUnit(
        op,
        plan.inputs,
        plan.outputs,
        _shortcut(config, plan),
        activations,
        config.embedding_ratio if embedded else None,
    )


def _shortcut(config: Config, plan: UnitPlan) -> nn.Module | None:
    layers: list[nn.Module] = [nn.AvgPool2d(2, 2)] if plan.stride == 2 else []
    if plan.outputs != plan.inputs:
        if config.family == "resnet":
            layers += [nn.Conv2d(plan.inputs, plan.outputs, 1, bias=False), nn.BatchNorm2d(plan.outputs)]
        else:
            layers.append(Repeat(plan.outputs // plan.inputs))
    return nn.Sequential(*layers) if layers else None
