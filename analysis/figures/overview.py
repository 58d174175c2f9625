"""The trained models at a glance."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from analysis.figures.palette import layout, model_color


def training_curves(
    logs: Mapping[str, pd.DataFrame],
    ids: Mapping[str, str],
    starts: Mapping[str, int] | None = None,
    size: int = 340,
) -> go.Figure:
    """Test accuracy by epoch of each training run; dotted at real precision, solid once activations are binary.

    Args:
        logs: title of a model -> its log, columns ``step``, ``precision``, ``epoch``, ``test_top1`` in percent.
        ids: title -> id of the model, for its colour.
        starts: title -> epochs of the model that it goes on from, which its own are drawn behind.
        size: height of the figure in pixels.

    Example:
        >>> training_curves({"A": pd.read_csv("assets/checkpoints/fmnist_bcdnet_a.csv")}, {"A": "fmnist_bcdnet_a"})
    """
    fig = go.Figure()
    for k, (title, log) in enumerate(logs.items()):
        points = log.dropna(subset=["test_top1"])
        start = (starts or {}).get(title, 0)
        points = points.assign(row=range(start + 1, start + len(points) + 1))  # epochs start again at every step
        for step, part in points.groupby("step", sort=True):
            precision = str(part.precision.iloc[0])
            fig.add_trace(
                go.Scatter(
                    x=part.row,
                    y=part.test_top1,
                    name=title,
                    legendgroup=title,
                    showlegend=bool(step == points.step.max()),  # the stroke of its last step
                    mode="lines+markers",
                    marker_size=5,
                    line={
                        "color": model_color(ids[title], k),
                        "width": 2,
                        "dash": "solid" if precision == "1/1" else "dot",
                    },
                    customdata=part[["step", "precision", "epoch"]],
                    hovertemplate="step %{customdata[0]} (%{customdata[1]}), epoch %{customdata[2]}: %{y:.2f} %",
                )
            )
    layout(fig, height=size)
    fig.update_xaxes(title_text="epochs of all training steps", rangemode="tozero")
    return fig.update_yaxes(title_text="top-1 on the test set (%)")
