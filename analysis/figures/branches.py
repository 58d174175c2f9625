"""The ledger of a token, maps and shares of its terms, and what switching branches off does."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.branches import EVERYWHERE, Knockout
from analysis.figures.palette import BLUE, DIVERGING, GREY, INK, OLIVE, SEQUENTIAL, SKY, VERMILION, branch_color, layout

Map = NDArray[np.floating]

_TERMS = {"bias": SKY, "context": VERMILION, "activation": OLIVE}
#: Tell apart terms of one colour: branches of one kind, or the sources of one branch.
_PATTERNS = ("", "/", "\\", "x", ".", "-", "|", "+")
_SHARES = {
    "variance_share": "% of the pre-activations' variance",
    "magnitude_share": "% of the terms' magnitude",
}


def token_ledger(
    entries: pd.DataFrame, channels: Sequence[int] | None = None, most: int = 24, size: int | None = None
) -> go.Figure:
    """The ledger of one token: stacked signed bars, a column a channel; a diamond where the network's own value lies.

    Terms above 0 are stacked upwards, those below downwards, so the diamond lies at the upper end less the lower.

    Args:
        entries: from :meth:`analysis.branches.Ledger.token`.
        channels: which, in this order; None: the ``most`` of the largest ``|total|``, largest first.
        most: see ``channels``.
        size: height of the figure in pixels; grows with the number of terms, which the legend names, if None.

    Raises:
        ValueError: no such channel.

    Example:
        >>> token_ledger(ledger(model, x, "mlp1_1").token(0, 0))
    """
    if channels is None:
        shown = entries.loc[entries.total.abs().sort_values(ascending=False, kind="stable").index[:most]]
    elif missing := set(channels) - set(entries.channel):
        raise ValueError(f"the layer has the channels 0 to {len(entries) - 1}, not {min(missing)}.")
    else:
        shown = entries.set_index("channel", drop=False).loc[list(channels)]
    names = shown.channel.astype(str)
    fig = go.Figure()
    seen: dict[str, int] = {}
    for term in entries.columns.drop(["channel", "total"]):
        color = _color(term)
        nth = seen[color] = seen.get(color, -1) + 1
        fig.add_bar(
            x=names,
            y=shown[term],
            name=term,
            marker={"color": color, "pattern": {"shape": _PATTERNS[nth % len(_PATTERNS)], "fgcolor": "white"}},
            hovertemplate="%{y:+.4g}",
        )
    fig.add_scatter(
        x=names,
        y=shown.total,
        name="computed by the network",
        mode="markers",
        marker={"symbol": "diamond", "size": 9, "color": "white", "line": {"color": "black", "width": 2}},
        hovertemplate="%{y:+.4g}",
    )
    layout(fig, height=size or 420 + 16 * max(0, len(fig.data) - 7))
    fig.update_layout(barmode="relative", hovermode="x unified", bargap=0.25)
    fig.update_xaxes(type="category", title_text="channel", showgrid=False)
    return fig.update_yaxes(title_text="added", zeroline=True, zerolinewidth=2)


def term_maps(
    rows: Sequence[Mapping[str, Map]],
    limits: Sequence[Sequence[float]] | None = None,
    token: tuple[int, int] | None = None,
    size: int | None = None,
) -> go.Figure:
    """Maps of one channel side by side: red adds, blue takes away, white does nothing.

    Where all maps have one limit, the bar has their unit; else each map is drawn in parts of its own limit, which its
    title tells.

    Args:
        rows: title -> (H, W), row by row, e.g. from :func:`analysis.branches.term_rows`.
        limits: the value that the strongest colour stands for, of each map; None: the largest magnitude of all.
        token: (row, column) to mark in every map.
        size: height of the figure in pixels; by the number of rows if None.

    Example:
        >>> term_maps(term_rows(ledger(model, x, "mlp1_1").channel(0)))
    """
    if limits is None:
        largest = max((float(np.abs(_finite(map)).max(initial=0)) for row in rows for map in row.values()), default=0)
        limits = [[largest or 1.0] * len(row) for row in rows]
    one = len({limit for row in limits for limit in row}) <= 1
    columns = max(map(len, rows))
    fig, notes, marks = go.Figure(), [], []
    layouts: dict[str, dict[str, Any]] = {}
    # One layout for all cells at once: subplots that are changed one by one take several times as long to build.
    width, height, gap, title = 1.03 / columns, 1 / len(rows), 0.03, 0.2 / len(rows)
    places = [(i, j, name) for i, row in enumerate(rows) for j, name in enumerate(row)]
    for nth, (i, j, name) in enumerate(places):
        values, limit, axis = rows[i][name], limits[i][j], str(nth + 1) if nth else ""
        shown = np.where(np.isfinite(values), values, np.nan)
        reach = limit if one else 1.0
        fig.add_heatmap(
            z=shown if one else shown / limit,
            customdata=shown,
            zmin=-reach,
            zmax=reach,
            colorscale=DIVERGING,
            showscale=nth == 0,
            colorbar={"title": {"text": "added" if one else "share of the map's ±", "side": "right"}},
            hovertemplate="row %{y}, column %{x}<br>%{customdata:+.4g}<extra></extra>",
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
        )
        left, top = j * width, 1 - i * height - title
        x, y = [left, left + width - gap], [top - height + title, top]
        layouts[f"xaxis{axis}"] = {"domain": x, "range": [-0.5, values.shape[1] - 0.5], "anchor": f"y{axis}"}
        layouts[f"yaxis{axis}"] = {"domain": y, "range": [values.shape[0] - 0.5, -0.5], "anchor": f"x{axis}"}
        layouts[f"yaxis{axis}"] |= {"scaleanchor": f"x{axis}", "constraintoward": "top"}
        text = name.replace(" (", "<br>(") + ("" if one else f"<br>±{limit:.3g}")
        notes.append(_note(text, sum(x) / 2, top, yanchor="bottom"))
        if not np.nan_to_num(shown).any():
            why = "0 everywhere" if np.isfinite(values).all() else "not finite"
            notes.append(_note(why, sum(x) / 2, sum(y) / 2, font_color="black"))
        if token is not None:
            r, c = token
            edges = {"x0": c - 0.5, "x1": c + 0.5, "y0": r - 0.5, "y1": r + 0.5}
            black = {"color": "black", "width": 2}
            marks.append({"type": "rect", "xref": f"x{axis}", "yref": f"y{axis}", "line": black, **edges})
    layout(fig, height=size or 20 + 240 * len(rows), legend=False)
    for cell in layouts.values():
        cell.update(visible=False, constrain="domain")
    return fig.update_layout(**layouts, annotations=notes, shapes=marks)


def share_bars(shares: pd.DataFrame, measure: str = "variance_share", size: int = 400) -> go.Figure:
    """What each layer's pre-activations are made of: a stacked bar a layer, a colour a term.

    Args:
        shares: from :func:`analysis.branches.branch_shares`.
        measure: "variance_share", below 0 where a term runs against the sum, or "magnitude_share".
        size: height of the figure in pixels.

    Raises:
        ValueError: another measure.

    Example:
        >>> share_bars(branch_shares(model, images), "magnitude_share")
    """
    if measure not in _SHARES:
        raise ValueError(f"measure is {' or '.join(_SHARES)}, not {measure!r}.")
    fig = go.Figure()
    seen: dict[str, int] = {}
    # Branches first, then what is no branch, from the axis upwards.
    last = [*_TERMS, "shortcut"]
    for term in sorted(dict.fromkeys(shares.term), key=lambda term: last.index(term) + 1 if term in last else 0):
        part = shares[shares.term == term]
        color = _color(term)
        nth = seen[color] = seen.get(color, -1) + 1
        fig.add_bar(
            x=part.layer,
            y=100 * part[measure],
            name=term,
            marker={"color": color, "pattern": {"shape": _PATTERNS[nth % len(_PATTERNS)], "fgcolor": "white"}},
            hovertemplate="%{y:.1f} %",
        )
    layout(fig, height=size)
    order = list(dict.fromkeys(shares.layer))
    fig.update_layout(barmode="relative", hovermode="x unified")
    fig.update_xaxes(tickangle=-45, categoryorder="array", categoryarray=order, showgrid=False)
    return fig.update_yaxes(title_text=_SHARES[measure])


def knockout_heatmap(found: Knockout, column: str = "difference", size: int | None = None) -> go.Figure:
    """What each branch of each layer, switched off alone, does to a set of images.

    Args:
        found: from :func:`analysis.branches.knockout`; sets of several switches have no cell.
        column: "difference", change of top-1 in percentage points, blue where it falls, or "changed", percentage of
            images whose class changes.
        size: height of the figure in pixels; by the number of layers if None.

    Raises:
        ValueError: another column, or a difference where there were no labels.

    Example:
        >>> knockout_heatmap(knockout(model, images, labels))
    """
    table = found.table[found.table.layer != ""]
    if column not in ("difference", "changed") or column not in table:
        labels = "" if "difference" in table else "; a difference needs labels"
        raise ValueError(f"column is difference or changed, not {column!r}{labels}.")
    layers, branches = list(dict.fromkeys(table.layer)), list(dict.fromkeys(table.branch))
    values = table[column] if column == "difference" else 100 * table.changed / found.n
    at = [layers.index(layer) for layer in table.layer], [branches.index(branch) for branch in table.branch]
    z = np.full((len(layers), len(branches)), np.nan)
    text, hover = np.full(z.shape, "", object), np.full(z.shape, "", object)
    z[at] = values
    text[at] = [f"{value:.1f}" if column == "changed" or not value else f"{value:+.1f}" for value in values]
    hover[at] = [_told(row, found.n) for row in table.to_dict("records")]
    reach = float(np.nanmax(np.abs(z))) or 1.0
    fig = go.Figure(
        go.Heatmap(
            z=z,
            x=branches,
            y=layers,
            zmin=-reach if column == "difference" else 0,
            zmax=reach,
            colorscale=DIVERGING if column == "difference" else SEQUENTIAL,
            colorbar={"title": {"text": "change of top-1, points" if column == "difference" else "% of the images that "
                                "change class", "side": "right"}},
            text=text,
            texttemplate="%{text}",
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
            xgap=2,
            ygap=2,
        )
    )  # fmt: skip
    layout(fig, height=size or 90 + 28 * len(layers), legend=False)
    if EVERYWHERE in layers and len(layers) > 1:
        line = {"color": INK, "width": 1}
        y = layers.index(EVERYWHERE) - 0.5
        fig.add_shape(type="line", xref="paper", x0=0, x1=1, y0=y, y1=y, line=line)
    fig.update_xaxes(side="top", showgrid=False, type="category")
    return fig.update_yaxes(autorange="reversed", showgrid=False, type="category")


def effect_bars(
    effect: pd.DataFrame,
    classes: Sequence[str],
    names: tuple[str, str] = ("as it is", "switched off"),
    top: int = 5,
    size: int | None = None,
) -> go.Figure:
    """Probabilities of one image before and after: the classes among the likeliest of either.

    Args:
        effect: from :func:`analysis.branches.switch_effect` or :func:`analysis.branches.wrap_effect`.
        classes: name of every class.
        names: of before and after.
        top: how many of each count.
        size: height of the figure in pixels; by the number of classes if None.

    Raises:
        ValueError: not one name for each class.

    Example:
        >>> effect_bars(wrap_effect(model, x), ["shirt", "shoe", "bag"], ("wrap-round", "zero padding"))
    """
    if len(classes) != len(effect):
        raise ValueError(f"there are {len(classes)} class names for {len(effect)} logits; give one for each.")
    likely = set(effect.nlargest(top, "before").index) | set(effect.nlargest(top, "after").index)
    shown = effect.loc[sorted(likely, key=lambda k: (-effect.before[k], k))]
    labels = [classes[k] for k in shown["index"]]
    fig = go.Figure()
    # Bars of a group stand from bottom to top, and the axis is reversed: the first trace comes first.
    for name, column, color in (names[0], "before", GREY), (names[1], "after", BLUE):
        percent = 100 * shown[f"p_{column}"]
        fig.add_bar(
            x=percent,
            y=labels,
            orientation="h",
            name=name,
            marker_color=color,
            text=[f"{value:.1f} %" for value in percent],
            textposition="outside",
            cliponaxis=False,
            customdata=shown[column],
            hovertemplate=f"<b>%{{y}}</b>, {name}: %{{x:.2f}} %<br>logit %{{customdata:.3f}}<extra></extra>",
        )
    layout(fig, height=size or 90 + 46 * len(shown))
    fig.update_layout(barmode="group", bargap=0.25)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return fig.update_xaxes(range=[0, 118], tickvals=[0, 25, 50, 75, 100], title_text="probability (%)")


def _told(row: Mapping[Hashable, Any], n: int) -> str:
    """A row of :attr:`analysis.branches.Knockout.table`, in words."""
    told = f"<b>{row['branch']}</b> of {row['layer']} off<br>{row['changed']:,} of {n:,} classes change"
    if "top1" in row:
        told += (
            f"<br>top-1 {row['top1']:.1f} %, 95 %: {row['low']:.1f} to {row['high']:.1f}"
            f"<br>{row['broken']:,} turn wrong, {row['mended']:,} turn right, p = {row['p']:.2g}"
        )
    return told


def _note(text: str, x: float, y: float, **how: Any) -> dict[str, Any]:
    """An annotation at a place of the figure, 0 to 1."""
    place = {"text": text, "x": x, "y": y, "xref": "paper", "yref": "paper"}
    return place | {"showarrow": False, "font_size": 12} | how


def _color(term: str) -> str:
    return _TERMS.get(term) or branch_color(term)


def _finite(map: Map) -> Map:
    return map[np.isfinite(map)]
