"""Which input pixels an output token can depend on (exact), and which it does depend on (effective).

The exact receptive field is a *set*: cyclic shifts wrap round the border, so on the torus it is not a box. It is
propagated backward through the units by index arithmetic; no forward pass, no weights.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.attribution import Progress, rank_correlation
from analysis.sampling import Size, branch_labels, check_location, stays_inside
from bcdnet.evaluate import evaluating
from bcdnet.layers import BinaryConv2d, BinaryMLP, MixerBlock, Repeat, ResidualUnit, branch_offsets
from bcdnet.model import Network, map_sizes

Mask = NDArray[np.bool_]

#: Branches of binary MLPs that read no other token: with them alone, only convolutions widen the field.
CONVOLUTIONS = "P"

#: Images in one pass through the network; ``progress`` is called after each.
CHUNK = 16


def exact_receptive_field(
    model: Network,
    layer: str,
    row: int,
    col: int,
    image_size: Size | None = None,
    wrap: bool = True,
    kinds: str | None = None,
) -> Mask:
    """The exact set of input pixels that can reach one output token of a layer.

    Exact for the architecture: with weights in general position a pixel outside cannot change the token and a pixel
    inside can. Where weights are zero (a context embedding that was never trained), less may be reached.

    Args:
        model: any network of the library.
        layer: "stem" or an entry of ``model.units``.
        row, col: token of the layer's output map.
        image_size: (height, width) in pixels; the configuration's own if None.
        wrap: False drops every path that goes round the border.
        kinds: which branches of binary MLPs to follow, letters as in the configuration, e.g. :data:`CONVOLUTIONS`;
            all if None.

    Returns:
        bool (H, W) over the pixels of the image.

    Raises:
        ValueError: no such layer or location.
        InputError: the strides do not allow this image size.
    """
    mask = _start(model, layer, row, col, image_size)
    return _to_pixels(model, layer, mask, image_size, wrap, kinds)


def branch_receptive_field(
    model: Network, layer: str, branch: str, row: int, col: int, image_size: Size | None = None, wrap: bool = True
) -> Mask:
    """The part of :func:`exact_receptive_field` that passes through one branch of this layer.

    Args:
        model, layer, row, col, image_size, wrap: as there, but ``layer`` is not the stem.
        branch: one of the layer's :func:`analysis.sampling.branch_labels`, or "shortcut". Below the layer every
            path counts.

    Raises:
        ValueError: no such layer, location or branch.
    """
    mask = _start(model, layer, row, col, image_size)
    block = dict(model.units.named_children()).get(layer)
    if not isinstance(block, ResidualUnit):
        raise ValueError(f"layer {layer} has no branches to follow on their own.")
    known = (*branch_labels(block.op), "shortcut")
    if branch not in known:
        raise ValueError(f"layer {layer} has the branches {', '.join(known)}, not {branch!r}.")
    return _to_pixels(model, layer, mask, image_size, wrap, None, branch)


def receptive_field_growth(model: Network, row: int, col: int, image_size: Size | None = None) -> pd.DataFrame:
    """How the exact receptive field grows from the stem to the last layer.

    Args:
        model: any network of the library.
        row, col: token of the last map; on larger maps, the token that lies over the middle of it.
        image_size: (height, width) in pixels; the configuration's own if None.

    Returns:
        One row per layer: ``layer``, ``row``, ``col`` (the token there), ``pixels`` in the set, ``share`` of the image,
        ``wrapped``: share of the set that is reached only round the border, ``box``: share of the image inside the
        smallest box round what is reached without wrapping, which is what box arithmetic would report, and
        ``convolutions``: share of the image that convolutions alone reach, see :data:`CONVOLUTIONS`.
    """
    sizes = map_sizes(model.config, image_size)
    *_, last = sizes.values()
    check_location(list(sizes)[-1], row, col, last)
    rows = []
    for layer, (height, width) in sizes.items():
        r, c = (2 * row + 1) * height // (2 * last[0]), (2 * col + 1) * width // (2 * last[1])
        field = exact_receptive_field(model, layer, r, c, image_size)
        plain = exact_receptive_field(model, layer, r, c, image_size, wrap=False)
        box = _hull(plain.max(1))[:, None] & _hull(plain.max(0))
        alone = exact_receptive_field(model, layer, r, c, image_size, kinds=CONVOLUTIONS)
        rows.append(
            {
                "layer": layer,
                "row": r,
                "col": c,
                "pixels": int(field.sum()),
                "share": field.mean(),
                "wrapped": (field & ~plain).sum() / field.sum(),
                "box": box.mean(),
                "convolutions": alone.mean(),
            }
        )
    return pd.DataFrame(rows)


def _hull(line: Mask) -> Mask:
    """True from the first to the last True."""
    return np.logical_or.accumulate(line) & np.logical_or.accumulate(line[::-1])[::-1]


def _map_size(model: Network, layer: str, image_size: Size | None) -> Size:
    sizes = map_sizes(model.config, image_size)
    if layer not in sizes:
        raise ValueError(f"the network has no layer {layer!r}; its layers are {', '.join(sizes)}.")
    return sizes[layer]


def _start(model: Network, layer: str, row: int, col: int, image_size: Size | None) -> Mask:
    size = _map_size(model, layer, image_size)
    check_location(layer, row, col, size)
    mask = np.zeros(size, bool)
    mask[row, col] = True
    return mask


def _to_pixels(
    model: Network,
    layer: str,
    mask: Mask,
    image_size: Size | None,
    wrap: bool,
    kinds: str | None = None,
    branch: str | None = None,
) -> Mask:
    """Carry a set of tokens of ``layer`` back to the image; ``branch`` narrows the first step only."""
    sizes = map_sizes(model.config, image_size)
    names = list(sizes)
    for k in range(names.index(layer), 0, -1):
        mask = _unit_back(model.units.get_submodule(names[k]), mask, sizes[names[k - 1]], wrap, kinds, branch)
        branch = None
    return _chain_back(model.stem.children(), mask, image_size or model.config.image_size)


def _unit_back(block: nn.Module, mask: Mask, size: Size, wrap: bool, kinds: str | None, branch: str | None) -> Mask:
    """Tokens of a block's input map, of ``size``, that reach the tokens in ``mask`` of its output map."""
    if isinstance(block, MixerBlock):  # token mixing reads every token
        return np.ones(size, bool)
    assert isinstance(block, ResidualUnit)
    if branch is None and block.embedding is not None:  # thresholds and offsets come from the mean over the map
        return np.ones(size, bool)
    reached = np.zeros(size, bool)
    if branch in (None, "shortcut"):
        reached |= _chain_back(_flatten(block.shortcut), mask, size)
    if isinstance(block.op, BinaryMLP):
        for label, kind in zip(branch_labels(block.op), block.op.kinds, strict=True):
            if branch in (None, label) and (kinds is None or kind in kinds):
                for offset in branch_offsets(kind, *size, block.op.long_range):
                    reached |= _shift(mask, offset, wrap)
    elif branch in (None, "conv"):
        reached |= _chain_back([block.op], mask, size)
    return reached


