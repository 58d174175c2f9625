"""The tokens a layer reads, drawn on the grid of its input map."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures.palette import GRID, INK, backdrop, branch_color, layout, square_axes, text_on
from analysis.sampling import distinct_sources

#: Name of the trace whose points are all tokens of the map, in row-major order, each with customdata [row, col].
TOKENS = "tokens"


def token_grid(
    sources: pd.DataFrame, height: int, width: int, image: NDArray[np.uint8] | None = None, size: int = 460
) -> go.Figure:
    """Draw what :func:`analysis.sampling.token_sources` found.

    One disc per branch and token, its area in proportion to the share of the weights, the channel quarters it gives
    written on it. Lines lead from the token to its sources; those that wrap are dotted, leave the map on one side and
    come back on the other. Taps in the zero padding are crosses outside the map.

    An invisible trace :data:`TOKENS` on top has one point per token, to be clicked: customdata is [row, col].

    Args:
        sources: from ``token_sources``.
        height, width: of the layer's *input* map in tokens.
        image: uint8 (H, W) or (H, W, 3), shown under the grid.
        size: height of the figure in pixels.

    Example:
        >>> token_grid(token_sources(model, "mlp1_1", 3, 3), 7, 7)
    """
    merged = distinct_sources(sources)
    branches = list(dict.fromkeys(merged.branch))
    first = sources.iloc[0]
    centre = ((first.row - first.d_row) % height, (first.col - first.d_col) % width)
    cell = (size - 80) / (max(height, width) + 1)
    fig = go.Figure()
    backdrop(fig, image, height, width)
    if max(height, width) <= 32:
        fig.add_trace(_grid_lines(height, width))
    many = len(merged) > 32  # a block that reads every token needs no lines
    for k, branch in enumerate(branches):
        part = merged[merged.branch == branch]
        if not many and branch not in ("conv", "mixer"):
            lane = 0.14 * (k - (len(branches) - 1) / 2)
            for wraps in (False, True):
                fig.add_trace(_paths(part, centre, height, width, lane, wraps, branch))
    largest = merged.weight.max()
    for branch in branches:
        part = merged[merged.branch == branch]
        share = part.weight.sum()
        x, y = _nudged(merged, branch)
        diameters = np.maximum(0.86 * cell * np.sqrt(part.weight / largest), 5)
        fig.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="markers+text",
                name=f"{branch} ({share:.0%} of the weights)",
                text=[_quarters(q) if d > 15 else "" for q, d in zip(part.quarters, diameters, strict=True)],
                textfont={"color": text_on(branch), "size": 11},
                marker={
                    "size": diameters,
                    "opacity": 1,
                    "color": branch_color(branch),
                    "symbol": np.where(part.inside, "circle", "x-thin").tolist(),
                    "line": {
                        "width": np.where(part.inside, 1, 3),
                        "color": np.where(part.inside, "white", branch_color(branch)),
                    },
                },
                hoverinfo="skip",
                # A click selects a token; it must not fade the discs.
                selected={"marker": {"opacity": 1}},
                unselected={"marker": {"opacity": 1}, "textfont": {"color": text_on(branch)}},
            )
        )
    fig.add_shape(
        type="rect",
        x0=centre[1] - 0.5,
        x1=centre[1] + 0.5,
        y0=centre[0] - 0.5,
        y1=centre[0] + 0.5,
        line={"color": "#D55E00", "width": 3},
    )
    fig.add_trace(_click_targets(merged, height, width, cell))
    layout(fig, height=size)
    square_axes(fig, height, width, 1.0 if not sources.inside.all() else 0.5)
    fig.update_xaxes(title_text="column", **_ticks(width))
    fig.update_yaxes(title_text="row", **_ticks(height))
    # Discs in the legend all have one size.
    return fig.update_layout(legend_itemsizing="constant", dragmode=False)


def _ticks(n: int) -> dict:
    return {"tickvals": list(range(0, n, max(1, n // 14))), "ticks": ""}


def _grid_lines(height: int, width: int) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    for r in range(height + 1):
        x += [-0.5, width - 0.5, None]
        y += [r - 0.5, r - 0.5, None]
    for c in range(width + 1):
        x += [c - 0.5, c - 0.5, None]
        y += [-0.5, height - 0.5, None]
    return go.Scatter(x=x, y=y, mode="lines", line={"color": GRID, "width": 1}, hoverinfo="skip", showlegend=False)


def _paths(
    part: pd.DataFrame, centre: tuple[int, int], height: int, width: int, lane: float, wraps: bool, branch: str
) -> go.Scatter:
    """Lines from the token to its sources, ``lane`` tokens to the side so that branches do not hide one another."""
    x: list[float | None] = []
    y: list[float | None] = []
    beyond = 0.35  # how far a line runs past the border, in tokens
    for offsets in part.offsets:
        for d_row, d_col in set(offsets):
            row, col = centre[0] + d_row, centre[1] + d_col
            if (not (0 <= row < height and 0 <= col < width)) != wraps or (d_row, d_col) == (0, 0):
                continue
            shift_row, shift_col = (lane, 0.0) if d_col else (0.0, lane)
            legs: list[tuple[float, float, float, float]] = [(*centre, row, col)]
            if wraps:
                # Out past the border it crosses, and in again from beyond the opposite one.
                exit_row, entry_row = _crossing(row, height, beyond)
                exit_col, entry_col = _crossing(col, width, beyond)
                legs = [(*centre, exit_row, exit_col), (entry_row, entry_col, row % height, col % width)]
            for r0, c0, r1, c1 in legs:
                x += [c0 + shift_col, c1 + shift_col, None]
                y += [r0 + shift_row, r1 + shift_row, None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": branch_color(branch), "width": 2.5, "dash": "dot" if wraps else "solid"},
        hoverinfo="skip",
        showlegend=False,
    )


def _crossing(index: int, n: int, beyond: float) -> tuple[float, float]:
    """Where a line towards ``index`` leaves the n tokens of an axis, and where it comes back in."""
    low, high = -0.5 - beyond, n - 0.5 + beyond
    return (low, high) if index < 0 else (high, low) if index >= n else (index, index)


def _nudged(merged: pd.DataFrame, branch: str) -> tuple[list[float], list[float]]:
    """Positions of a branch's discs; where several branches read one token, side by side."""
    readers: dict[tuple[int, int], list[str]] = {}
    places = list(zip(merged.branch, merged.row, merged.col, strict=True))
    for reader, row, col in places:
        readers.setdefault((row, col), []).append(reader)
    x, y = [], []
    for reader, row, col in places:
        if reader == branch:
            here = readers[row, col]
            x.append(col + 0.44 * (here.index(branch) - (len(here) - 1) / 2))
            y.append(float(row))
    return x, y


