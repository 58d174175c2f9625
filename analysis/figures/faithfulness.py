"""Faithfulness of a map beside random maps, and how far surrogate gradients can be believed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.faithfulness import FOLLOWS, MOSTLY_DEAD, ROUGHLY, Curves, Score, SurrogateMeter, scores
from analysis.figures.palette import BLUE, GREY, INK, ORANGE, layout

_MAP, _RANDOM = "this map", "random maps"


def removal_curves(curves: Curves, size: int = 360) -> go.Figure:
    """Deletion and insertion curves of a map, over the mean and the range of the random maps.

    Args:
        curves: from :func:`analysis.faithfulness.deletion_insertion`.
        size: height of the figure in pixels.

    Example:
        >>> removal_curves(deletion_insertion(model, x, attribute(model, x, 0), grid=7, steps=7))
    """
    titles = [
        f"{name}<br>area {score.value:.3g}, random {score.random.mean():.3g} ({score.better} is better)"
        for name, score in (("Deletion", curves.deletion), ("Insertion", curves.insertion))
    ]
    fig = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.06)
    for column, curve in enumerate(("deletion", "insertion"), start=1):
        points = curves.points[curves.points.curve == curve]
        random = points[points.kind == "random"].groupby("share").value.agg(["mean", "min", "max"])
        share = random.index.to_numpy()
        band = np.concatenate([random["max"], random["min"][::-1]])
        first = column == 1
        fig.add_trace(
            go.Scatter(
                x=np.concatenate([share, share[::-1]]),
                y=band,
                fill="toself",
                fillcolor="rgba(140,140,140,0.25)",
                line_width=0,
                hoverinfo="skip",
                name="range of random maps",
                showlegend=first,
                legendgroup="range",
            ),
            1,
            column,
        )
        own = points[points.kind == "map"]
        for name, x, y, color, dash in (
            (f"mean of {_RANDOM}", share, random["mean"], GREY, "dash"),
            (_MAP, own.share, own.value, BLUE, "solid"),
        ):
            fig.add_trace(
                go.Scatter(
                    x=x,
                    y=y,
                    mode="lines+markers",
                    name=name,
                    line={"color": color, "dash": dash},
                    marker_size=5,
                    showlegend=first,
                    legendgroup=name,
                    hovertemplate=f"{name}<br>%{{x:.0%}} changed: %{{y:.3f}}<extra></extra>",
                ),
                1,
                column,
            )
    layout(fig, height=size)
    # The legend stands above the two lines of the titles.
    fig.update_layout(legend_y=1.2, margin_t=92)
    fig.update_xaxes(tickformat=".0%")
    fig.update_xaxes(title_text="share set to the baseline", col=1)
    fig.update_xaxes(title_text="share of the image shown", col=2)
    fig.update_yaxes(title_text=curves.output, col=1)
    return fig


def score_bars(found: Sequence[Score], size: int = 340) -> go.Figure:
    """Scores of a map beside the mean of random maps, whiskers one standard deviation; an axis for each score.

    Args:
        found: scores of one map; those that are not finite have no bar.
        size: height of the figure in pixels.

    Example:
        >>> score_bars([Score("infidelity", 0.4, np.array([0.9, 1.0]), "lower")])
    """
    table = scores(found)
    titles = [f"{name}<br>{better} is better" for name, better in table.better.items()]
    fig = make_subplots(1, max(1, len(table)), subplot_titles=titles, horizontal_spacing=0.08)
    for column, row in enumerate(table.itertuples(), start=1):
        bars = ((_MAP, row.value, BLUE, None), (_RANDOM, row.random_mean, GREY, row.random_std))
        for name, value, color, spread in bars:
            fig.add_trace(
                go.Bar(
                    x=[name],
                    y=[value],
                    name=name,
                    marker_color=color,
                    error_y={"type": "data", "array": [spread], "color": INK} if spread is not None else None,
                    hovertemplate=f"{row.Index}, {name}: %{{y:.4g}}<extra></extra>",
                ),
                1,
                column,
            )
    layout(fig, height=size, legend=False)
    fig.update_layout(margin_t=56)
    return fig


def randomisation_curve(found: pd.DataFrame, size: int = 340) -> go.Figure:
    """Rank correlation with the trained network's map as stages are randomised, last first.

    Args:
        found: from :func:`analysis.faithfulness.parameter_randomisation`.
        size: height of the figure in pixels.

    Example:
        >>> randomisation_curve(parameter_randomisation(model, x, attribute(model, x, 0)))
    """
    fig = go.Figure()
    for column, name, color, dash in (
        ("similarity", "signed map", BLUE, "solid"),
        ("absolute", "its magnitude", ORANGE, "dash"),
    ):
        fig.add_trace(
            go.Scatter(
                x=found.stage,
                y=found[column],
                customdata=found.layers,
                mode="lines+markers",
                name=name,
                line={"color": color, "dash": dash},
                hovertemplate=f"down to %{{x}}, {name}: %{{y:.2f}}<br>%{{customdata}}<extra></extra>",
            )
        )
    fig.add_hline(y=0, line_color=INK, line_width=1)
    layout(fig, height=size)
    fig.update_xaxes(title_text="randomised down to", type="category")
    fig.update_yaxes(title_text="rank correlation with the trained map", range=[-1.05, 1.05])
    return fig


def surrogate_gauge(meter: SurrogateMeter, size: int = 380) -> go.Figure:
    """Rank correlation of each gradient method with block ablation, and the share of dead activations per layer.

    Args:
        meter: from :func:`analysis.faithfulness.surrogate_meter`.
        size: height of the figure in pixels.

    Example:
        >>> surrogate_gauge(surrogate_meter(model, x, target=0, grid=4))
    """
    fig = make_subplots(
        1,
        2,
        subplot_titles=["Rank correlation with block ablation", "Activations without gradient"],
        column_widths=[0.42, 0.58],
        horizontal_spacing=0.1,
    )
    for column, x, y, color, hover in (
        (1, meter.correlations.correlation, meter.correlations.title, BLUE, "%{y}: %{x:.2f}<extra></extra>"),
        (2, meter.dead.layer, meter.dead.clipped, ORANGE, "%{x}: %{y:.1%}<extra></extra>"),
    ):
        orientation = "h" if column == 1 else "v"
        fig.add_trace(go.Bar(x=x, y=y, orientation=orientation, marker_color=color, hovertemplate=hover), 1, column)
    for threshold, name in ((FOLLOWS, "follows"), (ROUGHLY, "roughly")):
        fig.add_vline(
            x=threshold,
            line={"color": INK, "dash": "dot"},
            annotation={"text": name, "textangle": -90, "yanchor": "bottom", "y": 0},
            row=1,
            col=1,
        )
    layout(fig, height=size, legend=False)
    fig.add_hline(y=MOSTLY_DEAD, line={"color": INK, "dash": "dot"}, row=1, col=2)
    fig.update_layout(margin_t=40)
    fig.update_xaxes(range=[-1, 1], col=1)
    fig.update_yaxes(autorange="reversed", col=1)
    fig.update_xaxes(type="category", tickangle=-60, col=2)
    fig.update_yaxes(range=[0, 1], tickformat=".0%", col=2)
    return fig
