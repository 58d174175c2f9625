"""Sampling patterns: the tokens that one location of a layer reads."""

import numpy as np
import pandas as pd
import streamlit as st

from analysis import branches, tracing
from analysis.figures import sampling as figures
from analysis.figures.branches import effect_bars
from analysis.figures.tracing import reconstruction_steps, trace_strip
from analysis.sampling import distinct_sources
from app import cache, state
from app.widgets import figure, selection, tabs, words

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
    drawing, controls = selection.drawing_and_controls()
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
    _go_on(layer, about, row, col, sources)
    state.publish()


def _explain(about: cache.Layer, merged: pd.DataFrame) -> None:
    inside = merged[merged.inside]
    tokens = inside.groupby(["row", "col"]).ngroups
    everything = about.in_height * about.in_width
    numbers = st.container(horizontal=True)
    numbers.metric("Tokens read", tokens, help="Different tokens of the input map that this location reads.")
    numbers.metric("Of the map", f"{tokens / everything:.0%}", help="Share of the input map's tokens.")
    numbers.metric(
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


def _go_on(layer: str, about: cache.Layer, row: int, col: int, sources: pd.DataFrame) -> None:
    labels = list(dict.fromkeys(sources.branch))
    tabs.show(
        "sampling_tab",
        {
            "The same as a table": lambda: _table(sources),
            "Back to the image": lambda: _trace(layer, row, col, labels),
            "How tokens are rebuilt": lambda: _rebuild(layer, about, labels),
            "Without wrap-round": _wrap,
        },
    )


def _table(sources: pd.DataFrame) -> None:
    st.dataframe(
        sources.assign(weight=100 * sources.weight),
        hide_index=True,
        column_config={
            "channel_start": st.column_config.NumberColumn(
                "channels from", help="Of the layer's input; 0 is the first."
            ),
            "channel_stop": st.column_config.NumberColumn("up to", help="This channel is not read any more."),
            "col": "column",
            "d_row": st.column_config.NumberColumn("rows away", help="Below the token, if above 0."),
            "d_col": st.column_config.NumberColumn("columns away", help="Right of the token, if above 0."),
            "weight": st.column_config.NumberColumn("weight", format="%.2f %%"),
        },
        alt="Every source of the token, with its branch, channel quarter and share of the weights",
    )


def _trace(layer: str, row: int, col: int, labels: list[str]) -> None:
    first = ["all", *(label for label in (*labels, "shortcut") if len(labels) > 1 or label == "shortcut")]
    chosen = state.valid("trace_branch", first, "all")
    st.segmented_control(
        "First step through",
        first,
        key="trace_branch",
        required=True,
        on_change=state.remember,
        help="The branch of this layer that the paths take first; after that they take every branch and shortcut.",
    )
    branch = None if chosen == "all" else chosen
    trace = cache.ask(tracing.trace, model, layer, row, col, branch)
    table = trace.table()
    words.badge("computed", "magnitudes of the weights along all paths; no picture is needed")
    figure.show(
        trace_strip(trace, np.asarray(cache.seen(model, picture).image)),
        "trace",
        f"Maps of {len(trace.maps) - 1} layers and the image: paths from row {row}, column {col} of {layer} reach "
        f"{table.tokens.iloc[-1]:,} pixels, {table.share.iloc[-1]:.0%} of the image; {table.wrapped.iloc[-1]:.0%} of "
        "their weight goes round a border.",
        trace.maps,
        figure.loading(model, picture)
        + "from analysis.figures.tracing import trace_strip\nfrom analysis.tracing import trace\n\n"
        f"figure = trace_strip(trace(model, {layer!r}, {row}, {col}, {branch!r}), image)\n",
    )
    st.dataframe(
        table.assign(share=100 * table["share"], wrapped=100 * table.wrapped),
        hide_index=True,
        column_config={
            "layer": st.column_config.TextColumn(help="From the chosen one back to the pixels."),
            "tokens": st.column_config.NumberColumn(format="localized", help="Tokens that at least one path reaches."),
            "share": st.column_config.NumberColumn("of the map", format="%.1f %%", help="Their share of the map."),
            "effective": st.column_config.NumberColumn(
                format="%.1f", help="Tokens that evenly spread paths would reach: exp of the entropy."
            ),
            "wrapped": st.column_config.NumberColumn(
                "round a border", format="%.1f %%", help="Weight share of the paths that wrap at least once."
            ),
        },
        alt="Layer by layer, how many tokens the paths reach and how much of their weight goes round a border",
    )


def _rebuild(layer: str, about: cache.Layer, labels: list[str]) -> None:
    if about.kind != "mlp" or len(labels) < 2:
        st.info("Only binary MLPs with branches rebuild tokens; choose one as the layer.")
        return
    branch = state.valid("rebuilt_branch", labels, labels[-1])
    st.segmented_control(
        "Branch",
        labels,
        key="rebuilt_branch",
        required=True,
        on_change=state.remember,
        help="The branch whose tokens are rebuilt; its four quarters of the channels move each their own way.",
    )
    found = cache.ask(tracing.reconstruction, model, picture, layer, branch)
    words.badge("measured", "bits of the picture in the sidebar at the input of this layer")
    figure.show(
        reconstruction_steps(found),
        "reconstruction",
        f"The four channel quarters of the {branch} branch of {layer}, shifted in {len(found.frames) - 1} steps; play, "
        "or move the slider.",
        {"frames": found.frames},
        figure.loading(model, picture)
        + "from analysis.figures.tracing import reconstruction_steps\nfrom analysis.tracing import reconstruction\n\n"
        f"figure = reconstruction_steps(reconstruction(model, x, {layer!r}, {branch!r}))\n",
    )
    st.caption(
        "Nothing moves until you press Play or drag the slider. What leaves the map on one side comes in on the other."
    )


def _wrap() -> None:
    if not mlps:
        st.info(f"{model.title} has no binary MLP, so nothing wraps round.")
        return
    padded = state.valid("padding", ["wrap-round", "zero padding"], "zero padding") == "zero padding"
    st.segmented_control(
        "Beyond the border",
        ["wrap-round", "zero padding"],
        key="padding",
        required=True,
        on_change=state.remember,
        help="What every binary MLP reads there: the opposite side, as it was trained, or nothing, as a convolution.",
    )
    effect = cache.ask(branches.wrap_effect, model, picture)
    if not padded:
        effect = effect.assign(after=effect.before, p_after=effect.p_before)
    before, after = int(effect.before.argmax()), int(effect.after.argmax())
    moved = float((effect.after - effect.before).abs().max())
    words.badge("measured", "logits of the picture in the sidebar")
    if not padded:
        st.markdown("As it was trained: nothing changes.")
    elif before == after:
        st.markdown(
            f"**{model.classes[before]}** stays the likeliest class, from {effect.p_before[before]:.1%} to "
            f"{effect.p_after[after]:.1%}; logits move by up to {moved:.2f}."
        )
    else:
        st.markdown(
            f"The likeliest class changes from **{model.classes[before]}** to **{model.classes[after]}**; logits move "
            f"by up to {moved:.2f}."
        )
    undo = "" if padded else "effect = effect.assign(after=effect.before, p_after=effect.p_before)\n"
    figure.show(
        effect_bars(effect, model.classes, ("wrap-round", "zero padding" if padded else "wrap-round again")),
        "wrap-round",
        f"Probabilities of the likeliest classes with wrap-round and beside it; logits move by up to {moved:.2f}",
        effect.assign(label=model.classes),
        figure.loading(model, picture)
        + "from analysis.branches import wrap_effect\nfrom analysis.figures.branches import effect_bars\n\n"
        f"effect = wrap_effect(model, x)\n{undo}"
        f"figure = effect_bars(effect, {model.classes!r}, "
        f"{('wrap-round', 'zero padding' if padded else 'wrap-round again')!r})\n",
    )


explore()
words.misleads(
    "The area of a disc is the share of |α·sign W| that reads this source, summed over all outputs. It says how much "
    "the layer *can* take from there, not how much it takes for this picture.",
    "Shifts are cyclic: a token at the border reads tokens from the opposite border, far away in the picture.",
    "A convolution's taps outside the map (crosses) meet zero padding and add nothing.",
    "Paths back to the image are weighed by magnitudes alone: where two of them cancel for this picture, the strip "
    "does not show it. What counts for a picture is on the page *Receptive fields*, measured.",
    "The network was trained with wrap-round. What zero padding does to its logits is the shock of something it never "
    "met, not what a network trained with padding would lose.",
)
