"""The trained models at a glance."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from analysis.figures.palette import layout, model_color


def accuracy_intervals(models: pd.DataFrame, size: int | None = None) -> go.Figure:
    """Measured top-1 accuracy of each model with its 95 % confidence interval.

    Args:
        models: columns ``id``, ``Model``, ``Top-1``, ``low``, ``high`` in percent, ``n``.
        size: height of the figure in pixels; grows with the number of models if None.
    """
    fig = go.Figure()
    for k, row in enumerate(models.to_dict("records")):
        fig.add_trace(
            go.Scatter(
                x=[row["Top-1"]],
                y=[row["Model"]],
                mode="markers",
                marker={"color": model_color(row["id"], k), "size": 12},
                error_x={
                    "array": [row["high"] - row["Top-1"]],
                    "arrayminus": [row["Top-1"] - row["low"]],
                    "thickness": 2,
                    "width": 6,
                },
                customdata=[[row["low"], row["high"], row["n"]]],
                hovertemplate="<b>%{y}</b>: %{x:.2f} %<br>95 %: %{customdata[0]:.2f} to %{customdata[1]:.2f}"
                "<br>%{customdata[2]} test images<extra></extra>",
            )
        )
    layout(fig, height=size or 90 + 34 * len(models), legend=False)
    fig.update_yaxes(autorange="reversed")
    return fig.update_xaxes(title_text="top-1 accuracy (%)")


#: What the x axis and the y axis of a training log may be called, best first.
_STEPS, _ACCURACIES = ("epoch", "step"), ("val_top1", "val/top1", "val_acc", "top1")


def training_curves(logs: Mapping[str, pd.DataFrame], ids: Mapping[str, str], size: int = 340) -> go.Figure | None:
    """Validation accuracy by epoch of each training log; None if no log holds one.

    Args:
        logs: title of a model -> its log, one row an epoch.
        ids: title -> id of the model, for its colour.
        size: height of the figure in pixels.
    """
    fig = go.Figure()
    for k, (title, log) in enumerate(logs.items()):
        x = next((name for name in _STEPS if name in log), None)
        y = next((name for name in _ACCURACIES if name in log), None)
        if x is None or y is None:
            continue
        points = log[[x, y]].dropna()
        fig.add_trace(
            go.Scatter(
                x=points[x],
                y=points[y],
                name=title,
                mode="lines",
                line={"color": model_color(ids[title], k), "width": 2},
                hovertemplate="%{x}: %{y:.2f} %",
            )
        )
    if not fig.data:
        return None
    layout(fig, height=size)
    fig.update_xaxes(title_text="epoch")
    return fig.update_yaxes(title_text="top-1 (%)")
