"""One palette and one layout for every figure, chosen for colour-blind readers and for light and dark pages.

Colours: Okabe and Ito, Color Universal Design (2008), without its yellow and black, which vanish on a light or a dark
page.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
VERMILION, SKY, GREY = "#D55E00", "#56B4E9", "#8C8C8C"
OLIVE = "#999933"  # Tol's muted scheme (2021): one more that stays apart from those above

#: Neutral ink that is legible on white and on near-black: lines, outlines, grids.
INK, GRID = "#8C8C8C", "rgba(140,140,140,0.3)"

SEQUENTIAL = "Cividis"
#: Blue is negative, red positive, the middle zero; use with symmetric limits.
DIVERGING = "RdBu_r"

BRANCHES = {"point": BLUE, "short": ORANGE, "long": GREEN, "conv": PURPLE, "mixer": PURPLE, "shortcut": GREY}
#: Text that is legible on a marker of the branch's colour.
_ON_BRANCH = {"point": "white"}

MODELS = {
    "fmnist_twin": GREY,
    "fmnist_reactnet_a": VERMILION,
    "fmnist_bcdnet_a": BLUE,
    "fmnist_bcdnet_b": SKY,
    "fmnist_bcdnet_a_longer": OLIVE,
    "fmnist_bcdnet_a_pss": ORANGE,
    "fmnist_bcdnet_a_pll": GREEN,
    "fmnist_bcdnet_a_step1": PURPLE,
}
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, OLIVE, GREY)


def branch_color(branch: str) -> str:
    """Colour of a branch; a second branch of a kind ("short 2") has the colour of the first."""
    return BRANCHES.get(branch.split()[0], GREY)


def text_on(branch: str) -> str:
    """Colour for text on a marker of :func:`branch_color`."""
    return _ON_BRANCH.get(branch, "black")


def model_color(name: str, position: int = 0) -> str:
    """Colour of a shipped model by its id; of any other, the one at ``position`` in the cycle."""
    return MODELS.get(name, CYCLE[position % len(CYCLE)])


def layout(fig: go.Figure, height: int = 380, title: str | None = None, legend: bool = True) -> go.Figure:
    """Apply the house layout in place and return the figure.

    Backgrounds are transparent and text has no colour of its own, so the page's theme shows through.

    Args:
        fig: figure to change.
        height: in pixels; the width follows the page.
        title: short title above the plot.
        legend: show one, in a row above the plot.
    """
    into = fig.layout
    into.height, into.showlegend = height, legend
    into.paper_bgcolor = into.plot_bgcolor = "rgba(0,0,0,0)"
    into.margin = {"l": 8, "r": 8, "t": 64 if title else 36 if legend else 8, "b": 8}
    change(into.font, size=13)
    change(into.hoverlabel, align="left")
    change(
        into.legend,
        orientation="h",
        x=0,
        y=1.02,
        xanchor="left",
        yanchor="bottom",
        title={"text": ""},
        traceorder="normal",
    )
    if title:
        into.title = {"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left", "y": 0.98, "yanchor": "top"}
    for axis in (*fig.select_xaxes(), *fig.select_yaxes()):
        # Margins grow with the labels, so none is cut; to look for one that is takes a browser long.
        change(axis, gridcolor=GRID, zerolinecolor=INK, linecolor=GRID, automargin=True, ticklabeloverflow="allow")
    return fig


def change(part: Any, **properties: Any) -> None:
    """Set properties of a part of a figure's layout, such as an axis, all at once, in place of what they were.

    The update methods of plotly, which tell the figure of each property, take several times as long: a page with five
    figures would answer a click a tenth of a second later.
    """
    part.parent[part.plotly_name] = part.to_plotly_json() | properties


#: Room in pixels for what stands beside a map's axes: numbers of three digits and a title.
_BESIDE, _BELOW = 52, 52


def square_axes(fig: go.Figure, height: int, width: int, margin: float = 0.0) -> go.Figure:
    """Axes of a map of ``height`` x ``width`` square cells, row 0 at the top, with ``margin`` cells of room around.

    Margins are settled beforehand, because a browser that has to find them draws the map twice.
    """
    for axis in (fig.layout.xaxis, fig.layout.yaxis):
        title = axis.title.to_plotly_json() | {"standoff": 10}  # or it would lie on the numbers
        change(axis, constrain="domain", showgrid=False, zeroline=False, automargin=False, title=title)
    change(fig.layout.xaxis, range=[-0.5 - margin, width - 0.5 + margin])
    change(fig.layout.yaxis, range=[height - 0.5 + margin, -0.5 - margin], scaleanchor="x")
    change(fig.layout.margin, l=_BESIDE, b=_BELOW)
    return fig


def backdrop(fig: go.Figure, image: NDArray[np.uint8] | None, height: int, width: int) -> go.Figure:
    """Lay an image, uint8 (H, W) or (H, W, 3), under a map of ``height`` x ``width`` cells; None lays nothing."""
    if image is not None:
        picture = Image.fromarray(np.asarray(image))
        # Browsers smooth what they enlarge; small images must keep their pixels.
        factor = max(1, 448 // max(picture.size))
        fig.add_layout_image(
            source=picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST),
            xref="x",
            yref="y",
            x=-0.5,
            y=-0.5,
            sizex=width,
            sizey=height,
            sizing="stretch",
            layer="below",
        )
    return fig
