"""Where a token comes from: its paths back through every layer to the image, each weighed by the weights it passes.

A network whose every weight is replaced by its magnitude and whose every sign, threshold and activation is left out is
linear, and the derivative of a token by the values of an earlier map is the sum over all paths between them of the
products of the magnitudes on each path. That is a property of the weights alone, no picture is needed: it says how much
*could* be passed on, not what is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.sampling import Size, branch_labels, check_location, stays_inside
from bcdnet.evaluate import evaluating
from bcdnet.layers import BinaryConv2d, BinaryMLP, MixerBlock, ResidualUnit, branch_offsets, sample_tokens
from bcdnet.model import Network, map_sizes

#: What the pixels are called beside the layers.
IMAGE = "image"


@dataclass(frozen=True)
class Trace:
    """A token's paths, followed back.

    Attributes:
        layer, row, col: the token.
        branch: the branch that the first step was narrowed to; None for all of them and the shortcut.
        maps: layer -> (H, W), from ``layer`` itself back to "stem" and :data:`IMAGE`: each token's share of the weight
            of all paths that reach it; sums to 1.
        wrapped: the part of ``maps`` whose paths go round a border at least once.
    """

    layer: str
    row: int
    col: int
    branch: str | None
    maps: dict[str, NDArray[np.float64]]
    wrapped: dict[str, NDArray[np.float64]]

    def table(self) -> pd.DataFrame:
        """Layer by layer: how far the paths have spread.

        Returns:
            Columns ``layer``; ``tokens`` reached and their ``share`` of the map; ``effective``, the number of tokens
            that evenly spread paths would reach, ``exp`` of their entropy; ``wrapped``, weight share of the paths
            that go round a border.
        """
        rows = []
        for layer, weights in self.maps.items():
            reached = weights[weights > 0]
            rows.append(
                {
                    "layer": layer,
                    "tokens": len(reached),
                    "share": len(reached) / weights.size,
                    "effective": float(np.exp(-(reached * np.log(reached)).sum())),
                    "wrapped": float(self.wrapped[layer].sum()),
                }
            )
        return pd.DataFrame(rows)


def trace(
    model: Network, layer: str, row: int, col: int, branch: str | None = None, image_size: Size | None = None
) -> Trace:
    """Follow an output token of a layer back through all layers before it.

    Of a unit ``RPReLU(shortcut(x) + BN(op(RSign(x))))`` the paths take the shortcut, with its own weights, and ``op``,
    with ``|gamma| / sqrt(var + eps)`` times its ``|effective weight|``; channels stay apart on the way and are summed
    for the maps. The means of a context embedding (Eq. 16), which read every token a little, are left out.

    Args:
        model: any network of the library; run in eval mode, left in its own.
        layer: "stem" or an entry of ``model.units``.
        row, col: token of its output map.
        branch: one of the layer's :func:`analysis.sampling.branch_labels`, or "shortcut", to take in the first step.
        image_size: (height, width) in pixels; the configuration's own if None.

    Raises:
        ValueError: no such layer, location or branch.
        InputError: the strides do not allow this image size.
    """
    size = image_size or model.config.image_size
    sizes = map_sizes(model.config, size)
    if layer not in sizes:
        raise ValueError(f"the network has no layer {layer!r}; its layers are {', '.join(sizes)}.")
    check_location(layer, row, col, sizes[layer])
    block = dict(model.units.named_children()).get(layer)
    known = (*branch_labels(block.op), "shortcut") if isinstance(block, ResidualUnit) else ()
    if branch is not None and branch not in known:
        has = f"it has {', '.join(known)}" if known else "it has no branches to follow on their own"
        raise ValueError(f"layer {layer} has no branch {branch!r}: {has}.")
    with evaluating(model):
        whole = _paths(model, layer, row, col, branch, size, wrap=True)
        plain = _paths(model, layer, row, col, branch, size, wrap=False)
    weights = {name: map.sum() for name, map in whole.items()}
    # Differences of nearly equal sums may be a rounding below 0.
    wrapped = {name: np.maximum(map - plain[name], 0) / weights[name] for name, map in whole.items()}
    maps = {name: map / weights[name] for name, map in whole.items()}
    return Trace(layer, row, col, branch, maps, wrapped)


def _paths(
    model: Network, layer: str, row: int, col: int, branch: str | None, size: Size, wrap: bool
) -> dict[str, NDArray[np.float64]]:
    """Weight of all paths from each token of each map to one token, (H, W) each, from the layer to the image."""
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros(1, model.config.in_channels, *size, dtype=torch.float64, requires_grad=True)
        maps = {IMAGE: x}
        x = _chain(model.stem, x)
        maps["stem"] = x
        if layer != "stem":
            for name, block in model.units.named_children():
                x = _block(block, x, branch if name == layer else None, wrap)
                maps[name] = x
                if name == layer:
                    break
        names = [name for name in reversed(maps) if name != layer]
        gradients = torch.autograd.grad(x[0, :, row, col].sum(), [maps[name] for name in names], allow_unused=True)
    start = np.zeros(x.shape[2:])
    start[row, col] = 1.0
    found = {layer: start}
    for name, gradient in zip(names, gradients, strict=True):
        found[name] = np.zeros(maps[name].shape[2:]) if gradient is None else gradient[0].sum(0).cpu().numpy()
    return found


def _block(block: nn.Module, x: Tensor, branch: str | None, wrap: bool) -> Tensor:
    """The magnitudes of an entry of ``model.units`` at work."""
    if isinstance(block, MixerBlock):
        mixed = x.flatten(2).transpose(1, 2).unsqueeze(-1)  # (N, C, H, W) -> (N, H*W, C, 1)
        mixed = _unit(block.token_down, _unit(block.token_up, mixed))
        x = mixed.squeeze(-1).transpose(1, 2).reshape(x.shape)
        return _unit(block.channel_down, _unit(block.channel_up, x))
    assert isinstance(block, ResidualUnit)
    return _unit(block, x, branch, wrap)


def _unit(unit: ResidualUnit, x: Tensor, branch: str | None = None, wrap: bool = True) -> Tensor:
    parts = []
    if branch in (None, "shortcut"):
        parts.append(_chain(unit.shortcut, x))
    if isinstance(unit.op, BinaryMLP):
        height, width = x.shape[-2:]
        for label, kind, product in zip(branch_labels(unit.op), unit.op.kinds, unit.op.branches, strict=True):
            if branch in (None, label):
                tokens = sample_tokens(x, kind, unit.op.long_range)
                if not wrap:
                    inside = torch.from_numpy(stays_inside(kind, height, width, unit.op.long_range))
                    tokens = tokens * inside.repeat_interleave(x.shape[1] // 4, 0)
                parts.append(_chain(unit.bn, _chain(product, tokens)))
    elif branch in (None, "conv"):
        parts.append(_chain(unit.bn, _chain(unit.op, x)))
    return torch.stack(parts).sum(0)


def _chain(module: nn.Module, x: Tensor) -> Tensor:
    """A module without its offsets and with its weights' magnitudes; pools and the like as they are."""
    if isinstance(module, nn.Sequential):
        for part in module:
            x = _chain(part, x)
        return x
    if isinstance(module, nn.Conv2d | BinaryConv2d):
        weight = module.effective_weight() if isinstance(module, BinaryConv2d) else module.weight
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        return F.conv2d(x, weight.detach().abs().double(), None, module.stride, module.padding, groups=groups)
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_var is not None
        scale = module.weight.detach().double().abs() / (module.running_var.double() + module.eps).sqrt()
        return x * scale[:, None, None]
    if any(True for _ in module.parameters()):
        raise TypeError(f"the paths through a {type(module).__name__} are not known.")
    if isinstance(module, nn.MaxPool2d):  # any token of the window can be the largest
        assert isinstance(module.kernel_size, int)
        window = torch.ones(x.shape[1], 1, module.kernel_size, module.kernel_size, dtype=x.dtype)
        return F.conv2d(x, window, None, module.stride, module.padding, groups=x.shape[1])
    found: Tensor = module(x)
    return found


