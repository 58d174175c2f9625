"""The packed engine: a trained 1/1 network as bits and a few folded real numbers, run by the XNOR kernels.

Folding, in double precision: each batch norm, weight scale and first shift of RPReLU become one scale and one bias per
channel; the two heads become one; RSign becomes a threshold. What is left of a unit is specified in
:mod:`bcdnet.kernels.reference`.

Packed file: safetensors with ``format`` "bcdnet-packed", ``version`` "1", ``config`` and ``card`` in the metadata.
Tensors: ``stem.weight`` (O, C, k, k), ``stem.scale``, ``stem.bias``; ``head.weight``, ``head.bias``; and of each unit
(see :func:`layout`) ``NAME.weight``, its bits, 8 input channels a byte. Real numbers are float32, but the matrices of
the context embeddings float16: an engine rounds them when it is packed, so that it is the same before and after.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bcdnet import kernels
from bcdnet.binarize import weight_scale
from bcdnet.checkpoint import (
    MAX_BYTES,
    check_finite,
    check_layout,
    describe,
    open_file,
    require_same_keys,
    skeleton,
    write_file,
)
from bcdnet.layers import BinaryConv2d, BinaryMLP, MixerBlock, Repeat, ResidualUnit
from bcdnet.model import InputError, Network, map_sizes, plan_units
from bcdnet.variants import MAX_SIDE, Config

FORMAT = "bcdnet-packed"
VERSION = "1"
HALF = ("reduce", "dynamic", "offset")
#: Values that the largest map of one image may hold: 1 GiB of float32.
MAX_MAP = 2**28


class PackError(ValueError):
    """A network that the packed engine cannot run; the message is one sentence that says why."""


@dataclass(frozen=True)
class LayerTrace:
    """What one layer saw and gave, for one image.

    Attributes:
        name: "stem", the name of a residual unit, or "head".
        seconds: time it took.
        output: float32 (C, H, W); None for the head, or if values were not asked for.
        bits: uint8 (C_in, H_in, W_in), 1 for +1: the binarized input; None where the layer is real.
        thresholds: float32 (C_in,): a bit is 1 where the input is at least this; with context embeddings they are those
            of this image.
    """

    name: str
    seconds: float
    output: Tensor | None = None
    bits: Tensor | None = None
    thresholds: Tensor | None = None


class Engine:
    """A packed network, as :func:`pack` and :func:`load_engine` make it.

    It runs on the instruction set that was in force when it was made. Its memory is planned once for a size of image
    and kept; it may be called from any number of threads at once, and then keeps as much for each.

    Attributes:
        config, card: of the network it was packed from.
        isa: what computes, see :func:`bcdnet.kernels.isas`.
        threads: how many cores one call uses.
    """

    def __init__(
        self, config: Config, card: Mapping[str, Any], tensors: Mapping[str, Tensor], threads: int | None = None
    ) -> None:
        self.config, self.card = config, dict(card)
        self.isa = kernels.active()
        self.threads = kernels.check_threads(kernels.cores() if threads is None else threads)
        self._tensors = dict(tensors)
        try:
            self._plan = build_plan(kernels.plan(self.threads), config, tensors)
        except MemoryError as error:
            raise PackError("the packed network needs more memory than there is.") from error
        # Values a token of each map holds; before it is pooled, the stem's map is four times as large.
        stem = config.scaled(config.stem_channels) * (4 if config.stem_pool else 1)
        self._accepted: set[tuple[int, int]] = set()
        values = {"stem": stem} | {unit.name: unit.outputs for unit in plan_units(config)}
        # The kernels pad channels to whole blocks.
        self._values = {name: -(-channels // 64) * 64 for name, channels in values.items()}

    def __repr__(self) -> str:
        return f"<packed {self.config.name} on {self.isa}, threads: {self.threads}>"

    def __call__(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised, any size that the strides allow -> logits (N, num_classes), float32.

        Raises:
            InputError: another shape or type, or a value that is not finite.
        """
        images = self._checked(x)
        try:
            logits = np.empty((len(images), self.config.num_classes), np.float32)
            finite = not len(images) or self._plan.run(images, logits)
        except MemoryError as error:
            raise InputError(_too_large(images)) from error
        if not finite:
            raise InputError("the image holds values that are not finite.")
        return torch.from_numpy(logits)

    def trace(self, x: Tensor, values: bool = True) -> list[LayerTrace]:
        """What every layer computes for one image (1, C, H, W), in order; times only if ``values`` is False.

        Raises:
            InputError: as for a call, or more than one image.
        """
        image = self._checked(x)
        if len(image) != 1:
            raise InputError(f"a trace takes one image, not {len(image)}.")
        if not np.isfinite(image).all():
            raise InputError("the image holds values that are not finite.")
        try:
            rows = self._plan.trace(image, values)
        except MemoryError as error:
            raise InputError(_too_large(image)) from error
        as_tensor = lambda array: None if array is None else torch.from_numpy(array)  # noqa: E731
        return [LayerTrace(name, seconds, *map(as_tensor, arrays)) for name, seconds, *arrays in rows]

    def save(self, path: str | Path) -> None:
        """Write the packed file, whole or not at all; CheckpointError if it cannot be written."""
        write_file(Path(path), self._tensors, FORMAT, VERSION, self.config, self.card)

    def parameters(self) -> dict[str, Tensor]:
        """The tensors of the packed file, by name."""
        return dict(self._tensors)

    @property
    def binary_params(self) -> int:
        """Weights of one bit."""
        return sum(_bits_held(unit) for unit in _units(self.config))

    @property
    def real_params(self) -> int:
        """Numbers of 16 or 32 bits."""
        return sum(t.numel() for t in self._tensors.values() if t.is_floating_point())

    def _checked(self, x: Tensor) -> np.ndarray:
        channels = self.config.in_channels
        if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != channels or x.dtype != torch.float32:
            found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"the engine takes float32 images of shape (N, {channels}, H, W), not {found}.")
        size = (x.shape[2], x.shape[3])
        if size not in self._accepted:
            self._check_size(size)
            self._accepted.add(size)
        try:
            return x.detach().cpu().resolve_conj().resolve_neg().contiguous().numpy()
        except (RuntimeError, TypeError) as error:  # no memory, or a tensor without values, such as a sparse one
            raise InputError(f"the images {tuple(x.shape)} cannot be read as one block of memory.") from error

    def _check_size(self, size: tuple[int, int]) -> None:
        """Raise InputError unless images of ``size`` (height, width) in pixels can be taken."""
        sizes = map_sizes(self.config, size)
        if 0 in size:
            raise InputError(f"an image of {size[0]}x{size[1]} pixels is empty.")
        largest = max(height * width * self._values[name] for name, (height, width) in sizes.items())
        # The stem reads the image between margins of at most its kernel.
        margin = self._tensors["stem.weight"].shape[-1]
        largest = max(largest, self.config.in_channels * (size[0] + margin) * (size[1] + margin))
        if max(size) > MAX_SIDE or largest > MAX_MAP:
            raise InputError(
                f"an image of {size[0]}x{size[1]} pixels is too large for the engine, which takes sides of up to "
                f"{MAX_SIDE:,} pixels and maps of up to {MAX_MAP:,} values, not {largest:,}."
            )


