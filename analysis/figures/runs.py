"""Curves of training runs: a colour a run, a stroke a precision."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from analysis.figures.palette import CYCLE, MODELS, change, layout

_STROKES = {"32/1": "dot", "1/1": "solid", "32/32": "dash"}

#: Runs that can be told apart in one picture.
MOST = len(CYCLE)

_AXES = {"epochs": "epochs, counted over all steps", "iterations": "iterations, counted over all steps"}


def run_colors(keys: Sequence[str], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """A colour of its own for each run; shipped models have theirs, the others the first that is free.

    Args:
        keys: at most :data:`MOST`, ids of models among them.
        before: what this function said of an earlier choice; a run that stays keeps its colour.

    Raises:
        ValueError: there are more runs than colours.
    """
    if len(keys) > MOST:
        raise ValueError(f"{len(keys)} runs cannot be told apart by colour; choose at most {MOST}.")
    colors: dict[str, str] = {}
    wanted = {**MODELS, **(before or {})}
    for key in sorted(keys, key=lambda key: key not in wanted):  # the others take what these leave
        free = [color for color in CYCLE if color not in colors.values()]
        colors[key] = wanted[key] if wanted.get(key) in free else free[0]
    return {key: colors[key] for key in keys}


def stroke(precision: str) -> str:
    """How the line of a training step is drawn, by the bits of its weights and activations; in Plotly's words."""
    return _STROKES.get(precision, "dashdot")


def run_curves(
    curves: pd.DataFrame,
    title: str,
    colors: Mapping[str, str],
    x: str = "epochs",
    thin: pd.DataFrame | None = None,
    form: str = ".4g",
    unit: str = "",
    top: float | None = None,
    size: int = 290,
) -> go.Figure:
    """One quantity over training, a line for each step of each run.

    Args:
        curves: from :func:`analysis.runs.curves`.
        title: what is drawn.
        colors: by name of the run.
        x: "epochs" or "iterations"; rows where it is not known are left out.
        thin: the same on the training images, as thin lines without dots.
        form: how values are written, in d3's notation.
        unit: behind every value, such as " %".
        top: upper end of a scale from 0; chosen by the data if None.
        size: height in pixels.

    Example:
        >>> run_curves(curves([read_run(Path("assets/checkpoints/elpv_twin.csv"))], "lr"), "", {"elpv_twin": "red"})
    """
    lines = []
    for data, width in ((thin, 1.2), (curves, 2.0)):
        if data is None:
            continue
        for _, part in data.dropna(subset=x).groupby(["run", "step"], sort=False):
            run, step, precision = part.iloc[0][["run", "step", "precision"]]
            lines.append(
                go.Scatter(
                    x=part[x].to_numpy(),
                    y=part.value.to_numpy(),
                    # Dots of a long log would hide its line.
                    mode="lines" if data is thin or len(part) > 20 else "lines+markers",
                    marker_size=5,
                    line={"color": colors[run], "width": width, "dash": stroke(precision)},
                    meta=[run, int(step), precision],
                    hovertemplate="<b>%{meta[0]}</b>, step %{meta[1]} (%{meta[2]})"
                    f"<br>{x.removesuffix('s')} %{{x:,}}: %{{y:{form}}}{unit}"
                    f"{' in training' if data is thin else ''}<extra></extra>",
                )
            )
    fig = layout(go.Figure(lines), height=size, title=title, legend=False)
    # A title of one line and no legend above the plot; a zoom stays while a run that trains is drawn anew.
    fig.layout.margin.t, fig.layout.uirevision = 36, x
    change(
        fig.layout.yaxis,
        tickformat="~%" if "%" in form else None,
        range=None if top is None else [0, 1.05 * top],
    )
    change(fig.layout.xaxis, title={"text": _AXES[x]}, rangemode="tozero")
    return fig
