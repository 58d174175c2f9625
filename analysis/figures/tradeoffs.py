"""Accuracy against cost, where in a network the cost lies, and how good the estimate of its time is."""

import math
from collections.abc import Collection

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures.palette import BLUE, GREEN, GREY, INK, ORANGE, VERMILION, layout
from analysis.tradeoffs import LatencyModel, pareto_front

#: Title of an axis by column of :func:`analysis.tradeoffs.scatter_points` and :func:`analysis.tradeoffs.with_measured`.
AXES = {
    "ops_full": "OPs = BOPs/64 + FLOPs (full convention)",
    "ops_conv_fc": "OPs = BOPs/64 + FLOPs (conv+fc convention)",
    "bops": "BOPs (binary multiply-accumulates)",
    "flops_full": "FLOPs (full convention)",
    "flops_conv_fc": "FLOPs (conv+fc convention)",
    "params": "parameters",
    "megabytes": "parameters, binary ones at 1 bit (MB)",
    "packed_mb": "packed file (MB)",
    "checkpoint_mb": "checkpoint (MB)",
    "latency_ms": "time of one image, packed where possible (ms)",
    "benchmark_ms": "time of one image on the benchmark's machine, packed (ms)",
}
#: Axes that are measured; all others are counted.
MEASURED = {"packed_mb": "size", "checkpoint_mb": "size", "latency_ms": "time", "benchmark_ms": "time"}
#: Small numbers, of which Plotly's SI prefixes would make "200m".
_PLAIN = (*MEASURED, "megabytes")
#: Digits that are written on a logarithmic axis; Plotly's own leave narrow ranges bare.
_COARSE, _FINE = (1, 2, 5), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
_KINDS = {
    ("quoted", "quoted"): ("accuracy and cost quoted", "circle", BLUE),
    ("quoted", "computed"): ("accuracy quoted, cost computed", "circle-open", BLUE),
    ("measured", "computed"): ("accuracy measured, cost computed", "diamond", VERMILION),
    ("quoted", "measured"): ("accuracy quoted, {} measured elsewhere", "square", BLUE),
    ("measured", "measured"): ("accuracy and {} measured", "diamond", VERMILION),
}