def _flatten(shortcut: nn.Module) -> Iterable[nn.Module]:
    return shortcut.children() if isinstance(shortcut, nn.Sequential) else [shortcut]


def _chain_back(modules: Iterable[nn.Module], mask: Mask, size: Size) -> Mask:
    """The same through a chain of convolutions, pools and per-token modules whose input has ``size``."""
    windows = []
    for module in modules:
        if isinstance(module, BinaryConv2d | nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d):
            kernel, stride, padding = _side(module.kernel_size), _side(module.stride), _side(module.padding)
            windows.append((size, kernel, stride, padding))
            size = ((size[0] + 2 * padding - kernel) // stride + 1, (size[1] + 2 * padding - kernel) // stride + 1)
        elif not isinstance(module, nn.BatchNorm2d | nn.Identity | Repeat):
            raise TypeError(f"the reach of a {type(module).__name__} is not known.")
    for before, kernel, stride, padding in reversed(windows):
        reached = np.zeros(before, bool)
        for i in range(kernel):
            for j in range(kernel):
                rows, cols = np.nonzero(mask)
                rows, cols = rows * stride + i - padding, cols * stride + j - padding
                inside = (rows >= 0) & (rows < before[0]) & (cols >= 0) & (cols < before[1])
                reached[rows[inside], cols[inside]] = True
        mask = reached
    return mask


def _side(value: object) -> int:
    """A window's size, stride or padding; torch keeps some of them as pairs, and here all are square."""
    side = value[0] if isinstance(value, tuple) else value
    assert isinstance(side, int)
    return side


def _shift(mask: Mask, offset: Size, wrap: bool) -> Mask:
    """Tokens that a cyclic shift reads: (i, j) reads (i + d_row, j + d_col), modulo the map if ``wrap``."""
    rows, cols = np.nonzero(mask)
    rows, cols = rows + offset[0], cols + offset[1]
    if not wrap:
        inside = (rows >= 0) & (rows < mask.shape[0]) & (cols >= 0) & (cols < mask.shape[1])
        rows, cols = rows[inside], cols[inside]
    reached = np.zeros_like(mask)
    reached[rows % mask.shape[0], cols % mask.shape[1]] = True
    return reached


@dataclass(frozen=True)
class ERF:
    """An effective receptive field.

    Attributes:
        map: (H, W) over the image's pixels, nonnegative: mean over the images of how much the token depends on each.
        n: number of images.
        area: {20, 50, 90}: smallest share of the pixels that holds that percentage of the sum of ``map`` (NaN where
            the map is zero everywhere).
        inside: share of the sum of ``map`` inside the exact receptive field; 1 for gradients. A perturbed block that
            straddles the border of the set may leave a little outside.
        wrapped: share of the effect that needs a way round the border: 1 - D / S, where S is the sum of ``map`` and D
            what the sum becomes while every token that a binary MLP reads round the border is held at what it is for
            the unchanged image. Below 0 where the ways round weaken the effect; NaN where there is none.
        block: side in pixels of the blocks that changed together; 1 for gradients.
        layer, row, col: the token; method: "gradient" or "perturbation".
    """

    map: NDArray[np.float64]
    n: int
    area: dict[int, float]
    inside: float
    wrapped: float
    block: int
    layer: str
    row: int
    col: int
    method: str


def effective_receptive_field(
    model: Network,
    images: Tensor,
    layer: str | None = None,
    row: int | None = None,
    col: int | None = None,
    method: str = "gradient",
    progress: Progress | None = None,
    block: int | None = None,
) -> ERF:
    """How much one output token depends on each pixel, averaged over images (Luo et al., arXiv:1701.04128).

    "gradient": ``|d sum_c y[c, row, col] / d x|``, summed over the image's channels. In a binary network this is the
    straight-through surrogate: it follows the smooth stand-in of the sign, not the sign.
    "perturbation": ``sum_c |y[c, row, col] - y'[c, row, col]|``, where y' comes from an exact forward pass with one
    block of pixels replaced by the mean colour of ``images``; all pixels of the block share the change equally.

    The model is left as it was found, also after an error: modes, gradients and global flags.

    Args:
        model: any network of the library; evaluated in eval mode.
        images: normalised, (N, C, H, W).
        layer: "stem" or an entry of ``model.units``; the last one if None.
        row, col: token of its output map; the middle, ``size // 2``, if None.
        method: "gradient" or "perturbation".
        progress: called with (done, total) passes after each; raise in it to cancel.
        block: side of the perturbed blocks in pixels; by default the image is at most 14 blocks wide and high.

    Raises:
        ValueError: no images, no such layer, location or method.
        InputError: images of a shape the network cannot take.
    """
    model.check_input(images)
    if not len(images):
        raise ValueError("an effective receptive field needs at least one image.")
    size: Size = (images.shape[2], images.shape[3])
    layer = list(map_sizes(model.config, size))[-1] if layer is None else layer
    height, width = _map_size(model, layer, size)
    row = height // 2 if row is None else row
    col = width // 2 if col is None else col
    exact = exact_receptive_field(model, layer, row, col, size)
    report = progress or (lambda done, total: None)
    with evaluating(model):
        if method == "gradient":
            total, direct = _gradients(model, images, layer, row, col, report)
        elif method == "perturbation":
            total, direct = _perturbations(model, images, layer, row, col, report, block)
        else:
            raise ValueError(f"method is gradient or perturbation, not {method!r}.")
    energy = total / len(images)
    whole = energy.sum()
    cumulative = np.cumsum(np.sort(energy, axis=None)[::-1])
    return ERF(
        energy,
        len(images),
        {
            # The first index whose running sum reaches the share, counted from 1.
            share: (int(np.searchsorted(cumulative, whole * share / 100)) + 1) / energy.size if whole else float("nan")
            for share in (20, 50, 90)
        },
        float(energy[exact].sum() / whole) if whole else float("nan"),
        1 - direct / float(total.sum()) if whole else float("nan"),
        1 if method == "gradient" else _block_side(size, block),
        layer,
        row,
        col,
        method,
    )


def agreement(gradient: ERF, perturbation: ERF) -> float:
    """Spearman's rank correlation of two effective receptive fields of one token, over the perturbed blocks.

    -1 to 1; NaN where one of them is the same everywhere. Low means that the surrogate gradient tells another story
    than the network itself.

    Raises:
        ValueError: the two are not maps of one size.
    """
    if gradient.map.shape != perturbation.map.shape:
        raise ValueError("two effective fields can be compared only over images of one size.")
    height, width = gradient.map.shape
    side = perturbation.block
    starts = np.arange(0, height, side), np.arange(0, width, side)
    a, b = (np.add.reduceat(np.add.reduceat(erf.map, starts[0], 0), starts[1], 1) for erf in (gradient, perturbation))
    return rank_correlation(a, b)


def passes(model: Network, n: int, method: str = "gradient", block: int | None = None) -> int:
    """Images that :func:`effective_receptive_field` passes through a network for ``n`` of its own size.

    Each at most to the end of the network; a gradient costs about two more each. Other arguments as there. Binary MLPs
    take every pass but the first twice, for what goes round the border.
    """
    ways = 2 if _mlps(model) else 1
    if method == "gradient":
        return n * ways
    return n * (1 + ways * len(_corners(model.config.image_size, block)))


def _corners(size: Size, block: int | None) -> list[tuple[int, int]]:
    """Upper left pixels of the perturbed blocks."""
    side = _block_side(size, block)
    return [(r, c) for r in range(0, size[0], side) for c in range(0, size[1], side)]


def _block_side(size: Size, block: int | None) -> int:
    return block or -(-max(size) // 14)


def _token(model: Network, x: Tensor, layer: str, row: int, col: int) -> Tensor:
    """One output token of a layer, (N, C); runs no further than that layer."""
    y = model.stem(x)
    if layer != "stem":
        for name, unit in model.units.named_children():
            y = unit(y)
            if name == layer:
                break
    return y[:, :, row, col]


def _mlps(model: Network) -> list[tuple[str, BinaryMLP]]:
    return [(name, unit.op) for name, unit in model.residual_units() if isinstance(unit.op, BinaryMLP)]


@contextmanager
def _held(model: Network, clean: Mapping[nn.Module, Tensor] | None) -> Iterator[None]:
    """Hold the tokens that binary MLPs read round the border at those of ``clean``, (1, C, H, W) by branch.

    With None, no gradient flows through them instead.
    """
    with ExitStack() as stack:
        for _, op in _mlps(model):
            for kind, branch in zip(op.kinds, op.branches, strict=True):

                def hold(module: nn.Module, given: tuple, kind: str = kind, reach: int | str = op.long_range) -> tuple:
                    (x,) = given
                    inside = torch.from_numpy(stays_inside(kind, x.shape[-2], x.shape[-1], reach)).to(x.device)
                    still = x.detach() if clean is None else clean[module]
                    return (torch.where(inside.repeat_interleave(x.shape[1] // 4, 0), x, still),)

                stack.callback(branch.register_forward_pre_hook(hold).remove)
        yield


@contextmanager
def _recorded(model: Network) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect what the branches of binary MLPs are given."""
    seen: dict[nn.Module, Tensor] = {}
    with ExitStack() as stack:
        for _, op in _mlps(model):
            for branch in op.branches:

                def record(module: nn.Module, given: tuple) -> None:
                    (seen[module],) = given

                stack.callback(branch.register_forward_pre_hook(record).remove)
        yield seen


def _gradients(
    model: Network, images: Tensor, layer: str, row: int, col: int, report: Progress
) -> tuple[NDArray[np.float64], float]:
    """Summed over images: the map, and the sum of the map of what does not go round the border."""
    chunks = images.split(CHUNK)
    total, direct = np.zeros(images.shape[2:]), 0.0

    def gradient(chunk: Tensor) -> Tensor:
        # A copy made outside inference mode, so that the caller's tensor and mode do not matter and are not changed.
        with torch.inference_mode(False), torch.enable_grad():
            x = chunk.detach().clone().requires_grad_()
            (found,) = torch.autograd.grad(_token(model, x, layer, row, col).sum(), x)
        return found.abs().sum((0, 1)).to(torch.float64).cpu()

    for done, chunk in enumerate(chunks, start=1):
        found = gradient(chunk)
        total += found.numpy()
        if _mlps(model):
            with _held(model, None):
                found = gradient(chunk)
        direct += float(found.sum())
        report(done, len(chunks))
    return total, direct


def _perturbations(
    model: Network, images: Tensor, layer: str, row: int, col: int, report: Progress, block: int | None
) -> tuple[NDArray[np.float64], float]:
    """As :func:`_gradients`."""
    height, width = images.shape[2:]
    side, corners = _block_side((height, width), block), _corners((height, width), block)
    total, direct = np.zeros((height, width)), 0.0
    with torch.no_grad():
        fill = images.mean((0, 2, 3))[:, None, None]
        parts = [corners[k : k + CHUNK] for k in range(0, len(corners), CHUNK)]
        for n, image in enumerate(images):
            with _recorded(model) as clean:
                before = _token(model, image[None], layer, row, col)

            def changes(changed: Tensor, before: Tensor = before) -> Tensor:
                return (_token(model, changed, layer, row, col) - before).abs().sum(1)

            for k, part in enumerate(parts, start=1):
                changed = image.repeat(len(part), 1, 1, 1)
                for x, (r, c) in zip(changed, part, strict=True):
                    x[:, r : r + side, c : c + side] = fill
                change = changes(changed)
                for (r, c), value in zip(part, change.tolist(), strict=True):
                    patch = total[r : r + side, c : c + side]
                    patch += value / patch.size
                if _mlps(model):
                    with _held(model, clean):
                        change = changes(changed)
                direct += float(change.sum())
                report(n * len(parts) + k, len(images) * len(parts))
    return total, direct
