"""The float graph and the packed engine side by side: bits, distances, times, files."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.deployment import ROUNDING, RUNTIMES, LayerMaps
from analysis.figures.palette import BLUE, DIVERGING, GREEN, GREY, GRID, INK, ORANGE, PURPLE, SEQUENTIAL, SKY, layout

#: Where distances below it are drawn: zero has no place on a logarithmic axis.
_FLOOR = 1e-9
_CAUSES = {
    "turned": ("turned by float rounding", BLUE),
    "matrices": ("turned by matrices in half precision", ORANGE),
    "carried": ("follow from bits that differ before", GREY),
}
_PARTS = {
    "binary": ("binary weights", BLUE),
    "real": ("other numbers", ORANGE),
    "half": ("embedding matrices", PURPLE),
    "rest": ("names, configuration, card", GREY),
}
_LINES = {"simulation": (GREY, "x"), "float": (ORANGE, "circle"), "packed": (BLUE, "diamond")}


def threshold_room(layers: pd.DataFrame, size: int | None = None) -> go.Figure:
    """How near the nearest bit of every binary layer comes to its threshold, and how far the two graphs are apart.

    Args:
        layers: :attr:`analysis.deployment.Twin.layers`.
        size: height of the figure in pixels; grows with the number of layers if None.

    Example:
        >>> threshold_room(twin(model, bcdnet.pack(model), x).layers)
    """
    rows = layers[layers.bits > 0]
    fig = go.Figure()
    fig.add_trace(
        go.Scatter(
            x=[
                value
                for a, b in zip(rows.rounding, rows.nearest, strict=True)
                for value in (_drawn(a), _drawn(b), None)
            ],
            y=[name for name in rows.layer for _ in range(3)],
            mode="lines",
            line={"color": GRID, "width": 5},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    series = {
        "rounding": ("float rounding of the layer", BLUE, "circle"),
        "matrix_rounding": ("with matrices in half precision", ORANGE, "square"),
        "nearest": ("nearest bit's distance to its threshold", GREEN, "diamond"),
    }
    for column, (name, color, symbol) in series.items():
        known = rows.dropna(subset=[column])
        if known.empty:
            continue
        fig.add_trace(
            go.Scatter(
                x=known[column].map(_drawn),
                y=known.layer,
                mode="markers",
                name=name,
                marker={"color": color, "symbol": symbol, "size": 10},
                customdata=known[[column]],
                hovertemplate="<b>%{y}</b>: %{customdata[0]:.2g}<extra>" + name + "</extra>",
            )
        )
    fig.add_vline(x=ROUNDING, line={"color": INK, "dash": "dot", "width": 1.5})
    layout(fig, height=size or 130 + 24 * len(rows))
    fig.update_layout(margin_t=60)
    fig.update_yaxes(categoryorder="array", categoryarray=list(rows.layer), autorange="reversed", dtick=1)
    title = "in standard deviations of the layer's distances; dotted: 10⁻⁵"
    return fig.update_xaxes(type="log", title_text=title, exponentformat="power", dtick=1)


def differing_bits(layers: pd.DataFrame, size: int | None = None) -> go.Figure:
    """Bits that differ in every binary layer, by what made them.

    Args:
        layers: :attr:`analysis.deployment.Twin.layers`.
        size: height of the figure in pixels; grows with the number of layers if None.

    Example:
        >>> differing_bits(twin(model, bcdnet.pack(model), x).layers)
    """
    rows = layers[layers.bits > 0]
    fig = go.Figure()
    for column, (name, color) in _CAUSES.items():
        if rows[column].any():
            fig.add_trace(
                go.Bar(
                    x=rows[column],
                    y=rows.layer,
                    orientation="h",
                    name=name,
                    marker_color=color,
                    customdata=rows[["bits"]],
                    hovertemplate="<b>%{y}</b>: %{x:,} of %{customdata[0]:,}<extra>" + name + "</extra>",
                )
            )
    fig.add_trace(
        go.Scatter(
            x=rows.differ,
            y=rows.layer,
            mode="text",
            text=[f" {count:,}" for count in rows.differ],
            textposition="middle right",
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
        )
    )
    layout(fig, height=size or 110 + 22 * len(rows))
    fig.update_layout(barmode="stack", bargap=0.25, showlegend=True, margin_r=48)
    fig.update_yaxes(autorange="reversed", showgrid=False, dtick=1)
    return fig.update_xaxes(title_text="bits that differ, end to end", rangemode="tozero")


def layer_dumbbells(times: pd.DataFrame, size: int | None = None) -> go.Figure:
    """Time of every layer in float and packed, on one logarithmic axis: the longer the line, the larger the gain.

    Args:
        times: from :func:`analysis.deployment.layer_times`.
        size: height of the figure in pixels; grows with the number of layers if None.

    Example:
        >>> layer_dumbbells(layer_times(model, bcdnet.pack(model), x))
    """
    ratio = times.float_ms / times.packed_ms
    fig = go.Figure()
    fig.add_trace(
        go.Scatter(
            x=[value for row in times.itertuples() for value in (row.packed_ms, row.float_ms, None)],
            y=[name for name in times.layer for _ in range(3)],
            mode="lines",
            line={"color": GRID, "width": 5},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for column, runtime in (("packed_ms", "packed"), ("float_ms", "float")):
        color, symbol = _LINES[runtime]
        fig.add_trace(
            go.Scatter(
                x=times[column],
                y=times.layer,
                mode="markers+text" if runtime == "float" else "markers",
                name=RUNTIMES[runtime],
                text=[f"{value:.0f}×" if value >= 10 else f"{value:.1f}×" for value in ratio],
                textposition="middle right",
                textfont_size=11,
                marker={"color": color, "symbol": symbol, "size": 10},
                customdata=ratio,
                hovertemplate="<b>%{y}</b>: %{x:.4f} ms<br>float takes %{customdata:.1f} times as long"
                "<extra>" + RUNTIMES[runtime] + "</extra>",
                cliponaxis=False,
            )
        )
    layout(fig, height=size or 110 + 24 * len(times))
    fig.update_layout(margin_r=40)
    fig.update_yaxes(categoryorder="array", categoryarray=list(times.layer), autorange="reversed", dtick=1)
    return fig.update_xaxes(type="log", title_text="milliseconds, median", dtick=1, tickformat="~g")


def file_bars(parts: pd.DataFrame, size: int = 210) -> go.Figure:
    """What the checkpoint and the packed file hold, in kB (1e3 bytes).

    Args:
        parts: from :func:`analysis.deployment.file_parts`.
        size: height of the figure in pixels.

    Example:
        >>> file_bars(file_parts(model, bcdnet.pack(model), 1_700_000, 100_000))
    """
    totals = parts.groupby("file", sort=False).bytes.sum()
    fig = go.Figure()
    for part, (name, color) in _PARTS.items():
        rows = parts[(parts.part == part) & (parts.bytes > 0)]
        if rows.empty:
            continue
        fig.add_trace(
            go.Bar(
                x=rows.bytes / 1e3,
                y=rows.file,
                orientation="h",
                name=name,
                marker_color=color,
                hovertemplate="<b>%{y}</b>: %{x:,.1f} kB<extra>" + name + "</extra>",
            )
        )
    for file, total in totals.items():
        fig.add_annotation(
            x=total / 1e3, y=file, text=f"{total / 1e3:,.1f} kB", showarrow=False, xanchor="left", xshift=4
        )
    layout(fig, height=size)
    fig.update_layout(barmode="stack", bargap=0.35, showlegend=True, margin={"t": 84})
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return fig.update_xaxes(title_text="kB", range=[0, 1.18 * float(totals.max()) / 1e3])


def speed_lines(speed: pd.DataFrame, size: int = 320) -> go.Figure:
    """Time of one image by number of threads; whiskers from the 10th to the 90th percentile.

    Args:
        speed: rows of :func:`analysis.deployment.speed`, of any numbers of threads.
        size: height of the figure in pixels.

    Example:
        >>> speed_lines(speed(model, x, threads=1, budget=0.1))
    """
    fig = go.Figure()
    for runtime, name in RUNTIMES.items():
        rows = speed[speed.runtime == runtime]
        color, symbol = _LINES[runtime]
        fig.add_trace(
            go.Scatter(
                x=rows.threads.astype(str),
                y=rows["median"],
                mode="lines+markers",
                name=name,
                line={"color": color, "width": 2},
                marker={"symbol": symbol, "size": 10},
                error_y={"array": rows.p90 - rows["median"], "arrayminus": rows["median"] - rows.p10, "thickness": 1.5},
                customdata=rows[["p10", "p90", "runs"]].to_numpy(),
                hovertemplate="<b>%{x} threads</b>: %{y:.3f} ms<br>%{customdata[0]:.3f} to %{customdata[1]:.3f} in "
                "most of %{customdata[2]:,} runs<extra>" + name + "</extra>",
            )
        )
    layout(fig, height=size)
    fig.update_xaxes(title_text="threads", type="category")
    return fig.update_yaxes(type="log", title_text="ms for one image", tickformat="~g", dtick=1)


def twin_maps(maps: LayerMaps, channel: int, bit_channel: int, size: int | None = None) -> go.Figure:
    """One channel of a layer in both graphs and their difference: above, the bits of its input, if it has any; below,
    its output.

    Args:
        maps: from :func:`analysis.deployment.layer_maps`.
        channel: of the output.
        bit_channel: of the input.
        size: height of the figure in pixels.

    Example:
        >>> twin_maps(layer_maps(model, bcdnet.pack(model), x, "mlp1_1"), 0, 0)
    """
    planes = []
    if maps.float_bits is not None and maps.packed_bits is not None:
        planes.append((maps.float_bits[bit_channel], maps.packed_bits[bit_channel]))
    planes.append((maps.float_output[channel], maps.packed_output[channel]))
    titles = []
    if len(planes) == 2:
        titles = [f"input {bit_channel}, bits: float", "packed", "differ"]
    titles += [f"output {channel}: float", "packed", "float − packed"]
    fig = make_subplots(len(planes), 3, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.14)
    for k, (ours, packed) in enumerate(planes, start=1):
        binary = len(planes) == 2 and k == 1
        low, high = (
            (0.0, 1.0) if binary else (float(min(ours.min(), packed.min())), float(max(ours.max(), packed.max())))
        )
        difference = ours.astype(np.float64) - packed
        largest = 1.0 if binary else float(np.abs(difference).max()) or 1.0
        for column, values in enumerate((ours, packed, difference), start=1):
            last = column == 3
            fig.add_trace(
                go.Heatmap(
                    z=values,
                    zmin=-largest if last else low,
                    zmax=largest if last else high,
                    colorscale=DIVERGING if last else [[0, "#1b2a3a"], [1, SKY]] if binary else SEQUENTIAL,
                    showscale=not binary and column > 1,
                    colorbar={
                        "x": 1.0 if last else 0.633,
                        "y": 0.2 if len(planes) == 2 else 0.5,
                        "len": 0.48 if len(planes) == 2 else 1.0,
                        "thickness": 10,
                        "exponentformat": "power",
                    },
                    hovertemplate="row %{y}, column %{x}: %{z:.4g}<extra></extra>",
                ),
                k,
                column,
            )
            fig.update_xaxes(constrain="domain", visible=False, row=k, col=column)
            axis = fig.get_subplot(k, column).xaxis.plotly_name.replace("axis", "")
            fig.update_yaxes(
                autorange="reversed", scaleanchor=axis, constrain="domain", visible=False, row=k, col=column
            )
    layout(fig, height=size or (520 if len(planes) == 2 else 280), legend=False)
    fig.update_annotations(font_size=13)
    return fig.update_layout(margin={"t": 30, "r": 8})


def _drawn(value: float) -> float:
    return max(value, _FLOOR)
