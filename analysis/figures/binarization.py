"""Binarization: errors, weights, bits and thresholds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from analysis.binarization import VIEWS, LatentWeights, histogram_edges
from analysis.figures.palette import BLUE, INK, ORANGE, PURPLE, SKY, VERMILION, branch_color, layout

#: Histogram of :func:`weight_histograms` -> its title.
VIEW_TITLES = {"latent": "latent W", "sign": "sign W", "scaled": "α sign W"}

_MEASURES = {
    "l1": "mean |W − α sign W|  (Eq. 23)",
    "mse": "mean (W − α sign W)²",
    "relative": "mean |W − α sign W| / mean |W|",
}


def error_bars(errors: pd.DataFrame, measure: str = "l1", size: int = 380) -> go.Figure:
    """Binarization error per layer and branch (paper, Fig. 6).

    Args:
        errors: rows of :func:`analysis.binarization.binarization_error`; pass only the layers to show.
        measure: "l1", "mse" or "relative".
        size: height of the figure in pixels.

    Example:
        >>> error_bars(binarization_error(model))
    """
    names = list(dict.fromkeys(errors.layer))
    # Placed by hand: grouped bars would leave a convolution's one bar thin and beside its name.
    per_layer = errors.groupby("layer").branch
    count, nth = per_layer.transform("size"), per_layer.cumcount()
    width = 0.8 / count
    x = errors.layer.map(names.index) - 0.4 + (nth + 0.5) * width
    fig = go.Figure()
    for branch in dict.fromkeys(errors.branch):
        part = errors[errors.branch == branch]
        second = " " in branch  # the second branch of one kind: same colour, hatched
        fig.add_trace(
            go.Bar(
                x=x[part.index],
                y=part[measure],
                width=0.94 * width[part.index],
                name=branch,
                marker={"color": branch_color(branch), "pattern": {"shape": "/" if second else ""}},
                customdata=np.stack([part.layer, part.l1, part.mse, part.relative, part.n], 1),
                hovertemplate="<b>%{customdata[0]}</b>, "
                + branch
                + "<br>L1 %{customdata[1]:.4g}, MSE %{customdata[2]:.4g}<br>relative %{customdata[3]:.3f}, "
                "%{customdata[4]} weights<extra></extra>",
            )
        )
    layout(fig, height=size)
    fig.update_layout(barmode="overlay")
    fig.update_yaxes(title_text=_MEASURES[measure], rangemode="tozero")
    return fig.update_xaxes(tickangle=-45, tickvals=list(range(len(names))), ticktext=names, showgrid=False)


def weight_histograms(
    weights: LatentWeights, bins: int = 81, marked: NDArray[np.bool_] | None = None, size: int = 340
) -> go.Figure:
    """Latent, binary and scaled weights of one layer side by side: the same weights keep their colour.

    Marked weights stand out in all three, so that one sees where those of one bar lie in the others.

    Args:
        weights: from :func:`analysis.binarization.latent_weights`.
        bins: of the first and the third histogram, which share one axis.
        marked: bool, of the weights' shape, from :func:`analysis.binarization.mark_weights`; None marks none.
        size: height of the figure in pixels.

    Example:
        >>> weight_histograms(latent_weights(model, "mlp1_1", "long"))
    """
    edges = histogram_edges(weights, bins)
    fig = make_subplots(1, 3, subplot_titles=[VIEW_TITLES[view] for view in VIEWS], horizontal_spacing=0.07)
    positive = weights.sign > 0
    layers = [("", np.ones_like(positive), 1.0 if marked is None else 0.3)]
    if marked is not None:
        layers.append(("marked ", marked, 1.0))
    for prefix, part, opacity in layers:
        for name, side, color in (("−1", ~positive, ORANGE), ("+1", positive, BLUE)):
            chosen = part & side
            share = chosen.mean()
            bars = {"marker_color": color, "opacity": opacity, "legendgroup": prefix + name}
            bars["name"] = f"{prefix}{name} ({share:.1%})"
            fig.add_trace(_histogram(weights.latent[chosen], edges, **bars), 1, 1)
            bars["showlegend"] = False
            hover = f"{prefix}{name}: %{{y}} weights<extra></extra>"
            one = go.Bar(x=[1 if name == "+1" else -1], y=[int(chosen.sum())], width=1, hovertemplate=hover, **bars)
            fig.add_trace(one, 1, 2)
            fig.add_trace(_histogram(weights.scaled[chosen], edges, **bars), 1, 3)
    layout(fig, height=size)
    # Dragging marks a range instead of enlarging it.
    fig.update_layout(barmode="overlay", bargap=0, legend_y=1.12, dragmode="select", selectdirection="h")
    fig.update_xaxes(matches="x", range=[1.02 * edges[0], 1.02 * edges[-1]], col=3)
    fig.update_xaxes(range=[1.02 * edges[0], 1.02 * edges[-1]], col=1)
    fig.update_xaxes(tickvals=[-1, 1], ticktext=["−1", "+1"], range=[-2, 2], col=2)
    return fig.update_yaxes(title_text="weights", col=1)


def brushed(selection: Mapping[str, Any], edges: NDArray[np.float64]) -> tuple[str, float, float] | None:
    """The weights that a drag over :func:`weight_histograms` marks.

    Args:
        selection: of the chart; its list "box" holds what was dragged, as Plotly and Streamlit name it.
        edges: of the figure's bins, from :func:`analysis.binarization.histogram_edges`.

    Returns:
        One of :data:`analysis.binarization.VIEWS` and the two ends of a range of its values, of whole bins; None if
        nothing was hit.
    """
    if not (boxes := selection.get("box")):
        return None
    view = VIEWS[("x", "x2", "x3").index(boxes[0]["xref"])]
    low, high = sorted(map(float, boxes[0]["x"]))
    if view == "sign":
        bits = [bit for bit in (-1.0, 1.0) if low < bit + 0.5 and high > bit - 0.5]
        return (view, bits[0], bits[-1]) if bits else None
    first = int(np.searchsorted(edges, low, side="right")) - 1
    last = int(np.searchsorted(edges, high, side="left"))
    if first >= len(edges) - 1 or last <= 0:
        return None
    return view, float(edges[max(first, 0)]), float(edges[min(last, len(edges) - 1)])


def _histogram(values: NDArray, edges: NDArray, **bars: object) -> go.Bar:
    # Counted here, so that a layer of a million weights does not travel to the browser.
    counts, _ = np.histogram(values, edges)
    hover = "%{x:.4f}: %{y} weights<extra></extra>"
    return go.Bar(x=(edges[1:] + edges[:-1]) / 2, y=counts, width=edges[1] - edges[0], hovertemplate=hover, **bars)


def activation_balance(statistics: pd.DataFrame, size: int = 380) -> go.Figure:
    """Share of +1 and of -1 bits per layer, with the entropy of a bit and the share outside the STE's window.

    Args:
        statistics: from :func:`analysis.binarization.activation_statistics`.
        size: height of the figure in pixels.

    Example:
        >>> activation_balance(activation_statistics(model, x))
    """
    fig = go.Figure()
    for name, share, color in (
        ("+1", statistics.positive, BLUE),
        ("−1", 1 - statistics.positive, ORANGE),
    ):
        fig.add_trace(
            go.Bar(
                x=statistics.layer,
                y=100 * share,
                name=f"bits that are {name}",
                marker_color=color,
                opacity=0.75,
                hovertemplate="%{x}: %{y:.1f} %",
            )
        )
    for name, share, color, symbol in (
        ("entropy (% of a bit)", statistics.entropy, VERMILION, "circle"),
        ("no surrogate gradient", statistics.clipped, PURPLE, "diamond"),
    ):
        fig.add_trace(
            go.Scatter(
                x=statistics.layer,
                y=100 * share,
                name=name,
                mode="lines+markers",
                line={"color": color, "width": 2},
                marker={"symbol": symbol, "size": 9, "line": {"color": "white", "width": 1}},
                hovertemplate="%{x}: %{y:.1f} %",
            )
        )
    fig.add_hline(50, line={"color": INK, "dash": "dash", "width": 1})
    layout(fig, height=size)
    fig.update_layout(barmode="stack", bargap=0.2)
    fig.update_yaxes(title_text="%", range=[0, 101])
    return fig.update_xaxes(tickangle=-45)


_ACTIVATION_MEASURES = {
    "l1": "mean |A − α sign A|",
    "mse": "mean (A − α sign A)²",
    "relative": "mean |A − α sign A| / mean |A|",
}


def activation_errors(
    picture: pd.DataFrame, others: pd.DataFrame | None = None, measure: str = "relative", size: int = 380
) -> go.Figure:
    """Error of the signs of one image at every layer, within the range that it has over a set of images.

    Args:
        picture: of one image, from :func:`analysis.binarization.activation_error`.
        others: the same of a set; boxes from quarter to quarter of its images, whiskers from 5 to 95 %. None: no boxes.
        measure: "l1", "mse" or "relative".
        size: height of the figure in pixels.

    Raises:
        ValueError: another measure.

    Example:
        >>> activation_errors(activation_error(model, x[:1]), activation_error(model, x))
    """
    if measure not in _ACTIVATION_MEASURES:
        raise ValueError(f"measure is one of {', '.join(_ACTIVATION_MEASURES)}, not {measure!r}.")
    fig = go.Figure()
    if others is not None:
        quantiles = (
            others.groupby("layer", sort=False)[measure].quantile(np.array([0.05, 0.25, 0.5, 0.75, 0.95])).unstack()
        )
        fig.add_trace(
            go.Box(
                x=quantiles.index,
                lowerfence=quantiles[0.05],
                q1=quantiles[0.25],
                median=quantiles[0.5],
                q3=quantiles[0.75],
                upperfence=quantiles[0.95],
                marker_color=BLUE,
                name=f"{others.image.nunique():,} images",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=picture.layer,
            y=picture[measure],
            name="this image",
            mode="markers",
            marker={"color": VERMILION, "size": 8, "symbol": "x"},
            hovertemplate="%{x}: %{y:.4g}<extra></extra>",
        )
    )
    layout(fig, height=size)
    fig.update_yaxes(title_text=_ACTIVATION_MEASURES[measure], rangemode="tozero")
    return fig.update_xaxes(tickangle=-45)


def threshold_plot(thresholds: pd.DataFrame, layer: str, image: int | None = None, size: int = 380) -> go.Figure:
    """Thresholds of one layer, channels sorted by their static threshold.

    With a context embedding: the range of the thresholds over the images, and those of one image.

    Args:
        thresholds: from :func:`analysis.binarization.thresholds`.
        layer: one of its layers.
        image: one of its images; none is singled out if None.
        size: height of the figure in pixels.

    Example:
        >>> threshold_plot(thresholds(model, x), "conv1_3x3", image=0)
    """
    part = thresholds[thresholds.layer == layer]
    per_channel = part.groupby("channel").agg(static=("static", "first"), low=("total", "min"), high=("total", "max"))
    per_channel = per_channel.sort_values("static", kind="stable")
    rank = np.arange(len(per_channel))
    fig = go.Figure()
    dynamic = (part.image >= 0).any()
    if dynamic:
        fig.add_trace(
            go.Bar(
                x=rank,
                base=per_channel.low,
                y=per_channel.high - per_channel.low,
                name=f"range over {part.image.nunique()} images",
                marker={"color": SKY, "opacity": 0.6},
                customdata=np.stack([per_channel.index, per_channel.low, per_channel.high], 1),
                hovertemplate="channel %{customdata[0]}: %{customdata[1]:.3f} to %{customdata[2]:.3f}<extra></extra>",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=rank,
            y=per_channel.static,
            name="static, −b",
            mode="markers",
            marker={"color": BLUE, "size": 6},
            customdata=per_channel.index,
            hovertemplate="channel %{customdata}: %{y:.3f}<extra></extra>",
        )
    )
    if dynamic and image is not None:
        one = part[part.image == image].set_index("channel").total.reindex(per_channel.index)
        fig.add_trace(
            go.Scatter(
                x=rank,
                y=one,
                name="this image",
                mode="markers",
                marker={"color": VERMILION, "size": 7, "symbol": "x"},
                customdata=per_channel.index,
                hovertemplate="channel %{customdata}: %{y:.3f}<extra></extra>",
            )
        )
    layout(fig, height=size)
    fig.update_layout(bargap=0)
    fig.update_yaxes(title_text="threshold")
    return fig.update_xaxes(title_text="channels, sorted by static threshold", showgrid=False)
