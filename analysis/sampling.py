"""Which tokens a layer reads at one location: branch by branch, channel quarter by channel quarter, with wrap-round.

Everything here is index arithmetic on the architecture; only the weight shares look at the weights.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from bcdnet.layers import BRANCH_NAMES, BinaryConv2d, BinaryMLP, MixerBlock, ResidualUnit, branch_offsets
from bcdnet.model import Network, UnitPlan, map_sizes, plan_units

Size = tuple[int, int]


def branch_labels(op: nn.Module) -> tuple[str, ...]:
    """Names of the branches of a layer's operator, each once.

    ("point", "short", "long") for a PSL binary MLP, ("point", "short", "short 2") for PSS, ("conv",) for a
    convolution, real ones included, ("mixer",) for a block of an MLP-Mixer.
    """
    if isinstance(op, MixerBlock):
        return ("mixer",)
    if not isinstance(op, BinaryMLP):
        return ("conv",)
    names = [BRANCH_NAMES[kind] for kind in op.kinds]
    return tuple(name if (nth := names[: k + 1].count(name)) == 1 else f"{name} {nth}" for k, name in enumerate(names))


def layers(model: Network, image_size: Size | None = None) -> pd.DataFrame:
    """The layers of a network in order, one row each.

    Args:
        model: any network of the library.
        image_size: (height, width) in pixels; the configuration's own if None.

    Returns:
        Columns ``name``; ``kind`` ("conv", "mlp" or "mixer"); ``height``, ``width`` of the output map and
        ``in_height``, ``in_width`` of the input map in tokens; ``stride``; ``kernel``; ``channels`` of the output;
        ``in_channels``; ``branches``, a tuple of :func:`branch_labels`.

    Raises:
        InputError: the strides do not allow this image size.
    """
    rows = []
    for plan, before, after in _geometry(model, image_size):
        block = model.units.get_submodule(plan.name)
        rows.append(
            {
                "name": plan.name,
                "kind": plan.kind,
                "height": after[0],
                "width": after[1],
                "in_height": before[0],
                "in_width": before[1],
                "stride": plan.stride,
                "kernel": plan.kernel,
                "channels": plan.outputs,
                "in_channels": plan.inputs,
                "branches": branch_labels(block.op if isinstance(block, ResidualUnit) else block),
            }
        )
    return pd.DataFrame(rows)


def _geometry(model: Network, image_size: Size | None) -> list[tuple[UnitPlan, Size, Size]]:
    """(plan, size of the input map, size of the output map) of every layer."""
    sizes = map_sizes(model.config, image_size)
    before = [*sizes.values()]
    return [(plan, before[k], sizes[plan.name]) for k, plan in enumerate(plan_units(model.config))]


def check_location(layer: str, row: int, col: int, size: Size) -> None:
    """Raise ValueError unless (row, col) is a token of a map of ``size`` (height, width)."""
    if not (0 <= row < size[0] and 0 <= col < size[1]):
        raise ValueError(
            f"layer {layer} has a map of {size[0]}x{size[1]} tokens; row {row}, column {col} is not one of them."
        )


def token_sources(model: Network, layer: str, row: int, col: int, image_size: Size | None = None) -> pd.DataFrame:
    """What one output token of a layer reads: one row per branch and channel quarter, or per tap of a convolution.

    Args:
        model: any network of the library.
        layer: an entry of ``model.units``.
        row, col: token of the layer's output map.
        image_size: (height, width) in pixels; the configuration's own if None.

    Returns:
        Columns ``branch`` (see :func:`branch_labels`); ``quarter`` 1 to 4 (0: all channels); ``channel_start``,
        ``channel_stop`` of the input channels read; ``row``, ``col`` of the source on the *input* map; ``d_row``,
        ``d_col``, its distance in tokens before wrapping; ``wrapped``: reached round the border; ``inside``: False for
        a tap in the zero padding, which adds nothing; ``weight``: share of the layer's total |effective weight| that
        reads this source. The shares sum to 1, those in the padding included. For a Mixer block, one row per token,
        and the weight is that of all two-step paths, ``|W_down| |W_up|``.

    Raises:
        ValueError: no such layer or location.
        InputError: the strides do not allow this image size.
    """
    geometry = {plan.name: (plan, before, after) for plan, before, after in _geometry(model, image_size)}
    if layer not in geometry:
        raise ValueError(f"the network has no layer {layer!r}; its layers are {', '.join(geometry)}.")
    plan, (height, width), after = geometry[layer]
    check_location(layer, row, col, after)
    channels, block = plan.inputs, model.units.get_submodule(layer)
    op = block.op if isinstance(block, ResidualUnit) else block
    rows = []

    def add(branch: str, quarter: int, start: int, stop: int, centre: Size, offset: Size, weight: float) -> None:
        r, c = centre[0] + offset[0], centre[1] + offset[1]
        beyond = not (0 <= r < height and 0 <= c < width)
        wraps = branch not in ("conv", "mixer")
        rows.append(
            {
                "branch": branch,
                "quarter": quarter,
                "channel_start": start,
                "channel_stop": stop,
                "row": r % height if wraps else r,
                "col": c % width if wraps else c,
                "d_row": offset[0],
                "d_col": offset[1],
                "wrapped": wraps and beyond,
                "inside": wraps or not beyond,
                "weight": weight,
            }
        )

    if isinstance(block, MixerBlock):
        down, up = (_magnitude(block.get_submodule(f"{name}.op"))[..., 0, 0] for name in ("token_down", "token_up"))
        paths = (down @ up)[row * width + col]  # (tokens, hidden) @ (hidden, tokens) -> one row of (tokens, tokens)
        for r in range(height):
            for c in range(width):
                add("mixer", 0, 0, channels, (row, col), (r - row, c - col), float(paths[r * width + c]))
    elif isinstance(op, BinaryMLP):
        for label, kind, branch in zip(branch_labels(op), op.kinds, op.branches, strict=True):
            per_channel = _magnitude(branch).sum(axis=(0, 2, 3))  # (C_in,)
            for q, offset in enumerate(branch_offsets(kind, height, width, op.long_range)):
                start, stop = q * channels // 4, (q + 1) * channels // 4
                add(label, q + 1, start, stop, (row, col), offset, float(per_channel[start:stop].sum()))
    else:
        taps = _magnitude(op).sum(axis=(0, 1))  # (k, k)
        centre, reach = (row * plan.stride, col * plan.stride), len(taps) // 2
        for i, j in np.ndindex(*taps.shape):
            add("conv", 0, 0, channels, centre, (i - reach, j - reach), float(taps[i, j]))
    frame = pd.DataFrame(rows)
    frame["weight"] /= frame["weight"].sum()
    return frame


def _magnitude(op: nn.Module) -> NDArray[np.float64]:
    """|effective weight| of a real or binary convolution, (C_out, C_in / groups, k, k)."""
    weight = op.effective_weight() if isinstance(op, BinaryConv2d) else op.get_parameter("weight")
    return weight.detach().abs().double().cpu().numpy()


def distinct_sources(sources: pd.DataFrame) -> pd.DataFrame:
    """Merge the rows of :func:`token_sources` with which one branch reads the same token.

    A point branch reads one token four times; on a map of even height, h/2 rows up and h/2 rows down are one token.

    Returns:
        One row per branch and token: ``branch``, ``row``, ``col``, ``count`` of merged rows, ``weight`` (their sum),
        ``quarters`` and ``offsets`` (tuples, in order), ``inside``, and ``wrapped``: True only if every one of them
        goes round the border.
    """
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for source in sources.itertuples(index=False):  # a page waits for it, and groupby takes many times as long
        groups.setdefault((source.branch, source.row, source.col), []).append(source)
    return pd.DataFrame(
        [
            {
                "branch": branch,
                "row": row,
                "col": col,
                "count": len(group),
                "weight": sum(source.weight for source in group),
                "quarters": tuple(source.quarter for source in group),
                "offsets": tuple((source.d_row, source.d_col) for source in group),
                "wrapped": all(source.wrapped for source in group),
                "inside": all(source.inside for source in group),
            }
            for (branch, row, col), group in groups.items()
        ]
    )


def stays_inside(kind: str, height: int, width: int, long_range: int | str = "half") -> NDArray[np.bool_]:
    """Where a branch of a binary MLP reads a token without going round the border.

    Args:
        kind: the branch's letter, "P", "S" or "L".
        height, width: of the map in tokens.
        long_range: distance in tokens, or "half".

    Returns:
        bool (4, H, W), one map for each channel quarter.
    """
    rows, cols = np.arange(height)[:, None], np.arange(width)
    return np.stack(
        [
            (rows + di >= 0) & (rows + di < height) & (cols + dj >= 0) & (cols + dj < width)
            for di, dj in branch_offsets(kind, height, width, long_range)
        ]
    )


def reconstruct(x: NDArray, branch: str, long_range: int | str = "half") -> NDArray:
    """The reconstructed tokens of one branch (paper, Eq. 11-13), in numpy, for arrays of any type.

    ``out[c, i, j] = x[c, (i + d_row) mod H, (j + d_col) mod W]`` with the offset of c's channel quarter.

    Args:
        x: map (C, H, W), C a multiple of 4.
        branch: "point", "short" or "long", or its letter.
        long_range: distance in tokens, or "half".

    Raises:
        ValueError: another shape or branch.
    """
    letters = {name: letter for letter, name in BRANCH_NAMES.items()} | {letter: letter for letter in BRANCH_NAMES}
    if branch not in letters:
        raise ValueError(f"a branch is point, short or long, not {branch!r}.")
    if x.ndim != 3 or x.shape[0] % 4:
        raise ValueError(f"tokens are rebuilt from a map (C, H, W) with C a multiple of 4, not {x.shape}.")
    offsets = branch_offsets(letters[branch], x.shape[1], x.shape[2], long_range)
    quarters = np.split(x, 4)
    return np.concatenate([np.roll(q, (-di, -dj), (1, 2)) for q, (di, dj) in zip(quarters, offsets, strict=True)])