def _too_large(images: np.ndarray) -> str:
    return f"images of shape {images.shape} need more memory than there is; use fewer or smaller ones."


def pack(model: Network, threads: int | None = None) -> Engine:
    """Turn a trained 1/1 network into an engine; the network is left as it is.

    Args:
        model: any variant but those with token mixing (the pilot study's).
        threads: cores one call uses; all of them if None.

    Raises:
        PackError: the network is not 1/1, or mixes tokens.
        CheckpointError: a weight is not finite.
    """
    tensors = {name: _stored(name, tensor) for name, tensor in fold(model).items()}
    check_finite(tensors, "the packed network")
    return Engine(model.config, model.card, tensors, threads)


def load_engine(path: str | Path, threads: int | None = None, max_bytes: int = MAX_BYTES) -> Engine:
    """Read a packed file.

    Raises:
        CheckpointError: the file is missing, larger than ``max_bytes``, damaged, not a packed one, of another version,
            or its tensors are not exactly those of the network it describes.
        PackError: it describes a network that the engine cannot run.
    """
    name = Path(path).name
    with open_file(path, max_bytes) as file:
        config, card = describe(file, name, FORMAT, VERSION, "a packed network")
        expected = layout(skeleton(config, len(file.keys()), name))
        require_same_keys(expected, file.keys(), name)
        check_layout(file, expected, name)
        tensors = {key: file.get_tensor(key).clone() for key in expected}
    check_finite(tensors, name)
    return Engine(config, card, tensors, threads)