def accuracy_cost_scatter(
    points: pd.DataFrame,
    x: str = "ops_full",
    custom: pd.DataFrame | None = None,
    log: bool = True,
    size: int = 480,
    picked: Collection[str] = (),
) -> go.Figure:
    """Top-1 accuracy against cost with the Pareto front; the symbol tells where a number comes from.

    Points that another one beats are grey. Dragging selects points; customdata is [precision, source, name].

    Args:
        points: rows of :func:`analysis.tradeoffs.scatter_points` for *one* data set; rows that lack a value are left
            out.
        x: a key of AXES.
        custom: rows of :func:`analysis.tradeoffs.computed_costs`, drawn as vertical lines: their accuracy is unknown.
        log: logarithmic cost axis; points of zero cost are then left out.
        size: height of the figure in pixels.
        picked: names of points that stand out; none: all do.

    Raises:
        ValueError: the points belong to several data sets, whose accuracies do not compare.

    Example:
        >>> accuracy_cost_scatter(scatter_points(), "bops", picked=["BCDNet-A"])
    """
    sets = list(dict.fromkeys(points.dataset))
    if len(sets) > 1:
        raise ValueError(f"accuracies on {' and '.join(sets)} do not compare; draw one figure for each.")
    shown = points.dropna(subset=[x, "top1"])
    if log:
        shown = shown[shown[x] > 0]
    short, long = ("~g", ".3~g") if x in _PLAIN else ("~s", ".4s")
    fig = go.Figure()
    front, places = pareto_front(shown, x), _label_positions(shown, x, log, size)
    fig.add_trace(
        go.Scatter(
            # On to the dearest point: all below the line is beaten.
            x=[*front[x], *shown[x].nlargest(1)],
            y=[*front.top1, *front.top1.tail(1)],
            mode="lines",
            # Steps: between two points of the front nothing is known to reach the better accuracy for less.
            line={"color": INK, "width": 1.5, "dash": "dot", "shape": "hv"},
            name="Pareto front",
            hoverinfo="skip",
        )
    )
    for (kind, cost_kind), (name, symbol, color) in _KINDS.items():
        rows = shown[(shown.kind == kind) & (shown.cost_kind == cost_kind)]
        if rows.empty:
            continue
        # The legend takes its colour from the first point, which had better not be a grey one.
        rows = rows.iloc[np.argsort(~rows.index.isin(front.index), kind="stable")]
        colors = np.where(rows.index.isin(front.index), color, GREY)
        stands_out = rows["name"].isin(picked) if picked else pd.Series(True, rows.index)
        fig.add_trace(
            go.Scatter(
                x=rows[x],
                y=rows.top1,
                mode="markers+text",
                name=name.format(MEASURED.get(x)),
                text=rows["name"],
                textposition=places[rows.index],
                textfont_size=11,
                marker={
                    "symbol": symbol,
                    "color": colors,
                    "size": np.where(stands_out & bool(picked), 15, 11).tolist(),
                    "opacity": np.where(stands_out, 1, 0.35).tolist(),
                    "line": {"color": colors, "width": 2},
                },
                # What the browser does to points outside of a selection, until the page has answered it.
                unselected={"marker": {"opacity": 0.35}, "textfont": {"color": GREY}},
                error_y={
                    "array": rows.high - rows.top1,
                    "arrayminus": rows.top1 - rows.low,
                    "thickness": 1.5,
                    "color": INK,
                    "visible": bool(rows.low.notna().any()),
                },
                customdata=rows[["precision", "source", "name"]].to_numpy(),
                hovertemplate="<b>%{text}</b> (W/A %{customdata[0]})<br>%{y:.2f} % at %{x:" + long + "}"
                "<br>%{customdata[1]}<extra></extra>",
            )
        )
    ends = shown[["top1", "low", "high"]]
    low, high = (ends.min().min(), ends.max().max()) if len(shown) else (0.0, 100.0)
    margin = 0.08 * (high - low) + 0.5
    known = "time estimated" if x == "benchmark_ms" else "cost computed"
    for k, row in enumerate([] if custom is None else custom.to_dict("records")):
        fig.add_trace(
            go.Scatter(
                x=[row[x]] * 2,
                y=[low - margin, high + margin],
                mode="lines",
                line={"color": (GREEN, ORANGE, GREY)[k % 3], "dash": "dash", "width": 2},
                name=f"{row['variant']}: {known}, accuracy unknown",
                hovertemplate=f"<b>{row['variant']}</b>: %{{x:{long}}}<extra></extra>",
            )
        )
    layout(fig, height=size)
    fig.update_layout(dragmode="select")
    where = f" on {sets[0]}" if sets else ""
    fig.update_yaxes(title_text=f"top-1 accuracy{where} (%)", range=[low - margin, high + margin])
    fig.update_xaxes(title_text=AXES[x], exponentformat="none" if x in _PLAIN else "SI")
    if log:
        drawn = [cost for cost in (*shown[x], *([] if custom is None else custom[x])) if cost > 0] or [1.0]
        powers = range(math.floor(math.log10(min(drawn))) - 1, math.ceil(math.log10(max(drawn))) + 1)
        digits = _COARSE if max(drawn) > 8 * min(drawn) else _FINE
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        fig.update_xaxes(type="log", tickvals=ticks, tickformat=short)
    return fig


def layer_bars(layers: pd.DataFrame, measure: str = "ops", size: int | None = None) -> go.Figure:
    """Cost of every unit in network order, stacked by what kind of work or weight it is.

    Args:
        layers: rows of :func:`analysis.tradeoffs.layer_costs`.
        measure: "ops" (full convention) or "kilobytes".
        size: height of the figure in pixels; grows with the number of units if None.

    Example:
        >>> layer_bars(layer_costs(get_config("bcdnet_a")), "kilobytes")
    """
    if measure == "ops":
        title = "OPs (full convention)"
        parts = {
            "binary multiply-accumulates / 64": (BLUE, layers.bops / 64),
            "real multiply-accumulates": (ORANGE, layers.flops_conv_fc),
            "element-wise (scales, signs, BN, PReLU)": (GREY, layers.flops_full - layers.flops_conv_fc),
        }
    else:
        title = "memory of the parameters (kB)"
        parts = {
            "binary weights, 1 bit": (BLUE, layers.binary_params / 8e3),
            "real parameters, 32 bits": (ORANGE, (layers.params - layers.binary_params) * 4 / 1e3),
        }
    units = list(dict.fromkeys(layers.unit))
    fig = go.Figure()
    for name, (color, values) in parts.items():
        sums = values.groupby(layers.unit).sum().reindex(units)
        fig.add_trace(
            go.Bar(
                x=sums,
                y=units,
                orientation="h",
                name=name,
                marker_color=color,
                hovertemplate="<b>%{y}</b>: %{x:.4s}<extra>" + name + "</extra>",
            )
        )
    layout(fig, height=size or 110 + 22 * len(units))
    fig.update_layout(barmode="stack", bargap=0.25)
    fig.update_yaxes(autorange="reversed", showgrid=False, dtick=1)
    return fig.update_xaxes(title_text=title, exponentformat="SI")


