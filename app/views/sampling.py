"""Sampling patterns: the tokens that one location of a layer reads."""

import numpy as np
import pandas as pd
import streamlit as st

from analysis.figures import sampling as figures
from analysis.sampling import distinct_sources
from app import cache, state
from app.widgets import figure, selection, words

model, picture = selection.chosen()
layers = cache.layers(model)
names = list(layers)
mlps = [name for name in names if layers[name].kind == "mlp"]
# Without MLPs the last layer that reads more than its own token says most.
wide = [name for name in names if layers[name].kernel > 1]
default = (mlps or wide[::-1] or names)[0]

st.markdown(
    "A 3×3 convolution mixes a token with its neighbours. A binary MLP of BCDNet mixes it with **three sets of "
    "tokens** instead: itself (*point*), its four direct neighbours (*short*) and tokens half a map away (*long*). "
    "Each quarter of the channels is taken from one of them."
)


def _go_to_clicked(layer: str) -> None:
    about = layers[layer]
    hit = selection.clicked_token(st.session_state["sampling_map"], about.in_height, about.in_width)
    if hit:
        st.session_state["row"], st.session_state["col"] = hit[0] // about.stride, hit[1] // about.stride
        state.remember()


@st.fragment
def explore() -> None:
    drawing, controls = st.columns([3, 2], gap="large")
    with controls:
        layer = selection.layer(names, default)
        about = layers[layer]
        row, col = selection.token(model, picture, layer)
        sources = cache.token_sources(model, layer, row, col)
        merged = distinct_sources(sources)
        _explain(about, merged)
    with drawing:
        words.badge("computed", f"from the architecture and the weights of {model.title}")
        figure.show(
            figures.token_grid(sources, about.in_height, about.in_width, np.asarray(cache.seen(model, picture).image)),
            "sampled-tokens",
            f"Grid of {about.in_height} by {about.in_width} tokens; row {row}, column {col} of {layer} reads "
            f"{len(merged)} sources.",
            sources,
            figure.loading(model, picture)
            + "from analysis.figures.sampling import token_grid\nfrom analysis.sampling import token_sources\n\n"
            f"sources = token_sources(model, {layer!r}, {row}, {col})\n"
            f"figure = token_grid(sources, {about.in_height}, {about.in_width}, image)\n",
            key="sampling_map",
            on_select=lambda: _go_to_clicked(layer),
            selection_mode="points",
        )
        st.caption("Click a token, or type its row and column. The picture lies under the grid for orientation.")
    with st.expander("The same as a table", icon=":material/table:"):
        st.dataframe(
            sources.assign(weight=100 * sources.weight),
            hide_index=True,
            column_config={"weight": st.column_config.NumberColumn("weight", format="%.2f %%")},
            alt="Every source of the token, with its branch, channel quarter and share of the weights",
        )
    state.publish()


def _explain(about: cache.Layer, merged: pd.DataFrame) -> None:
    inside = merged[merged.inside]
    tokens = inside.groupby(["row", "col"]).ngroups
    everything = about.in_height * about.in_width
    read, shared, border = st.columns(3)
    read.metric("Tokens read", tokens, help="Different tokens of the input map that this location reads.")
    shared.metric("Of the map", f"{tokens / everything:.0%}", help="Share of the input map's tokens.")
    border.metric(
        "Wrapped",
        inside[inside.wrapped].groupby(["row", "col"]).ngroups,
        help="Tokens that are reached only round the border: out on one side of the map and in on the other.",
    )
    for branch, part in inside.groupby("branch", sort=False):
        places = ", ".join(f"({r}, {c})" for r, c in zip(part.row[:9], part.col[:9], strict=True))
        more = f" and {len(part) - 9} more" if len(part) > 9 else ""
        st.markdown(f"**{branch}** reads {len(part)} token{'s' * (len(part) > 1)}: {places}{more}.")
    if about.kind == "mlp" and (about.in_height % 2 == 0 or about.in_width % 2 == 0):
        st.caption(
            "This map has an even side: half a map up and half a map down are the same token, so the long branch "
            "reads fewer than four."
        )


explore()
words.misleads(
    "The area of a disc is the share of |α·sign W| that reads this source, summed over all outputs. It says how much "
    "the layer *can* take from there, not how much it takes for this picture.",
    "Shifts are cyclic: a token at the border reads tokens from the opposite border, far away in the picture.",
    "A convolution's taps outside the map (crosses) meet zero padding and add nothing.",
    "This is one layer. What a token depends on through all earlier layers is on the page *Receptive fields*.",
)
