"""Models side by side on a labelled set."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures.palette import GRID, INK, SEQUENTIAL, layout, model_color

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon")


def accuracy_whiskers(
    accuracy: pd.DataFrame, ids: Mapping[str, str] | None = None, size: int | None = None
) -> go.Figure:
    """Top-1 accuracy of each model with its 95 % Wilson interval.

    Args:
        accuracy: :attr:`analysis.comparison.Comparison.accuracy`.
        ids: model -> id that settles its colour, see :func:`analysis.figures.palette.model_color`.
        size: height of the figure in pixels; grows with the number of models if None.
    """
    fig = go.Figure()
    for k, (name, row) in enumerate(accuracy.iterrows()):
        fig.add_trace(
            go.Scatter(
                x=[row.top1],
                y=[name],
                mode="markers+text",
                text=[f"{row.top1:.2f}"],
                textposition="top center",
                marker={
                    "color": model_color((ids or {}).get(str(name), str(name)), k),
                    "size": 11,
                    "symbol": _SYMBOLS[k % len(_SYMBOLS)],
                },
                error_x={
                    "array": [row.high - row.top1],
                    "arrayminus": [row.top1 - row.low],
                    "thickness": 2,
                    "width": 6,
                },
                customdata=[[row.low, row.high, row.correct, row.n]],
                hovertemplate="<b>%{y}</b>: %{x:.2f} %<br>95 %: %{customdata[0]:.2f} to %{customdata[1]:.2f}"
                "<br>%{customdata[2]:,} of %{customdata[3]:,} right<extra></extra>",
            )
        )
    layout(fig, height=size or 80 + 48 * len(accuracy), legend=False)
    fig.update_yaxes(categoryorder="array", categoryarray=list(accuracy.index), range=[len(accuracy) - 0.5, -0.6])
    return fig.update_xaxes(title_text="top-1 accuracy (%), whiskers: 95 % interval")


def per_class_dots(per_class: pd.DataFrame, ids: Mapping[str, str] | None = None, size: int | None = None) -> go.Figure:
    """Accuracy of every model on every class, hardest class on top; a line spans the models.

    Args:
        per_class: :attr:`analysis.comparison.Comparison.per_class`.
        ids: model -> id that settles its colour, see :func:`analysis.figures.palette.model_color`.
        size: height of the figure in pixels; grows with the number of classes if None.
    """
    known = per_class.dropna(subset=["accuracy"])
    spans = known.groupby("class").accuracy.agg(["min", "max", "mean"]).sort_values("mean", kind="stable")
    fig = go.Figure()
    fig.add_trace(
        go.Scatter(
            x=[value for low, high in zip(spans["min"], spans["max"], strict=True) for value in (low, high, None)],
            y=[name for name in spans.index for _ in range(3)],
            mode="lines",
            line={"color": GRID, "width": 6},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for k, name in enumerate(dict.fromkeys(known.model)):
        rows = known[known.model == name]
        fig.add_trace(
            go.Scatter(
                x=rows.accuracy,
                y=rows["class"],
                mode="markers",
                name=name,
                marker={
                    "color": model_color((ids or {}).get(name, name), k),
                    "size": 11,
                    "symbol": _SYMBOLS[k % len(_SYMBOLS)],
                },
                customdata=np.stack([rows.low, rows.high, rows.correct, rows.n], 1),
                hovertemplate="<b>%{y}</b>: %{x:.1f} %<br>95 %: %{customdata[0]:.1f} to %{customdata[1]:.1f}"
                "<br>%{customdata[2]} of %{customdata[3]} right<extra>" + name + "</extra>",
            )
        )
    layout(fig, height=size or 110 + 32 * len(spans))
    fig.update_yaxes(categoryorder="array", categoryarray=list(spans.index), autorange="reversed")
    return fig.update_xaxes(title_text="images of the class that are classified right (%)")


def confusion_heatmap(confusion: pd.DataFrame, size: int = 520) -> go.Figure:
    """Confusion matrix; only mistakes are coloured, so that the diagonal does not drown them.

    Args:
        confusion: counts of one model from :attr:`analysis.comparison.Comparison.confusion`, true classes in rows.
        size: height of the figure in pixels.
    """
    counts = confusion.to_numpy()
    totals = counts.sum(1, keepdims=True)
    share = np.divide(100 * counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    mistakes = np.where(np.eye(len(counts), dtype=bool) | (counts == 0), np.nan, share)
    top = float(np.nan_to_num(mistakes).max()) or 1.0
    names = list(confusion.index)
    fig = go.Figure(
        go.Heatmap(
            z=mistakes,
            x=names,
            y=names,
            zmin=0,
            zmax=top,
            colorscale=SEQUENTIAL,
            colorbar={"title": {"text": "% of the<br>true class"}, "thickness": 14},
            customdata=np.dstack([counts, share]),
            xgap=1,
            ygap=1,
            hoverongaps=True,
            hovertemplate="<b>%{y}</b> taken for <b>%{x}</b>: %{customdata[0]} (%{customdata[1]:.1f} %)<extra></extra>",
        )
    )
    if len(names) <= 20:
        for i, truth in enumerate(names):
            for j, predicted in enumerate(names):
                if counts[i, j]:
                    # Cividis runs from dark to light; the diagonal shows the page, where mid-grey is legible.
                    color = INK if i == j else "black" if share[i, j] > 0.55 * top else "white"
                    fig.add_annotation(
                        x=predicted, y=truth, text=f"{counts[i, j]}", showarrow=False, font={"color": color, "size": 11}
                    )
    layout(fig, height=size, legend=False)
    fig.update_yaxes(title_text="true class", autorange="reversed", showgrid=False)
    return fig.update_xaxes(title_text="predicted class", tickangle=-40, showgrid=False)