def _quarters(quarters: tuple[int, ...]) -> str:
    """ "1+2" for some quarters, "" for all of them."""
    return "" if len(quarters) == 4 or quarters == (0,) else "+".join(map(str, quarters))


def _click_targets(merged: pd.DataFrame, height: int, width: int, cell: float) -> go.Scatter | go.Scattergl:
    text = {(r, c): "" for r in range(height) for c in range(width)}
    for source in merged[merged.inside].to_dict("records"):
        quarters = _quarters(source["quarters"])
        channels = f"quarter {quarters} of the channels" if quarters else "all channels"
        way = ", round the border" if source["wrapped"] else ""
        line = f"<br>{source['branch']}: {channels}, {source['weight']:.1%} of the weights{way}"
        text[source["row"], source["col"]] += line
    rows, cols = np.divmod(np.arange(height * width), width)
    trace = go.Scatter if height * width <= 1000 else go.Scattergl
    return trace(
        x=cols,
        y=rows,
        mode="markers",
        name=TOKENS,
        marker={"size": max(cell, 4), "symbol": "square", "opacity": 0, "color": INK},
        customdata=np.stack([rows, cols], 1).tolist(),
        hovertext=[f"row {r}, column {c}{text[r, c] or '<br>not read'}" for r, c in zip(rows, cols, strict=True)],
        hoverinfo="text",
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        showlegend=False,
    )