def is_packed(path: str | Path, max_bytes: int = MAX_BYTES) -> bool:
    """Whether a file says that it is a packed network; CheckpointError if it is no safetensors file at all."""
    with open_file(path, max_bytes) as file:
        return (file.metadata() or {}).get("format") == FORMAT


@dataclass(frozen=True)
class PackedUnit:
    """The shape of one fused unit.

    ``branches`` is empty for a convolution, ``groups`` 0 where the weights are bits, ``context`` 0 without an
    embedding; the shortcut is averaged over 2x2 at stride 2, then repeated, or sent through a real 1x1 convolution if
    ``projected``.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    branches: str = ""
    distance: int = 0
    groups: int = 0
    repeat: int = 1
    projected: bool = False
    context: int = 0


def describe_units(model: Network) -> list[PackedUnit]:
    """The fused units of a network, in order; PackError if the engine cannot run it."""
    if model.config.precision != "1/1":
        raise PackError(
            f"only 1/1 networks can be packed, and this one is {model.config.precision}; use the float engine."
        )
    if any(isinstance(module, MixerBlock) for module in model.modules()):
        raise PackError("the packed engine does not mix tokens; use the float engine for MLP-Mixers.")
    return [_describe_unit(name, unit) for name, unit in model.residual_units()]


def _describe_unit(name: str, unit: ResidualUnit) -> PackedUnit:
    fields: dict[str, Any] = {}
    op = unit.op
    if isinstance(op, BinaryMLP):
        distance = 0 if op.long_range == "half" else int(op.long_range)
        first = op.branches[0]
        assert isinstance(first, BinaryConv2d)
        inputs, outputs = first.in_channels, first.out_channels
        fields |= {"branches": op.kinds, "distance": distance}
    elif isinstance(op, BinaryConv2d):
        inputs, outputs = op.in_channels, op.out_channels
        fields |= {"kernel": op.kernel_size, "stride": op.stride}
    else:
        assert isinstance(op, nn.Conv2d)
        inputs, outputs = op.in_channels, op.out_channels
        fields |= {"groups": op.groups}
    for module in unit.shortcut.modules():
        if isinstance(module, Repeat):
            fields["repeat"] = module.times
        elif isinstance(module, nn.Conv2d):
            fields["projected"] = True
    if unit.embedding is not None:
        fields["context"] = unit.embedding.reduce.out_features
    return PackedUnit(name, inputs, outputs, **fields)


def _bits_held(unit: PackedUnit) -> int:
    return 0 if unit.groups else max(1, len(unit.branches)) * unit.kernel**2 * unit.inputs * unit.outputs


def layout(model: Network) -> dict[str, Tensor]:
    """Name, type and shape (on the meta device) of every tensor in the packed file of a network."""
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    conv = model.stem.conv
    assert isinstance(conv, nn.Conv2d)
    real, half = torch.float32, torch.float16
    stem = (conv.out_channels,)
    shapes["stem.weight"] = (tuple(conv.weight.shape), real)
    shapes |= {"stem.scale": (stem, real), "stem.bias": (stem, real)}
    for unit in describe_units(model):
        c, o, context, terms = unit.inputs, unit.outputs, unit.context, max(1, len(unit.branches))
        own: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"scale": ((terms, o), real)}
        own |= dict.fromkeys(("bias", "slope", "shift"), ((o,), real))
        if unit.groups:
            own["real_weight"] = ((o, c // unit.groups), real)
        else:
            bits = (terms, o, -(-c // 8)) if unit.branches else (o, unit.kernel**2, -(-c // 8))
            own |= {"weight": (bits, torch.uint8), "threshold": ((c,), real)}
        if unit.projected:
            own |= {"shortcut_weight": ((o, c), real), "shortcut_scale": ((o,), real), "shortcut_bias": ((o,), real)}
        if context:
            own |= {"reduce": ((context, c), half), "dynamic": ((c, context), half), "offset": ((o, context), half)}
            own |= {"reduce_bias": ((context,), real), "dynamic_bias": ((c,), real), "offset_bias": ((o,), real)}
            own["gain"] = ((o,), real)
        shapes |= {f"{unit.name}.{key}": value for key, value in own.items()}
    shapes["head.weight"] = ((model.config.num_classes, model.fc.in_features), real)
    shapes["head.bias"] = ((model.config.num_classes,), real)
    return {key: torch.empty(shape, dtype=dtype, device="meta") for key, (shape, dtype) in shapes.items()}


def fold(model: Network) -> dict[str, Tensor]:
    """The tensors of the packed file in double precision; only the matrices of embeddings are rounded, to float16."""
    shapes = describe_units(model)
    tensors: dict[str, Tensor] = {}
    with torch.no_grad():
        conv, bn = model.stem.conv, model.stem.bn
        assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
        scale, bias = _affine(bn)
        tensors |= {"stem.weight": conv.weight.double(), "stem.scale": scale, "stem.bias": bias}
        for shape, (name, unit) in zip(shapes, model.residual_units(), strict=True):
            tensors |= {f"{name}.{key}": value for key, value in _fold_unit(shape, unit).items()}
        heads = [model.fc] if model.fc_dist is None else [model.fc, model.fc_dist]
        tensors["head.weight"] = torch.stack([head.weight.double() for head in heads]).mean(0)
        tensors["head.bias"] = torch.stack([head.bias.double() for head in heads]).mean(0)
    return tensors


def _fold_unit(shape: PackedUnit, unit: ResidualUnit) -> dict[str, Tensor]:
    gain, bias = _affine(unit.bn)
    act = unit.act
    tensors = {
        "bias": bias + act.shift_in.double(),
        "slope": act.slope.double(),
        "shift": act.shift_out.double(),
    }
    op = unit.op
    if isinstance(op, nn.Conv2d):
        tensors |= {"scale": gain[None], "real_weight": op.weight.double().flatten(1)}
    else:
        convs = list(op.branches) if isinstance(op, BinaryMLP) else [op]
        weights = [conv.weight.double() for conv in convs if isinstance(conv, BinaryConv2d)]
        tensors["scale"] = torch.stack([weight_scale(w).flatten() * gain for w in weights])
        bits = [_bytes(w) for w in weights]  # each (O, taps, ceil(C/8))
        tensors["weight"] = torch.stack([b[:, 0] for b in bits]) if shape.branches else bits[0]
        assert unit.sign is not None
        tensors["threshold"] = -unit.sign.bias.double()
    if unit.embedding is not None:
        e = unit.embedding
        linears = {"reduce": e.reduce, "dynamic": e.threshold, "offset": e.offset}
        for key, linear in linears.items():
            tensors |= {key: linear.weight.half().double(), f"{key}_bias": linear.bias.double()}
        tensors["gain"] = gain
    for module in unit.shortcut.modules():
        if isinstance(module, nn.Conv2d):
            tensors["shortcut_weight"] = module.weight.double().flatten(1)
        elif isinstance(module, nn.BatchNorm2d):
            tensors["shortcut_scale"], tensors["shortcut_bias"] = _affine(module)
    return tensors


def _affine(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as a scale and a bias, in double precision."""
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    return scale, bn.bias.double() - bn.running_mean.double() * scale


