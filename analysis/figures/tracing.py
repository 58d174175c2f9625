"""A token followed back to the image, and rebuilt from the tokens that a branch reads."""

import math

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from analysis.figures.palette import GRID, INK, layout
from analysis.tracing import Reconstruction, Trace

#: Maps in a row of the strip.
_COLUMNS = 6


def trace_strip(trace: Trace, image: NDArray[np.uint8] | None = None) -> go.Figure:
    """The token's paths on the map of every layer before it, from the layer itself to the image.

    Colours are the logarithm of each token's share of the paths' weight, each map up to its own largest; the share is
    told under the pointer. Tokens that no path reaches stay empty.

    Args:
        trace: from :func:`analysis.tracing.trace`.
        image: what the network saw, uint8 (H, W) or (H, W, 3), drawn as a last map; None leaves it out.

    Example:
        >>> trace_strip(trace(model, "mlp1_1", 3, 3))
    """
    names = list(trace.maps)
    titles = [*names, *(["the picture"] if image is not None else [])]
    columns = min(_COLUMNS, len(titles))
    rows = math.ceil(len(titles) / columns)
    fig = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.02, vertical_spacing=0.36 / rows)
    for k, name in enumerate(names):
        weights = trace.maps[name]
        with np.errstate(divide="ignore"):
            strength = np.where(weights > 0, np.log10(weights / weights.max()), np.nan)
        wrapped = np.divide(trace.wrapped[name], weights, out=np.zeros_like(weights), where=weights > 0)
        fig.add_trace(
            go.Heatmap(
                z=np.maximum(strength, -4),
                zmin=-4,
                zmax=0,
                customdata=np.stack([100 * weights, 100 * wrapped], -1),
                hovertemplate="row %{y}, column %{x}<br>%{customdata[0]:.3g} % of the paths' weight, "
                "%{customdata[1]:.0f} % of it round a border<extra>" + name + "</extra>",
                hoverongaps=False,
                showscale=k == 0,
                colorbar={
                    "title": {"text": "share of each<br>map's largest"},
                    "tickvals": [-4, -3, -2, -1, 0],
                    "ticktext": ["≤ 10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "1"],
                    "thickness": 12,
                },
            ),
            k // columns + 1,
            k % columns + 1,
        )
        _square(fig, k, columns, weights.shape)
    if image is not None:
        pixels = np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image
        fig.add_trace(
            go.Image(z=pixels, hoverinfo="skip"), (len(titles) - 1) // columns + 1, (len(titles) - 1) % columns + 1
        )
        _square(fig, len(titles) - 1, columns, image.shape[:2])
    layout(fig, height=40 + 165 * rows, legend=False)
    fig.update_layout(margin_t=30)
    return fig.update_annotations(font_size=12)


def _square(fig: go.Figure, k: int, columns: int, shape: tuple[int, ...]) -> None:
    """Square tokens with row 0 on top, and no numbers along the axes."""
    where = {"row": k // columns + 1, "col": k % columns + 1}
    bare = {"showgrid": False, "zeroline": False, "showticklabels": False, "constrain": "domain"}
    bare |= {"showline": True, "mirror": True, "linecolor": GRID}
    fig.update_xaxes(range=[-0.5, shape[1] - 0.5], **bare, **where)
    fig.update_yaxes(range=[shape[0] - 0.5, -0.5], scaleanchor="x" if k == 0 else f"x{k + 1}", **bare, **where)


def reconstruction_steps(found: Reconstruction, size: int = 330) -> go.Figure:
    """The four channel quarters of a branch on their way, a frame a step; begins at the first and plays when asked.

    Blue is a token whose bits of the quarter are mostly -1, vermillion one of mostly +1. The cross marks the token in
    the middle: what comes to stand under it is what the branch multiplies there.

    Args:
        found: from :func:`analysis.tracing.reconstruction`.
        size: height in pixels.

    Example:
        >>> reconstruction_steps(reconstruction(model, x, "mlp1_1", "long"))
    """
    steps, quarters, height, width = found.frames.shape
    titles = [f"quarter {k}: {_way(offset)}" for k, offset in enumerate(found.offsets, start=1)]
    fig = make_subplots(1, quarters, subplot_titles=titles, horizontal_spacing=0.03)

    def maps(step: int) -> list[go.Heatmap]:
        return [
            go.Heatmap(
                z=found.frames[step, k],
                zmin=-1,
                zmax=1,
                colorscale=[[0, "#2166AC"], [0.5, "#F2F2F2"], [1, "#D55E00"]],
                showscale=k == quarters - 1,
                colorbar={"title": {"text": "mean bit"}, "thickness": 12, "tickvals": [-1, 0, 1]},
                hovertemplate="row %{y}, column %{x}: mean bit %{z:+.2f}<extra>" + titles[k] + "</extra>",
            )
            for k in range(quarters)
        ]

    for k, map in enumerate(maps(0)):
        fig.add_trace(map, 1, k + 1)
    for k in range(quarters):
        cross = go.Scatter(
            x=[width // 2], y=[height // 2], mode="markers", hoverinfo="skip", showlegend=False,
            marker={"symbol": "x-thin", "size": 11, "line": {"width": 2.5, "color": INK}},
        )  # fmt: skip
        fig.add_trace(cross, 1, k + 1)
        _square(fig, k, quarters, (height, width))
    fig.frames = [go.Frame(data=maps(step), name=str(step), traces=list(range(quarters))) for step in range(steps)]
    layout(fig, height=size, legend=False)

    def jump(duration: int) -> dict[str, object]:
        return {"frame": {"duration": duration, "redraw": True}, "mode": "immediate", "transition": {"duration": 0}}

    slider = {
        "currentvalue": {"prefix": "shifted by ", "suffix": " tokens at most"},
        "x": 0.12,
        "len": 0.86,
        "pad": {"t": 10},
        "steps": [{"label": str(step), "method": "animate", "args": [[str(step)], jump(0)]} for step in range(steps)],
    }
    play = {
        "type": "buttons",
        "showactive": False,
        "direction": "left",
        "x": 0,
        "y": 0,
        "xanchor": "left",
        "yanchor": "top",
        "pad": {"t": 30},
        "buttons": [{"label": "▶ Play", "method": "animate", "args": [None, {**jump(700), "fromcurrent": False}]}],
    }
    fig.update_layout(sliders=[slider], updatemenus=[play], margin_t=30)
    return fig.update_annotations(font_size=12)


def _way(offset: tuple[int, int]) -> str:
    """ "stays", "3 up", "1 left": where a quarter's values come from."""
    d_row, d_col = offset
    parts = [f"{abs(d)} {name}" for d, name in ((d_row, "below" if d_row > 0 else "above"),
                                                (d_col, "right" if d_col > 0 else "left")) if d]  # fmt: skip
    return f"from {' and '.join(parts)}" if parts else "stays"
