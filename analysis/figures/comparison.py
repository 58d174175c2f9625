"""Models side by side on a set of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from analysis.comparison import ROC, Calibration
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

    Example:
        >>> accuracy_whiskers(compare(logits, labels, classes).accuracy)
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

    Example:
        >>> per_class_dots(compare(logits, labels, classes).per_class)
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

    Example:
        >>> confusion_heatmap(compare(logits, labels, classes).confusion["a"])
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


def reliability_diagram(
    calibrations: Mapping[str, Calibration], ids: Mapping[str, str] | None = None, size: int = 480
) -> go.Figure:
    """How often each model is right where it is so sure, above; how many images that is about, below.

    On the diagonal it is right as often as it says; below it, it is too sure. Whiskers are 95 % Wilson intervals.

    Args:
        calibrations: by model, from :func:`analysis.comparison.calibration`.
        ids: model -> id that settles its colour, see :func:`analysis.figures.palette.model_color`.
        size: height of the figure in pixels.

    Example:
        >>> reliability_diagram({name: calibration(values, labels) for name, values in logits.items()})
    """
    fig = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.04)
    fig.add_trace(
        go.Scatter(
            x=[0, 100],
            y=[0, 100],
            mode="lines",
            line={"color": INK, "dash": "dot"},
            name="as often as it says",
            hoverinfo="skip",
        ),
        row=1,
        col=1,
    )
    for k, (name, found) in enumerate(calibrations.items()):
        known = found.table[found.table.n > 0]
        color = model_color((ids or {}).get(name, name), k)
        symbol = _SYMBOLS[k % len(_SYMBOLS)]
        fig.add_trace(
            go.Scatter(
                x=known.confidence,
                y=known.accuracy,
                mode="lines+markers",
                name=f"{name}: ECE {found.ece:.1f} %",
                legendgroup=name,
                line={"color": color, "width": 1.5},
                marker={"color": color, "size": 9, "symbol": symbol},
                error_y={
                    "array": known.high - known.accuracy,
                    "arrayminus": known.accuracy - known.low,
                    "thickness": 1,
                    "width": 3,
                },
                customdata=known[["from", "to", "n"]].to_numpy(),
                hovertemplate="%{y:.1f} % right at a mean confidence of %{x:.1f} %<br>%{customdata[2]:,} images "
                "between %{customdata[0]:.0f} and %{customdata[1]:.0f} %<extra>" + name + "</extra>",
            ),
            row=1,
            col=1,
        )
        fig.add_trace(
            go.Scatter(
                x=(found.table["from"] + found.table["to"]) / 2,
                y=100 * found.table.n / found.n,
                mode="lines",
                line={"color": color, "width": 2, "shape": "hvh"},
                name=name,
                legendgroup=name,
                showlegend=False,
                hovertemplate="%{y:.1f} % of the images<extra>" + name + "</extra>",
            ),
            row=2,
            col=1,
        )
    layout(fig, height=size)
    fig.update_xaxes(range=[0, 102])
    fig.update_xaxes(title_text="confidence: the largest probability (%)", row=2, col=1)
    fig.update_yaxes(title_text="right (%)", range=[0, 102], row=1, col=1)
    return fig.update_yaxes(title_text="images (%)", rangemode="tozero", row=2, col=1)


def roc_curves(found: Mapping[str, ROC], ids: Mapping[str, str] | None = None, size: int = 480) -> go.Figure:
    """Receiver operating characteristics; a mark where each model itself draws the line, at even odds.

    Args:
        found: by model, from :func:`analysis.comparison.roc`.
        ids: model -> id that settles its colour, see :func:`analysis.figures.palette.model_color`.
        size: height of the figure in pixels.

    Example:
        >>> roc_curves({name: roc(values, labels, 1) for name, values in logits.items()})
    """
    fig = go.Figure(
        go.Scatter(
            x=[0, 100],
            y=[0, 100],
            mode="lines",
            line={"color": INK, "dash": "dot"},
            name="by chance: 50 %",
            hoverinfo="skip",
        )
    )
    for k, (name, curve) in enumerate(found.items()):
        color = model_color((ids or {}).get(name, name), k)
        table = curve.table
        fig.add_trace(
            go.Scatter(
                x=table.fpr,
                y=table.tpr,
                mode="lines",
                name=f"{name}: area {curve.auc:.1f} %",
                legendgroup=name,
                line={"color": color, "width": 2},
                customdata=table.threshold.round(3),
                hovertemplate="%{y:.1f} % found at %{x:.1f} % false alarms<br>log odds from %{customdata:+.2f}"
                "<extra>" + name + "</extra>",
            )
        )
        own = table[table.threshold >= 0].iloc[-1]
        fig.add_trace(
            go.Scatter(
                x=[own.fpr],
                y=[own.tpr],
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=False,
                marker={"color": color, "size": 11, "symbol": _SYMBOLS[k % len(_SYMBOLS)]},
                hovertemplate="at even odds: %{y:.1f} % found, %{x:.1f} % false alarms<extra>" + name + "</extra>",
            )
        )
    layout(fig, height=size)
    fig.update_xaxes(title_text="false alarms (% of the images without the class)", range=[-1, 101])
    return fig.update_yaxes(title_text="found (% of the images with the class)", range=[-1, 101])


def image_gallery(
    table: pd.DataFrame,
    pictures: Sequence[Any],
    answers: Mapping[str, NDArray[np.int64]],
    classes: Sequence[str],
    size: int | None = None,
) -> go.Figure:
    """Images of a set with what each model, by its number, takes them for: six in a row, in the order of the table.

    Args:
        table: rows of :func:`analysis.comparison.gallery`.
        pictures: of the whole set, uint8 (H, W) or (H, W, 3).
        answers: by model, the class that it gives each image of the set, (n,).
        classes: name of every class.
        size: height of the figure in pixels; by the number of rows and models if None.

    Example:
        >>> image_gallery(gallery(logits), np.zeros((4, 28, 28), np.uint8), {"a": logits["a"].argmax(1)}, classes)
    """
    titles = [
        f"№ {row['index']}{' · ' + classes[row['label']] if 'label' in row else ''}<br>"
        + "<br>".join(f"<b>{k}</b> {classes[answer[row['index']]]}" for k, answer in enumerate(answers.values(), 1))
        for row in table.to_dict("records")
    ]
    columns = max(1, min(6, len(titles)))
    rows = -(-len(titles) // columns) or 1
    words = 24 + 15 * len(answers)  # the height that a title takes, in pixels
    height = size or 28 + (words + 150) * rows
    fig = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.02, vertical_spacing=words / height)
    for k, index in enumerate(table["index"]):
        pixels = np.asarray(pictures[index])
        shown = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        fig.add_trace(go.Image(z=shown, hoverinfo="skip"), k // columns + 1, k % columns + 1)
    named = " &nbsp; ".join(f"<b>{k}</b> {name}" for k, name in enumerate(answers, 1))  # too long for each image
    layout(fig, height=height, title=named, legend=False)
    fig.update_xaxes(visible=False).update_yaxes(visible=False).update_annotations(font_size=11)
    return fig.update_layout(margin_t=28 + words, title_font_size=13)
