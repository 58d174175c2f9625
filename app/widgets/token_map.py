"""The map on which one chooses a token: it answers in the browser at once, and the page follows."""

from pathlib import Path

import pandas as pd
import streamlit as st

from analysis.figures.palette import branch_color
from app import state
from app.cache import Layer

_HTML = """
<svg tabindex="0" role="application" xmlns="http://www.w3.org/2000/svg"></svg>
<p role="status"></p>
"""
_CSS = """
svg { display: block; width: 100%; max-width: 16rem; cursor: crosshair; touch-action: manipulation; }
svg:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
.veil { fill: var(--st-background-color); opacity: 0.45; }
.grid { stroke: var(--st-border-color); stroke-width: 0.03; }
circle { stroke: var(--st-background-color); stroke-width: 0.04; }
.token { fill: none; stroke: #D55E00; stroke-width: 0.12; vector-effect: none; }
[role=status] { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); margin: 0; }
"""
_map = st.components.v2.component(
    "token_map", html=_HTML, css=_CSS, js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
)


def choose(key: str, layer: str, about: Layer, sources: pd.DataFrame, image: str | None) -> None:
    """Draw the input map of a layer with the chosen token, ``row`` and ``col`` of the selection, and its sources.

    Args:
        key: of the component.
        layer: name of the layer.
        about: its sizes.
        sources: from :func:`analysis.sampling.token_sources`, of any token; they move along with it.
        image: data URL of a picture to lie under the map.
    """
    # What reads every token looks the same from everywhere, and circles would hide the picture.
    shown = sources if about.kind != "mixer" else sources.iloc[:0]
    merged = shown.groupby(["branch", "d_row", "d_col"], sort=False).weight.sum().reset_index()
    largest = merged.weight.max()

    def follow() -> None:
        chosen = st.session_state[key].token
        if chosen:
            st.session_state["row"] = min(max(int(chosen["row"]), 0), about.height - 1)
            st.session_state["col"] = min(max(int(chosen["col"]), 0), about.width - 1)
            state.remember()

    _map(
        key=key,
        data={
            "layer": f"{layer} {about.in_height} {about.in_width}",
            "height": about.in_height,
            "width": about.in_width,
            "stride": about.stride,
            "row": st.session_state["row"],
            "col": st.session_state["col"],
            "image": image,
            "sources": [
                {
                    "dr": int(d_row),
                    "dc": int(d_col),
                    "color": branch_color(branch),
                    "radius": 0.15 + 0.25 * (weight / largest) ** 0.5,
                    "wraps": about.kind == "mlp",
                }
                for branch, d_row, d_col, weight in merged.itertuples(index=False)
            ],
        },
        on_token_change=follow,
    )
