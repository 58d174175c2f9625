"""Receptive fields over the image, and how they grow."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures.palette import BLUE, ORANGE, SEQUENTIAL, backdrop, layout, model_color, square_axes
from analysis.receptive_field import ERF

Mask = NDArray[np.bool_]

#: Room in pixels for a colour bar below a map, so that the map is as wide as the figure.
_BAR = 56


def receptive_set(
    field: Mask,
    plain: Mask | None = None,
    image: NDArray[np.uint8] | None = None,
    beyond: str = "reached only round the border",
    size: int = 460,
) -> go.Figure:
    """An exact receptive field as a set of pixels over the image.

    Args:
        field: bool (H, W) from :func:`analysis.receptive_field.exact_receptive_field`.
        plain: a smaller set, the same with ``wrap=False`` or convolutions alone; what only ``field`` holds is drawn
            in a second colour.
        image: uint8 (H, W) or (H, W, 3) under it.
        beyond: what the second colour stands for.
        size: height of the figure in pixels.

    Example:
        >>> receptive_set(exact_receptive_field(model, "mlp1_1", 3, 3))
    """
    height, width = field.shape
    state = field.astype(int)
    if plain is not None:
        state[field & ~plain] = 2
    veil = "rgba(110,110,110,0.8)" if image is not None else "rgba(140,140,140,0.15)"
    tint = 0.3 if image is not None else 0.85
    colors = [veil, f"rgba(0,114,178,{tint})", f"rgba(230,159,0,{tint + 0.15})"]
    names = ["not reached", "reached", beyond]
    fig = go.Figure(
        go.Heatmap(
            z=state,
            zmin=-0.5,
            zmax=2.5,
            colorscale=[[k / 3, c] for j, c in enumerate(colors) for k in (j, j + 1)],
            showscale=False,
            text=np.array(names)[state],
            hovertemplate="row %{y}, column %{x}: %{text}<extra></extra>",
        )
    )
    for j, color in enumerate((None, BLUE, ORANGE)):
        if color and (state == j).any():
            name = f"{names[j]} ({(state == j).mean():.1%} of the image)"
            fig.add_trace(
                go.Scatter(
                    x=[None],
                    y=[None],
                    mode="markers",
                    name=name,
                    marker={"color": color, "symbol": "square", "size": 12},
                )
            )
    backdrop(fig, image, height, width)
    layout(fig, height=size)
    fig.update_xaxes(title_text="column (pixels)")
    fig.update_yaxes(title_text="row (pixels)")
    return square_axes(fig, height, width)


def growth_curve(
    growths: Mapping[str, pd.DataFrame], ids: Mapping[str, str] | None = None, size: int = 380
) -> go.Figure:
    """Share of the image that one token can see, by depth.

    Dotted: without going round the border. Dashed: by convolutions alone.

    Networks with the same layers show their names on the axis, others count units from the stem, which is 0.

    Args:
        growths: name of a model -> :func:`analysis.receptive_field.receptive_field_growth`.
        ids: name -> id that settles its colour, see :func:`analysis.figures.palette.model_color`.
        size: height of the figure in pixels.

    Example:
        >>> growth_curve({"BCDNet-A": receptive_field_growth(model, 3, 3)})
    """
    fig = go.Figure()
    for k, (name, growth) in enumerate(growths.items()):
        color = model_color((ids or {}).get(name, name), k)
        where = np.stack(
            [growth.row, growth.col, growth.pixels, 100 * growth.wrapped, 100 * growth.box, growth.layer], 1
        )
        fig.add_trace(
            go.Scatter(
                x=growth.index,
                y=100 * growth.share,
                name=name,
                mode="lines+markers",
                line={"color": color, "width": 2},
                customdata=where,
                hovertemplate="<b>%{customdata[5]}</b>, token %{customdata[0]}, %{customdata[1]}<br>"
                "%{customdata[2]} pixels, %{y:.1f} % of the image<br>"
                "%{customdata[3]:.1f} % of them only round the border<br>"
                "box without wrapping: %{customdata[4]:.1f} % of the image",
            )
        )
        if (growth.wrapped > 0).any():
            fig.add_trace(
                go.Scatter(
                    x=growth.index,
                    text=growth.layer,
                    y=100 * growth.share * (1 - growth.wrapped),
                    name=f"{name}, without wrapping",
                    mode="lines",
                    line={"color": color, "width": 2, "dash": "dot"},
                    hovertemplate="%{text}: %{y:.1f} % without wrapping",
                )
            )
        if (growth.convolutions < growth["share"]).any():
            fig.add_trace(
                go.Scatter(
                    x=growth.index,
                    text=growth.layer,
                    y=100 * growth.convolutions,
                    name=f"{name}, convolutions alone",
                    mode="lines",
                    line={"color": color, "width": 2, "dash": "dash"},
                    hovertemplate="%{text}: %{y:.1f} % by convolutions alone",
                )
            )
    layout(fig, height=size)
    fig.update_yaxes(title_text="share of the image (%)", range=[0, 104])
    names = [list(growth.layer) for growth in growths.values()]
    if all(layers == names[0] for layers in names):
        return fig.update_xaxes(tickangle=-45, tickvals=list(range(len(names[0]))), ticktext=names[0])
    return fig.update_xaxes(title_text="depth (units after the stem)", rangemode="tozero")


def erf_heatmap(
    erf: ERF, field: Mask | None = None, limit: float | None = None, log: bool = False, size: int = 460
) -> go.Figure:
    """An effective receptive field, with a numeric colour bar and the border of the exact set.

    Args:
        erf: from :func:`analysis.receptive_field.effective_receptive_field`.
        field: exact receptive field; its border is drawn.
        limit: top of the colour scale, to compare maps; their own maximum if None.
        log: logarithmic colours over four decades.
        size: height of the figure in pixels.

    Example:
        >>> erf_heatmap(effective_receptive_field(model, images, "mlp1_1", 3, 3))
    """
    height, width = erf.map.shape
    top = limit or float(erf.map.max()) or 1.0
    unit = "|gradient|" if erf.method == "gradient" else "change"
    fig = go.Figure(
        go.Heatmap(
            z=np.log10(np.maximum(erf.map / top, 1e-4)) if log else erf.map,
            zmin=-4 if log else 0,
            zmax=0 if log else top,
            colorscale=SEQUENTIAL,
            colorbar={
                "orientation": "h",
                "yref": "container",
                "y": 0,
                "yanchor": "bottom",
                "thickness": 12,
                "title": {"text": unit, "side": "bottom"},
                "ticklabeloverflow": "allow",
                **({"tickvals": [-4, -2, 0], "ticktext": [f"{top * 10.0**k:.2g}" for k in (-4, -2, 0)]} if log else {}),
            },
            customdata=erf.map,
            hovertemplate="row %{y}, column %{x}: %{customdata:.3g}<extra></extra>",
        )
    )
    if field is not None and not field.all():
        x, y = _outline(field)
        fig.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                name="border of the exact set",
                line={"color": ORANGE, "width": 2},
                hoverinfo="skip",
            )
        )
    layout(fig, height=size, legend=field is not None)
    fig.update_xaxes(title_text="column (pixels)")
    fig.update_yaxes(title_text="row (pixels)")
    square_axes(fig, height, width)
    fig.layout.margin.b += _BAR
    return fig


def _outline(mask: Mask) -> tuple[list[float | None], list[float | None]]:
    """Edges between pixels inside and outside, as one broken line."""
    padded = np.pad(mask, 1)
    x: list[float | None] = []
    y: list[float | None] = []
    for r, c in zip(*np.nonzero(padded[1:] != padded[:-1]), strict=True):  # edge above row r, at column c - 1
        x += [c - 1.5, c - 0.5, None]
        y += [r - 0.5, r - 0.5, None]
    for r, c in zip(*np.nonzero(padded[:, 1:] != padded[:, :-1]), strict=True):
        x += [c - 0.5, c - 0.5, None]
        y += [r - 1.5, r - 0.5, None]
    return x, y