def latency_bars(estimate: pd.Series, size: int | None = None) -> go.Figure:
    """Estimated time of every layer, in network order.

    Args:
        estimate: milliseconds by layer, from :meth:`analysis.tradeoffs.LatencyModel.estimate`.
        size: height of the figure in pixels; grows with the number of layers if None.

    Example:
        >>> latency_bars(latency_model().estimate(get_config("bcdnet_a")))
    """
    fig = go.Figure(
        go.Bar(
            x=estimate,
            y=estimate.index,
            orientation="h",
            marker_color=GREEN,
            hovertemplate="<b>%{y}</b>: %{x:.3~g} ms<extra>estimated</extra>",
        )
    )
    layout(fig, height=size or 80 + 22 * len(estimate), legend=False)
    fig.update_yaxes(autorange="reversed", showgrid=False, dtick=1)
    return fig.update_xaxes(title_text="estimated time of one image (ms)", exponentformat="none")


def latency_fit(model: LatencyModel, size: int = 420) -> go.Figure:
    """Estimated against measured time: the layers that the estimate is fitted to, and the networks that it is not.

    Args:
        model: from :func:`analysis.tradeoffs.latency_model`.
        size: height of the figure in pixels.

    Example:
        >>> latency_fit(latency_model())
    """
    parts = {
        "layers of BCDNet-A, fitted": (model.layers, "circle", BLUE),
        "whole networks, held out": (model.held_out, "diamond", VERMILION),
    }
    every = np.concatenate([table[["measured_ms", "estimated_ms"]].to_numpy() for table, _, _ in parts.values()])
    ends = [float(every[every > 0].min()) / 1.5, float(every.max()) * 1.5]
    fig = go.Figure(
        go.Scatter(x=ends, y=ends, mode="lines", line={"color": INK, "dash": "dot"}, name="equal", hoverinfo="skip")
    )
    for name, (table, symbol, color) in parts.items():
        fig.add_trace(
            go.Scatter(
                x=table.measured_ms,
                y=table.estimated_ms,
                mode="markers",
                name=name,
                text=table.index,
                marker={"symbol": symbol, "color": color, "size": 10},
                hovertemplate="<b>%{text}</b>: %{y:.3~g} ms estimated, %{x:.3~g} ms measured<extra></extra>",
            )
        )
    layout(fig, height=size)
    ticks = [digit * 10.0**power for power in range(-4, 4) for digit in _COARSE]
    axis = {"type": "log", "tickvals": ticks, "tickformat": "~g", "exponentformat": "none"}
    fig.update_yaxes(title_text="estimated (ms)", **axis)
    return fig.update_xaxes(title_text=f"measured (ms) on {model.machine}", **axis)


def _label_positions(points: pd.DataFrame, x: str, log: bool, height: int) -> pd.Series:
    """Where to write each point's name so that names avoid the points and each other, as far as four places allow."""
    across = np.log10(points[x]) if log else points[x]
    # In pixels of a plot of usual width; other widths only shift how tight it is.
    px = 850 * (across - across.min()) / (np.ptp(across) or 1.0)
    py = (height - 140) * (points.top1 - points.top1.min()) / (np.ptp(points.top1) or 1.0)
    taken = [(a - 7, b - 7, a + 7, b + 7) for a, b in zip(px, py, strict=True)]
    chosen = {}
    for label, a, b, text in zip(points.index, px, py, points["name"], strict=True):
        width = 6.3 * len(text)
        boxes = {
            "top center": (a - width / 2, b + 8, a + width / 2, b + 21),
            "bottom center": (a - width / 2, b - 21, a + width / 2, b - 8),
            "middle right": (a + 8, b - 7, a + 8 + width, b + 7),
            "middle left": (a - 8 - width, b - 7, a - 8, b + 7),
        }
        hits = {
            place: sum(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken)
            for place, box in boxes.items()
        }
        chosen[label] = min(hits, key=lambda place: hits[place])
        taken.append(boxes[chosen[label]])
    return pd.Series(chosen, dtype=object)