# -- how a token is rebuilt -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reconstruction:
    """The shifts that rebuild the tokens of one branch (paper, Eq. 11-13 and Fig. 3), one step at a time.

    Attributes:
        layer, branch: which one.
        offsets: where each channel quarter comes from, (row, column) in tokens.
        frames: (steps, 4, H, W): mean of the bits of each quarter, +1 or -1, on its way; the first frame holds the map
            as it came in, the last what the branch multiplies.
    """

    layer: str
    branch: str
    offsets: tuple[Size, ...]
    frames: NDArray[np.float64]


def reconstruction(model: Network, x: Tensor, layer: str, branch: str) -> Reconstruction:
    """What a picture's bits do when a branch rebuilds its tokens, each quarter moving one token a step.

    Args:
        model: any network of the library; run in eval mode, left in its own.
        x: one normalised image (1, C, H, W).
        layer: a binary MLP.
        branch: one of its :func:`analysis.sampling.branch_labels`.

    Raises:
        ValueError: no such MLP or branch, or not exactly one image.
    """
    if len(x) != 1:
        raise ValueError(f"give one image of shape (1, C, H, W), not {tuple(x.shape)}.")
    ops: Mapping[str, BinaryMLP] = {
        name: unit.op for name, unit in model.residual_units() if isinstance(unit.op, BinaryMLP)
    }
    if layer not in ops:
        raise ValueError(f"{layer!r} is no binary MLP; those of this network are {', '.join(ops) or 'none'}.")
    op, labels = ops[layer], branch_labels(ops[layer])
    if branch not in labels:
        raise ValueError(f"layer {layer} has the branches {', '.join(labels)}, not {branch!r}.")
    seen: list[Tensor] = []
    handle = op.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        with evaluating(model), torch.no_grad():
            model(x.to(model.fc.weight))
    finally:
        handle.remove()
    bits = seen[0][0].double()  # (C, H, W)
    quarters = np.stack([quarter.mean(0).cpu().numpy() for quarter in bits.chunk(4)])
    kind = op.kinds[labels.index(branch)]
    offsets = tuple(branch_offsets(kind, quarters.shape[1], quarters.shape[2], op.long_range))
    steps = max(abs(d) for offset in offsets for d in offset)
    moves = list(zip(quarters, offsets, strict=True))
    frames = [
        [np.roll(quarter, (-_towards(di, step), -_towards(dj, step)), (0, 1)) for quarter, (di, dj) in moves]
        for step in range(steps + 1)
    ]
    return Reconstruction(layer, branch, offsets, np.asarray(frames))


def _towards(distance: int, step: int) -> int:
    """``step`` tokens on the way to ``distance``, and no further."""
    return int(np.sign(distance)) * min(step, abs(distance))
