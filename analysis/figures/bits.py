"""Single bits: margins, thresholds left out, flips that change the class, information, errors by block."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.bits import BitFlips, DynamicBits, TokenMargins
from analysis.figures.palette import (
    BLUE,
    DIVERGING,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SEQUENTIAL,
    SKY,
    VERMILION,
    branch_color,
    layout,
    model_color,
    square_axes,
)

_ORDER_COLORS = {"gradient": BLUE, "margin": ORANGE, "random": GREY}

_INFORMATION = {
    "entropy_position": "entropy of a bit over the images, bits",
    "entropy_channel": "entropy of a channel over images and places, bits",
    "balance": "mean bit",
    "constant": "share of bits that never change",
    "information": "sum of the bits' entropies, bits",
}
_SYMBOLS = {"point": "circle", "short": "square", "long": "diamond", "conv": "x"}
_MEASURES = {"l1": "L1 error (Eq. 23)", "mse": "squared error", "relative": "L1 error / mean |W|"}


def margin_map(margins: TokenMargins, limit: float | None = None, size: int = 420) -> go.Figure:
    """Margins over the tokens of one layer: red where the bit is +1, blue where it is -1, pale near the threshold.

    Mean distances have no sign: dark is near.

    Args:
        margins: of one layer, from :func:`analysis.bits.layer_margins` or :func:`analysis.bits.token_margins`.
        limit: the scale runs to ``limit``, from ``-limit`` or from 0; None: to the largest magnitude shown.
        size: height of the figure in pixels.

    Example:
        >>> margin_map(layer_margins(model, x, "mlp1_1", show=3))
    """
    shown, mean = margins.value, margins.show == "mean"
    finite = np.isfinite(shown)
    largest = float(np.abs(shown[finite]).max()) if finite.any() else 0.0
    reach = limit or largest or 1.0
    unit = "× spread" if margins.relative else "map's unit"
    fig = go.Figure(
        go.Heatmap(
            z=shown,
            zmin=0 if mean else -reach,
            zmax=reach,
            colorscale=SEQUENTIAL if mean else DIVERGING,
            customdata=margins.channel,
            colorbar={"title": {"text": f"mean |margin|, {unit}" if mean else f"margin, {unit}", "side": "right"}},
            hovertemplate="row %{y}, column %{x}"
            + ("" if mean else ", channel %{customdata}")
            + "<br>margin %{z:.4g}<extra></extra>",
        )
    )
    if not largest:
        reason = "Every bit shown is exactly at its threshold."
        if not finite.any():
            reason = "These channels are the same everywhere,<br>so they have no spread to measure by."
        fig.add_annotation(text=reason, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    return square_axes(layout(fig, height=size, legend=False), *shown.shape)


def margin_quantiles(summary: pd.DataFrame, relative: bool = True, size: int = 380) -> go.Figure:
    """Distance of the bits from their thresholds per layer: box from quarter to quarter, whiskers from 5 to 95 %.

    Args:
        summary: from :func:`analysis.bits.margin_summary` with its default quantiles.
        relative: as given there, for the axis.
        size: height of the figure in pixels.

    Example:
        >>> margin_quantiles(margin_summary(margins(model, x)))
    """
    fig = go.Figure(
        go.Box(
            x=summary.layer,
            lowerfence=summary.q05,
            q1=summary.q25,
            median=summary.q50,
            q3=summary.q75,
            upperfence=summary.q95,
            marker_color=BLUE,
            name="distance from the threshold",
        )
    )
    layout(fig, height=size, legend=False)
    unit = "× the channel's spread" if relative else "in the map's unit"
    fig.update_yaxes(title_text=f"|margin|, {unit}", rangemode="tozero")
    return fig.update_xaxes(tickangle=-45)


def dynamic_changes(found: DynamicBits, size: int = 380) -> go.Figure:
    """Share of each layer's bits that change when the dynamic thresholds are left out.

    Args:
        found: from :func:`analysis.bits.dynamic_bits`.
        size: height of the figure in pixels.

    Example:
        >>> dynamic_changes(dynamic_bits(model, x))
    """
    rows, fig = found.layers, go.Figure()
    for name, count, color in (("become +1", rows.to_plus, VERMILION), ("become −1", rows.to_minus, BLUE)):
        fig.add_bar(x=rows.layer, y=100 * count / rows.bits, name=name, marker_color=color, hovertemplate="%{y:.2f} %")
    fig.add_scatter(
        x=rows.layer,
        y=100 * rows.share_all,
        name="differ when left out everywhere",
        mode="markers",
        marker={"color": GREEN, "symbol": "diamond", "size": 9},
        hovertemplate="%{y:.2f} %",
    )
    layout(fig, height=size)
    fig.update_layout(barmode="stack")
    fig.update_yaxes(title_text="% of the layer's bits", rangemode="tozero")
    return fig.update_xaxes(tickangle=-45)


def dynamic_map(found: DynamicBits, layer: str, limit: float | None = None, size: int = 420) -> go.Figure:
    """Where the bits lie that change when one layer's dynamic thresholds are left out: their share, token by token.

    Args:
        found: from :func:`analysis.bits.dynamic_bits`.
        layer: one with a context embedding.
        limit: the scale runs from 0 to this many percent; None: to the largest share.
        size: height of the figure in pixels.

    Raises:
        ValueError: a layer without a context embedding.

    Example:
        >>> dynamic_map(dynamic_bits(model, x), "conv1_3x3")
    """
    if layer not in found.maps:
        raise ValueError(f"dynamic thresholds have the layers {', '.join(found.maps)}, not {layer!r}.")
    share = 100 * (found.maps[layer] != 0).mean(0)  # (C, H, W) -> (H, W)
    fig = go.Figure(
        go.Heatmap(
            z=share,
            zmin=0,
            zmax=limit or share.max() or 1.0,
            colorscale=SEQUENTIAL,
            colorbar={"title": {"text": "% of the token's bits", "side": "right"}},
            hovertemplate="row %{y}, column %{x}: %{z:.3g} %<extra></extra>",
        )
    )
    if not share.any():
        text = "No bit of this layer changes."
        fig.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font_color="white")
    return square_axes(layout(fig, height=size, legend=False), *share.shape)


def flips_per_order(found: Mapping[str, BitFlips], size: int = 380) -> go.Figure:
    """Bits flipped to change the class, by order: as the order's prefix, and after dropping what is not needed.

    Logarithmic; where no flip was found a note stands in place of the bars.

    Args:
        found: name -> search, from :func:`analysis.bits.compare_orders`.
        size: height of the figure in pixels.

    Example:
        >>> flips_per_order(compare_orders(model, x, "mlp1_1"))
    """
    fig, names = go.Figure(), list(found)
    for label, color, count in (
        ("first bits of the order", SKY, lambda flips: flips.prefix),
        ("after dropping needless bits", BLUE, lambda flips: flips.k),
    ):
        y = [count(flips) if flips.found else None for flips in found.values()]
        fig.add_bar(
            x=names,
            y=y,
            text=y,
            name=label,
            marker_color=color,
            customdata=[100 * count(flips) / flips.total if flips.found else None for flips in found.values()],
            hovertemplate="%{y} bits, %{customdata:.3f} % of the layer's",
        )
    for name, flips in found.items():
        if not flips.found:
            text = f"not found in<br>{flips.forwards} passes"
            fig.add_annotation(text=text, x=name, y=0, yref="paper", yanchor="bottom", showarrow=False)
    layout(fig, height=size)
    fig.update_layout(barmode="group")
    fig.update_xaxes(type="category", categoryorder="array", categoryarray=names)
    largest = max((flips.prefix for flips in found.values()), default=1) or 1
    # A bar of one bit must have a height, so the axis begins below 1.
    return fig.update_yaxes(title_text="bits flipped", type="log", range=[np.log10(0.5), np.log10(2 * largest)])


def flip_gaps(found: Mapping[str, BitFlips], size: int = 380) -> go.Figure:
    """Logit gap against number of bits flipped, for the first bits of each order; below 0 the class has changed.

    Args:
        found: name -> search, from :func:`analysis.bits.compare_orders`.
        size: height of the figure in pixels.

    Example:
        >>> flip_gaps({"gradient": fewest_flips(model, x, "mlp1_1")})
    """
    fig = go.Figure()
    for name, flips in found.items():
        part = flips.trace[flips.trace.step != "drop"].sort_values("flipped")
        fig.add_scatter(
            x=part.flipped,
            y=part.gap,
            name=name,
            mode="lines+markers",
            line_color=_ORDER_COLORS.get(name, PURPLE),
            hovertemplate="%{x} bits: gap %{y:.4g}",
        )
    fig.add_hline(0, line={"color": INK, "dash": "dash", "width": 1})
    layout(fig, height=size)
    fig.update_yaxes(title_text="logit of the class − rival")
    return fig.update_xaxes(title_text="bits flipped", type="log")


def flip_map(flips: BitFlips, height: int, width: int, size: int = 420) -> go.Figure:
    """How many of the flipped bits each token holds.

    Args:
        flips: from :func:`analysis.bits.fewest_flips`.
        height, width: of the layer's map in tokens.
        size: height of the figure in pixels.

    Example:
        >>> flip_map(fewest_flips(model, x, "mlp1_1"), 7, 7)
    """
    count = np.zeros((height, width), int)
    np.add.at(count, (flips.bits.row, flips.bits.col), 1)
    fig = go.Figure(
        go.Heatmap(
            z=count,
            zmin=0,
            zmax=max(1, count.max()),
            colorscale=SEQUENTIAL,
            colorbar={"title": {"text": "bits flipped", "side": "right"}},
            hovertemplate="row %{y}, column %{x}: %{z} bits<extra></extra>",
        )
    )
    if not flips.found:
        text = f"No flip found in {flips.forwards} passes."
        fig.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font_color="white")
    return square_axes(layout(fig, height=size, legend=False), height, width)


def entropy_per_layer(
    found: Mapping[str, pd.DataFrame],
    column: str = "entropy_position",
    ids: Mapping[str, str] | None = None,
    size: int = 380,
) -> go.Figure:
    """What the bits of each layer can tell, one line a model.

    Args:
        found: model -> frame of :func:`analysis.bits.information`.
        column: "entropy_position", "entropy_channel", "information", "balance" or "constant".
        ids: name -> id that settles its colour, see :func:`analysis.figures.palette.model_color`.
        size: height of the figure in pixels.

    Raises:
        ValueError: another column.

    Example:
        >>> entropy_per_layer({"BCDNet-A": information(model, images)})
    """
    if column not in _INFORMATION:
        raise ValueError(f"column is one of {', '.join(_INFORMATION)}, not {column!r}.")
    fig = go.Figure()
    for position, (name, frame) in enumerate(found.items()):
        fig.add_scatter(
            x=frame.layer,
            y=frame[column],
            name=name,
            mode="lines+markers",
            line_color=model_color((ids or {}).get(name, name), position),
            customdata=frame.n,
            hovertemplate="%{x}: %{y:.4g}, %{customdata} images",
        )
    layout(fig, height=size)
    fig.update_yaxes(title_text=_INFORMATION[column])
    if column == "balance":
        fig.update_yaxes(range=[-1.02, 1.02])
    elif column != "information":
        fig.update_yaxes(range=[0, 1.02])
    return fig.update_xaxes(tickangle=-45)


def block_errors(errors: pd.DataFrame, measure: str = "l1", by: str = "group", size: int = 380) -> go.Figure:
    """Binarization error of each branch by layer or by block, models side by side on one scale (paper, Fig. 6).

    Args:
        errors: by layer, from :func:`analysis.bits.compare_errors`, or by block, from
            :func:`analysis.bits.errors_by_block`.
        measure: "l1" (the paper's), "mse" or "relative".
        by: "layer" or "group", what stands on the axis.
        size: height of the figure in pixels.

    Raises:
        ValueError: another measure.

    Example:
        >>> block_errors(errors_by_block(compare_errors({"BCDNet-A": model})))
    """
    if measure not in _MEASURES:
        raise ValueError(f"measure is one of {', '.join(_MEASURES)}, not {measure!r}.")
    models = list(dict.fromkeys(errors.model))
    fig = make_subplots(1, len(models), subplot_titles=models, shared_yaxes=True, horizontal_spacing=0.03)
    named = set()
    for column, model in enumerate(models, start=1):
        of_model = errors[errors.model == model]
        for branch in dict.fromkeys(of_model.branch):
            part = of_model[of_model.branch == branch]
            fig.add_trace(
                go.Scatter(
                    x=part[by],
                    y=part[measure],
                    name=branch,
                    legendgroup=branch,
                    showlegend=branch not in named,
                    mode="lines+markers",
                    # The second branch of one kind: same colour, dashed.
                    line={"color": branch_color(branch), "dash": "dash" if " " in branch else "solid"},
                    marker={"symbol": _SYMBOLS.get(branch.split()[0], "circle"), "size": 9},
                    customdata=part.n,
                    hovertemplate="%{x}: %{y:.4g}, %{customdata} weights",
                ),
                1,
                column,
            )
            named.add(branch)
        fig.update_xaxes(categoryorder="array", categoryarray=list(dict.fromkeys(of_model[by])), col=column)
    layout(fig, height=size)
    fig.update_layout(legend_y=1.12, margin_t=64)
    fig.update_yaxes(rangemode="tozero")
    fig.update_yaxes(title_text=_MEASURES[measure], col=1)
    return fig.update_xaxes(tickangle=-45, showgrid=False)
