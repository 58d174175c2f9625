"""Signed maps of evidence over the image they explain, and the predictions they explain."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image
from plotly.colors import label_rgb, sample_colorscale, unlabel_rgb
from plotly.subplots import make_subplots

from analysis.figures.palette import BLUE, DIVERGING, GREY, backdrop, change, layout

Map = NDArray[np.floating]
Picture = NDArray[np.uint8]
#: The part of an image that a map covers: (left, top, right, bottom) in the image's pixels.
Box = tuple[float, float, float, float]

#: Longest side, in pixels, of the images drawn under the maps of a row, all together; none is coarser than its map.
_LONGEST = 800
#: The image under a map is drawn in these shades of grey, so that both blue and red stand out on its dark parts too.
_DARKEST, _LIGHTEST = 110, 245


def overlay(
    map: Map,
    image: Picture | None = None,
    unit: str = "logit",
    size: int = 420,
    limit: float | None = None,
    box: Box | None = None,
) -> go.Figure:
    """One signed map over the image in grey.

    The scale is symmetric and zero is clear: only the colour's strength, not the image under it, tells the value.

    Args:
        map: float (H, W); values that are not finite are left out.
        image: uint8 (H, W) or (H, W, 3), the pixels the network saw; with ``box``, the picture they were taken from.
        unit: of the values, for the colour bar.
        size: height of the figure in pixels.
        limit: what the strongest colour stands for, above 0; the largest magnitude if None.
        box: the part of the image that the map covers; all of it if None.

    Example:
        >>> overlay(attribute(model, x, 0, "saliency").map)
    """
    return side_by_side({"": map}, [image], unit=unit, size=size, limit=limit, box=box)


def side_by_side(
    maps: Mapping[str, Map],
    images: Sequence[Picture | None] | Picture | None = None,
    shared: bool = True,
    unit: str = "logit",
    size: int | None = None,
    limit: float | None = None,
    box: Box | None = None,
) -> go.Figure:
    """Several signed maps, at most four in a row, each over its image.

    Args:
        maps: title -> float (H, W).
        images: one for all, or one for each, uint8 (H, W) or (H, W, 3).
        shared: one scale for all, so that colours compare; else each map is divided by its own largest magnitude, which
            its title then tells.
        unit: of the values, for the colour bar.
        size: height of the figure in pixels; by the number of rows and columns if None.
        limit: what the strongest colour of a shared scale stands for, above 0; the largest magnitude of all if None.
        box: the part of each image that its map covers; all of it if None.

    Example:
        >>> side_by_side({name: attribute(model, x, 0, name).map for name in ("saliency", "grad_cam")})
    """
    pictures = images if isinstance(images, Sequence) else [images] * len(maps)
    limits = {title: _limit(map) for title, map in maps.items()}
    limit = limit or max(limits.values(), default=0) or 1.0
    titles = list(maps) if shared else [f"{title}<br>largest ±{limits[title]:.2g}" for title in maps]
    columns = max(1, min(4, len(maps)))
    rows = -(-len(maps) // columns) or 1
    fig = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.03, vertical_spacing=0.16 / rows)
    for k, (title, values) in enumerate(maps.items()):
        where = k // columns + 1, k % columns + 1
        _add_map(fig, where, values, limit if shared else limits[title] or 1.0, not shared, pictures[k], box, columns)
    _add_color_bar(fig, limit if shared else 1.0, unit if shared else "share of each<br>map's largest")
    layout(fig, height=size or 60 + (310, 310, 290, 240)[columns - 1] * rows, legend=False)
    for axis in (*fig.select_xaxes(), *fig.select_yaxes()):
        change(axis, visible=False, constrain="domain", matches=None)
    fig.layout.margin.t = 12 if titles == [""] else 34 if shared else 50
    return fig


def map_grid(
    maps: Mapping[tuple[str, str], Map],
    limits: Mapping[tuple[str, str], float],
    image: Picture | None = None,
    unit: str = "logit",
    size: int | None = None,
    box: Box | None = None,
) -> go.Figure:
    """Signed maps by row and column, each on its own limits, which its title tells where they are not all the same.

    Args:
        maps: (row, column) -> float (H, W), in the order of rows and columns; some may be missing.
        limits: what the strongest colour of each map stands for, above 0.
        image: uint8 (H, W) or (H, W, 3), under every map.
        unit: of the values, for the colour bar.
        size: height of the figure in pixels; by the number of rows if None.
        box: the part of the image that the maps cover; all of it if None.

    Example:
        >>> map_grid({("shirt", "slope"): attribute(model, x, 0, "saliency").map}, {("shirt", "slope"): 0.1})
    """
    rows, columns = (list(dict.fromkeys(cell[k] for cell in maps)) for k in (0, 1))
    one = len(set(limits.values())) <= 1
    titles = []
    for row in rows:
        for column in columns:
            told = f"<br>scale ±{limits[row, column]:.2g}" if not one and (row, column) in maps else ""
            title = f"{row}<br>{column}".replace(" (", "<br>(")
            titles.append(title + told if (row, column) in maps else "")
    count = max(1, len(rows))
    spacing = min(0.3, 70 / (240 * count))
    fig = make_subplots(count, max(1, len(columns)), subplot_titles=titles, horizontal_spacing=0.03,
                        vertical_spacing=spacing)  # fmt: skip
    for (row, column), values in maps.items():
        i, j = rows.index(row), columns.index(column)
        name = f"{row} · {column}<br>"
        _add_map(fig, (i + 1, j + 1), values, limits[row, column], not one, image, box, len(columns), name)
    largest = next(iter(limits.values()), 1.0)
    _add_color_bar(fig, largest if one else 1.0, unit if one else "share of each<br>title's largest")
    layout(fig, height=size or 70 + 240 * count, legend=False)
    fig.update_xaxes(visible=False, constrain="domain", matches=None)
    fig.update_yaxes(visible=False, constrain="domain", matches=None)
    # Titles of up to four lines, one above the other.
    return fig.update_annotations(font_size=12).update_layout(margin_t=70)


def wipe(
    a: Map,
    b: Map,
    names: tuple[str, str],
    cut: float,
    image: Picture | None = None,
    size: int = 420,
    box: Box | None = None,
) -> go.Figure:
    """Two maps in one: ``a`` left of a line and ``b`` right of it, on one scale.

    Args:
        a, b: float (H, W) of one shape.
        names: what to call them.
        cut: where the line is, as a share of the width.
        image: uint8 (H, W) or (H, W, 3) under both.
        size: height of the figure in pixels.
        box: the part of the image that the maps cover; all of it if None.

    Example:
        >>> wipe(*(attribute(model, x, k, "saliency").map for k in (0, 1)), ("shirt", "shoe"), 0.5)
    """
    height, width = a.shape
    at = round(cut * width)
    both = np.where(np.arange(width) < at, a, b)
    limit = max(_limit(a), _limit(b)) or 1.0
    title = f"{names[0]} | {names[1]}", f"line at {cut:.0%}"
    fig = map_grid({title: both}, {title: limit}, image, size=size, box=box)
    left, top, right, bottom = (0, 0, width, height) if image is None or box is None else box
    x = left + (right - left) * at / width - 0.5
    return fig.add_shape(type="line", x0=x, x1=x, y0=top - 0.5, y1=bottom - 0.5, line={"color": GREY, "width": 2})


def difference(
    a: Map,
    b: Map,
    names: tuple[str, str],
    image: Picture | None = None,
    unit: str = "logit",
    size: int | None = None,
    box: Box | None = None,
) -> go.Figure:
    """Two maps and the first less the second, all three on one scale.

    Args:
        a, b: float (H, W) of one shape.
        names: what to call them.
        image: uint8 (H, W) or (H, W, 3), under all three.
        unit: of the values, for the colour bar.
        size: height of the figure in pixels.
        box: the part of the image that the maps cover; all of it if None.

    Example:
        >>> difference(*(attribute(model, x, k, "saliency").map for k in (0, 1)), ("shirt", "shoe"))
    """
    first, second = names
    maps = {first: a, second: b, f"{first} − {second}": a - b}
    return side_by_side(maps, image, unit=unit, size=size, box=box)


def top_bars(top: pd.DataFrame, chosen: int | None = None, size: int | None = None) -> go.Figure:
    """The likeliest classes of one image as bars of probability.

    Args:
        top: rows of :func:`analysis.comparison.top_k`, likeliest first.
        chosen: class index to highlight; the others are grey. None highlights the first.
        size: height of the figure in pixels; grows with the number of bars if None.

    Example:
        >>> top_bars(top_k(model, x, ["shirt", "shoe", "bag"]))
    """
    chosen = int(top["index"].iloc[0]) if chosen is None else chosen
    percent = 100 * top["probability"]
    fig = go.Figure(
        go.Bar(
            x=percent,
            y=top["label"],
            orientation="h",
            marker_color=[BLUE if index == chosen else GREY for index in top["index"]],
            text=[f"{value:.1f} %" for value in percent],
            textposition="outside",
            cliponaxis=False,
            customdata=top["logit"],
            hovertemplate="<b>%{y}</b>: %{x:.2f} %<br>logit %{customdata:.3f}<extra></extra>",
        )
    )
    # With less than this the axis' title lies on its numbers.
    layout(fig, height=size or max(140, 44 + 30 * len(top)), legend=False)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    # Room on the right for the longest bar's number.
    return fig.update_xaxes(range=[0, 130], tickvals=[0, 25, 50, 75, 100], title_text="probability (%)")


def _add_map(
    fig: go.Figure,
    where: tuple[int, int],
    values: Map,
    limit: float,
    shares: bool,
    picture: Picture | None,
    box: Box | None,
    across: int,
    name: str = "",
) -> None:
    """One map at (row, column) of subplots, ``across`` in a row, over its picture; ``shares``: coloured by those of
    ``limit``.

    A map that covers a part of the picture keeps its own cells, stretched over that part: the axes count the picture's
    pixels.
    """
    height, width = rows, columns = values.shape
    if picture is None or box is None:
        box = 0, 0, width, height
    else:
        rows, columns = picture.shape[:2]
    left, top, right, bottom = box
    dx, dy = (right - left) / width, (bottom - top) / height
    shown = np.where(np.isfinite(values), values, np.nan)
    reach = 1.0 if shares else limit
    fig.add_trace(
        go.Heatmap(
            z=shown / limit if shares else shown,
            x0=left + dx / 2 - 0.5,
            dx=dx,
            y0=top + dy / 2 - 0.5,
            dy=dy,
            zmin=-reach,
            zmax=reach,
            colorscale=_clear_at_zero(),
            showscale=False,
            customdata=shown,
            hovertemplate=name + "row %{y:.0f}, column %{x:.0f}<br>%{customdata:+.4g}<extra></extra>",
        ),
        *where,
    )
    axes = fig.data[-1].xaxis, fig.data[-1].yaxis
    if picture is not None:
        _lay_under(fig, picture, (rows, columns), axes, max(height, width, _LONGEST // across))
    if box != (0, 0, columns, rows):
        edges = {"x0": left - 0.5, "x1": right - 0.5, "y0": top - 0.5, "y1": bottom - 0.5}
        fig.add_shape(type="rect", line={"color": GREY, "width": 1, "dash": "dot"}, xref=axes[0], yref=axes[1], **edges)
    if text := _blank(values):
        over = {"xref": f"{axes[0]} domain", "yref": f"{axes[1]} domain", "x": 0.5, "y": 0.5, "showarrow": False}
        fig.add_annotation(text=text, font_color="black", bgcolor="rgba(255,255,255,0.8)", **over)
    change(fig.layout[f"xaxis{axes[0][1:]}"], range=[-0.5, columns - 0.5])
    change(fig.layout[f"yaxis{axes[1][1:]}"], range=[rows - 0.5, -0.5], scaleanchor=axes[0])


def _blank(map: Map) -> str:
    """Why there is nothing, or not everything, to see on a map; "" if it is all there."""
    broken = map.size - int(np.isfinite(map).sum())
    if broken:
        return "not finite" if broken == map.size else f"{broken} of {map.size} values<br>are not finite"
    return "" if map.any() else "0 everywhere"


def _limit(map: Map) -> float:
    finite = np.abs(map[np.isfinite(map)])
    return float(finite.max()) if finite.size else 0.0


@cache
def _shades() -> list[tuple[float, tuple[float, float, float], float]]:
    """Position 0..1 on the signed scale, colour (r, g, b) in 0..255, opacity.

    The palette's whitish middle is skipped: opacity alone fades to zero, or small values would look like a veil.
    """
    shades = []
    for position in np.linspace(0, 1, 33):
        strength = abs(2 * position - 1)
        hue = 0.5 + np.sign(position - 0.5) * (0.22 + 0.26 * strength)
        rgb = unlabel_rgb(sample_colorscale(DIVERGING, [float(hue)])[0])
        shades.append((float(position), rgb, 0.94 * strength**0.75))
    return shades


def _clear_at_zero() -> list[tuple[float, str]]:
    return [(position, f"rgba({r:.0f},{g:.0f},{b:.0f},{a:.3f})") for position, (r, g, b), a in _shades()]


def _add_color_bar(fig: go.Figure, limit: float, title: str) -> None:
    """A bar of the colours as they look over mid-grey; the map's own bar would let the page show through."""
    grey = (_DARKEST + _LIGHTEST) / 2
    scale = [
        (position, label_rgb(tuple(round(a * channel + (1 - a) * grey) for channel in rgb)))
        for position, rgb, a in _shades()
    ]
    fig.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            hoverinfo="skip",
            marker={
                "color": [0],
                "cmin": -limit,
                "cmax": limit,
                "colorscale": scale,
                "showscale": True,
                "colorbar": {"title": {"text": title}, "thickness": 14, "tickformat": ".3~g", "nticks": 7},
            },
        )
    )


def _lay_under(fig: go.Figure, picture: Picture, cells: tuple[int, int], axes: tuple[str, str], longest: int) -> None:
    grey = Image.fromarray(picture).convert("L")
    grey.thumbnail((longest, longest))
    pale = _DARKEST + np.asarray(grey) / 255 * (_LIGHTEST - _DARKEST)
    backdrop(fig, pale.astype(np.uint8), *cells)
    fig.layout.images[-1].update(xref=axes[0], yref=axes[1])