def _bytes(weight: Tensor) -> Tensor:
    """Signs of (O, C, k, k) weights -> uint8 (O, taps, ceil(C/8)), 8 channels a byte."""
    signs = (weight >= 0).flatten(2).transpose(1, 2)  # (O, taps, C)
    return torch.from_numpy(np.packbits(signs.numpy(), axis=-1, bitorder="little"))


def _stored(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.half() if name.rpartition(".")[2] in HALF else tensor.float()


def build_plan(plan: Any, config: Config, tensors: Mapping[str, Tensor]) -> Any:
    """Give an empty plan (:func:`bcdnet.kernels.plan`) the network's stem, units and head; returns it."""
    own: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        # Half precision is for the file; every value of it is exact in float32.
        own.setdefault(name, {})[part] = (tensor.float() if tensor.dtype == torch.float16 else tensor).numpy()
    plan.set_stem(**own["stem"], stride=config.stem_stride, pooled=config.stem_pool)
    for unit in _units(config):
        parameters = own[unit.name]
        if unit.branches:
            parameters |= {"branches": unit.branches, "distance": unit.distance}
        if unit.groups:
            parameters["groups"] = unit.groups
        plan.add_unit(
            unit.name, unit.inputs, unit.outputs, unit.kernel, unit.stride, parameters | {"repeat": unit.repeat}
        )
    plan.set_head(**own["head"])
    return plan


@functools.lru_cache(maxsize=64)
def _units(config: Config) -> tuple[PackedUnit, ...]:
    with torch.device("meta"):
        return tuple(describe_units(Network(config)))
