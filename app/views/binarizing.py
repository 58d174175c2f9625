"""Binarization: what one bit a weight and one bit an activation cost, and what the bits can still tell."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from analysis import binarization, bits
from analysis.figures import binarization as figures
from analysis.figures import bits as bit_figures
from app import cache, jobs, state
from app.cache import Model
from app.widgets import boxes, figure, scale, selection, tabs, words

_MEASURES = {"l1": "L1, the paper's Eq. 23", "relative": "relative to mean |W|", "mse": "mean square"}
_PARTS = {"mlps": "MLP layers", "group": "blocks", "layer": "all layers"}
_MARKS = {
    "nothing": "nothing",
    "latent": "latent W, from … to",
    "-1": "sign W = −1",
    "+1": "sign W = +1",
    "scaled": "α sign W, from … to",
}
_SHOWN = {"nearest": "nearest bit", "mean": "mean distance", "channel": "one channel"}
_TOLD = {
    "entropy_position": "entropy of a bit over the images",
    "entropy_channel": "entropy of a channel",
    "balance": "balance, the mean bit",
    "constant": "bits that never change",
    "information": "sum of the bits' entropies",
}
#: Beside the picture, for thresholds that follow it: the first of the chosen set.
_BESIDE = 32

model, picture = selection.chosen()
models = selection.models()
tables = {m.title: cache.ask(binarization.binarization_error, m) for m in models}
if tables[model.title].empty:
    st.info("This network has no layer with weights to binarize.")
    st.stop()
errors = pd.concat([table.assign(model=title) for title, table in tables.items() if len(table)], ignore_index=True)

st.markdown(
    "Training keeps real *latent* weights **W**; the network multiplies by **α·sign W**, one bit a weight and one "
    "scale α = mean |W| an output channel. The error is what lies between the two."
)
if real := [m.title for m in models if not m.config.binary_weights]:
    st.info(
        f"{' and '.join(real)} work{'s' * (len(real) == 1)} with real weights. Shown is what binarizing them as they "
        "are would do.",
        icon=":material/info:",
    )

# -- the weights of all models ----------------------------------------------------------------------------------------


def _verdict(summary: pd.DataFrame) -> str:
    """What the models say to the paper's order, in a sentence or two."""
    layers, as_paper, opposite = int(summary.layers.sum()), int(summary.as_paper.sum()), int(summary.opposite.sum())
    if as_paper == layers:
        return f"**The order shows** in all {layers} MLP layers."
    smallest = "; ".join(
        f"in {row.model} that of the {row.smallest} branch, in {row.smallest_in} of {row.layers}"
        for row in summary.itertuples()
    )
    begin = (
        f"**The order does not show here**: in none of the {layers} MLP layers"
        if not as_paper
        else f"**The order shows in {as_paper} of {layers} MLP layers**; not in all"
    )
    return (
        f"{begin} does the error fall strictly with the distance; in {opposite} it rises strictly instead. The "
        f"smallest error is most often: {smallest}."
    )


@st.fragment
def compared() -> None:
    with st.container(horizontal=True):
        measure = state.valid("measure", list(_MEASURES), "l1")
        st.segmented_control(
            "Measure",
            list(_MEASURES),
            format_func=_MEASURES.__getitem__,
            key="measure",
            required=True,
            on_change=state.remember,
            help="L1 depends on the size of the weights; the relative error does not, so layers can be compared.",
        )
        summary = binarization.order_summary(errors, measure)
        parts = [name for name in _PARTS if name != "mlps" or len(summary)]
        part = state.valid("part", parts, parts[0])
        st.segmented_control(
            "Layers",
            parts,
            format_func=_PARTS.__getitem__,
            key="part",
            required=True,
            on_change=state.remember,
            help="The paper compares the branches of the MLP layers (its Fig. 6); blocks average over their layers.",
        )
    shown = (
        bits.errors_by_block(errors)
        if part == "group"
        else errors[errors.branch != "conv"]
        if part == "mlps"
        else errors
    )
    by = "group" if part == "group" else "layer"
    words.badge("computed", "from these models' weights")
    figure.show(
        bit_figures.block_errors(shown, measure, by),
        "binarization-error",
        f"Binarization error of every branch in {shown[by].nunique()} {_PARTS[part]} of {', '.join(tables)}; "
        f"largest in {shown.sort_values(measure)[by].iloc[-1]} of {shown.sort_values(measure).model.iloc[-1]}",
        shown,
        figure.loading_models(models) + "from analysis.bits import compare_errors, errors_by_block\n"
        "from analysis.figures.bits import block_errors\n\n"
        "errors = compare_errors(models)\n"
        + {"group": "errors = errors_by_block(errors)\n", "mlps": "errors = errors[errors.branch != 'conv']\n"}.get(
            part, ""
        )
        + f"figure = block_errors(errors, {measure!r}, {by!r})\n",
    )
    if part == "mlps" and (plain := [title for title in tables if title not in set(shown.model)]):
        st.caption(f"Not shown: {', '.join(plain)}, without MLP layers. Blocks and all layers show convolutions too.")
    if summary.empty:
        st.caption(
            "None of these networks has an MLP with branches of different distances, so there is no order to check."
        )
    else:
        left, right = boxes.beside(450, 450)
        with left:
            words.badge("quoted", "BCDNet, section 5.3.3")
            st.markdown(
                "“Binarization error is improved by decreasing of exchange distance, which indicates the long-range "
                "branch is easier to optimize than the short-range branch.” Said of BCDNet-A on "
                "ImageNet-1K, and read as **point > short > long** in almost every block (Fig. 6). The order is "
                "inferred from this sentence: its formula is lost from the text this program was written from."
            )
        with right:
            words.badge("computed", "from these models' weights")
            st.markdown(_verdict(summary))
        st.dataframe(
            summary,
            hide_index=True,
            column_config={
                "model": "Model",
                "layers": st.column_config.NumberColumn("MLPs", help="Layers with branches of several distances."),
                "as_paper": st.column_config.NumberColumn("as quoted", help="Strictly falling with the distance."),
                "opposite": st.column_config.NumberColumn("opposite", help="Strictly rising with the distance."),
                "smallest": st.column_config.TextColumn("smallest", help="Most often the branch of least error."),
                "smallest_in": st.column_config.NumberColumn("in", help="In so many of the MLPs."),
                "order": st.column_config.TextColumn("order of the means", help="Over all MLPs of the model."),
            },
            alt="In how many MLPs of each model the quoted order of the branches' errors shows",
        )
    state.publish()


compared()

# -- the weights of one layer -----------------------------------------------------------------------------------------

st.subheader("One layer")
names = list(dict.fromkeys(tables[model.title].layer))
mlps = list(binarization.branch_order(tables[model.title]).layer)
layer = selection.layer(names, mlps[0] if mlps else names[-1], help="Of the histograms, and of the details below.")


def _mark(edges: np.ndarray) -> None:
    """Take over what was dragged, which the redrawn chart forgets."""
    hit = figures.brushed(st.session_state["figure-weights"]["selection"], edges)
    if hit is not None:
        view, low, high = hit
        st.session_state["mark"] = view if view != "sign" else f"{low:+.0f}" if low == high else "nothing"
        if view != "sign":
            st.session_state["mark_from"], st.session_state["mark_to"] = (
                int(k) for k in edges.searchsorted([low, high])
            )
    state.remember()


@st.fragment
def weights() -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        branches = list(errors.branch[(errors.model == model.title) & (errors.layer == layer)])
        state.valid("branch", branches, branches[0])
        branch = st.selectbox(
            "Branch",
            branches,
            key="branch",
            on_change=state.remember,
            help="Each branch has weights and scales of its own.",
        )
        state.valid("mark", list(_MARKS), "nothing")
        mark = st.selectbox(
            "Mark the weights with",
            list(_MARKS),
            format_func=_MARKS.__getitem__,
            key="mark",
            on_change=state.remember,
            help="Marked weights stand out in all three histograms; dragging over one of them marks too.",
        )
        found = cache.ask(binarization.latent_weights, model, layer, branch)
        edges = binarization.histogram_edges(found)
        low, high = {"-1": (-1.0, -1.0), "+1": (1.0, 1.0)}.get(mark, (0.0, 0.0))
        state.valid("mark_from", range(len(edges)), len(edges) // 2)
        state.valid("mark_to", range(len(edges)), len(edges) * 3 // 4)
        if mark in ("latent", "scaled"):
            digits = max(0, int(np.ceil(-np.log10(edges[1] - edges[0]))) + 1)
            ends = [
                st.select_slider(
                    label,
                    range(len(edges)),
                    format_func=lambda k: f"{edges[k]:+.{digits}f}",
                    key=key,
                    on_change=state.remember,
                    help="An edge of a bin; the marked range lies between the two ends.",
                )
                for label, key in (("From", "mark_from"), ("To", "mark_to"))
            ]
            low, high = (float(edges[end]) for end in sorted(ends))
    view = "sign" if mark in ("-1", "+1") else mark
    marked = None if mark == "nothing" else binarization.mark_weights(found, low, high, view)
    words.badge("computed", f"from the weights of {model.title}")
    figure.show(
        figures.weight_histograms(found, marked=None if marked is None else marked.chosen),
        "weights",
        f"Histograms of the latent, binary and scaled weights of {layer}, {branch}"
        + (f"; {marked.n:,} weights marked" if marked else ""),
        {"latent": found.latent, "sign": found.sign, "scaled": found.scaled, "alpha": found.alpha}
        | ({"marked": marked.chosen} if marked else {}),
        figure.loading(model) + "from analysis.binarization import latent_weights, mark_weights\n"
        "from analysis.figures.binarization import weight_histograms\n\n"
        f"weights = latent_weights(model, {layer!r}, {branch!r})\n"
        + (f"marked = mark_weights(weights, {low!r}, {high!r}, {view!r})\n" if marked else "")
        + f"figure = weight_histograms(weights{', marked=marked.chosen' if marked else ''})\n",
        on_select=lambda: _mark(edges),
        selection_mode="box",
    )
    statistics = cache.ask(binarization.weight_statistics, model).set_index(["layer", "branch"]).loc[(layer, branch)]
    st.markdown(
        f"**{statistics.positive:.1%}** of the weights are +1: near 50 %, a weight carries a whole bit. "
        f"**{statistics.near_zero:.1%}** are near zero, below a tenth of their α: a little training flips them."
    )
    if marked is None:
        st.caption("Drag over a histogram: the same weights stand out in the other two.")
    elif not marked.n:
        st.caption("No weight lies in this range.")
    else:
        st.caption(
            f"Marked: {marked.n:,} weights, {marked.share:.1%} of the branch; {marked.positive:.1%} of them are "
            f"+1, {marked.near_zero:.1%} near zero. They make {marked.error_share:.1%} of the branch's error, "
            f"{marked.l1:.3g} each on average."
        )
    state.publish()


weights()

# -- the bits of one picture and of many ------------------------------------------------------------------------------


def _activations() -> None:
    left, right = boxes.beside(450, 450)
    with left:
        words.badge("measured", "on the picture in the sidebar")
        balance = cache.ask(binarization.activation_statistics, model, picture)
        figure.show(
            figures.activation_balance(balance),
            "activations",
            "Share of +1 and −1 bits at every sign of the network",
            balance,
            figure.loading(model, picture) + "from analysis.binarization import activation_statistics\n"
            "from analysis.figures.binarization import activation_balance\n\n"
            "figure = activation_balance(activation_statistics(model, x))\n",
        )
        st.caption(
            "A bit that is almost always the same tells little (low entropy). Outside [−1, 1) the training surrogate "
            "passes no gradient."
        )
    with right:
        one = cache.ask(binarization.activation_error, model, picture)
        several, loading = None, ""
        state.valid("within", (False, True), False)
        slot = st.container()
        if st.toggle(
            "Within a set of images",
            key="within",
            on_change=state.remember,
            help="Shows where the picture's errors lie among those of many images.",
        ):
            images = selection.images()
            if images is not None:
                n = selection.count(images)
                loading = figure.loading_images(images, n)
                several = jobs.answer(
                    binarization.activation_error, model, images.first(n), forwards=n, what="Errors of activations"
                )
        with slot:
            words.badge(
                "measured",
                "on the picture" if several is None else f"on the picture, and on {several.image.nunique():,} images",
            )
            figure.show(
                figures.activation_errors(one, several),
                "activation-errors",
                "Relative error of the signs of the activations at every layer",
                one if several is None else pd.concat([one.assign(image="picture"), several]),
                figure.loading(model, picture)
                + (loading if several is not None else "")
                + "from analysis.binarization import activation_error\n"
                "from analysis.figures.binarization import activation_errors\n\n"
                "one = activation_error(model, x)\n"
                + ("several = activation_error(model, images)\n" if several is not None else "")
                + f"figure = activation_errors(one{', several' if several is not None else ''})\n",
            )
        st.caption(
            "Eq. 23 asked of what reaches each sign, with one scale α = mean |A| a layer and image. The networks "
            "multiply by bare signs; the batch normalisation behind each product can hold such a scale."
        )


def _margins() -> None:
    st.markdown(
        "The **margin** of a bit is the map minus its threshold: the sign is the bit, the size says how much the map "
        "could change before the bit turns."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        show: int | str = state.valid("margin", list(_SHOWN), "nearest")
        st.segmented_control(
            "Shown of each token",
            list(_SHOWN),
            format_func=_SHOWN.__getitem__,
            key="margin",
            required=True,
            on_change=state.remember,
            help="The margin of its bit nearest to a threshold, the mean distance of its bits, or one channel's.",
        )
        scope = selection.scale()
        state.valid("spread", (True, False), True)
        relative = st.toggle(
            "In units of spread",
            key="spread",
            on_change=state.remember,
            help="Divides by each channel's standard deviation over the map, so that layers can be compared.",
        )
    options = [name for name in names if name != layer]
    left, right = st.columns(2)
    more = state.several("margin_layers", options, (), 2)
    with left:
        more = st.multiselect(
            "Further layers",
            options,
            key="margin_layers",
            max_selections=2,
            on_change=state.remember,
            placeholder=f"none beside {layer}",
            help="One more row of maps each.",
        )
    rows = [layer, *more]
    if show == "channel":
        counts = {m: cache.ask(binarization.thresholds, m).layer.value_counts() for m in models}
        fewest = min(int(count[name]) for count in counts.values() for name in rows if name in count)
        state.valid("channel", range(fewest), 0)
        show = int(
            right.number_input(
                "Channel",
                0,
                fewest - 1,
                key="channel",
                on_change=state.remember,
                help="Counted from 0, as far as all layers shown have channels.",
            )
        )
    signs = {m: list(cache.ask(binarization.weight_statistics, m).layer) for m in models}
    grid = [
        [cache.ask(bits.layer_margins, m, picture, name, show, relative) if name in signs[m] else None for m in models]
        for name in rows
    ]
    limits = scale.limits([[None if found is None else found.value for found in row] for row in grid], scope)
    words.badge("measured", "on the picture in the sidebar, in one forward pass a model")
    for name, row, reach in zip(rows, grid, limits, strict=True):
        for column, m, found, limit in zip(st.columns(len(models)), models, row, reach, strict=True):
            with column:
                st.markdown(f"**{m.title}** · {name}")
                if found is None:
                    st.caption("This network has no such layer.")
                    continue
                figure.show(
                    bit_figures.margin_map(found, limit, size=280),
                    f"margins-{name}-{m.id}",
                    f"Margins of {name} of {m.title}, token by token: {_SHOWN.get(str(show), f'channel {show}')}",
                    {"margin": found.value, "channel": found.channel},
                    figure.loading(m, picture) + "from analysis.bits import layer_margins\n"
                    "from analysis.figures.bits import margin_map\n\n"
                    f"margins = layer_margins(model, x, {name!r}, {show!r}, {relative})\n"
                    f"figure = margin_map(margins, {limit!r}, size=280)\n",
                )
    eps_options = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    state.valid("eps", eps_options, 0.1)
    left, right = boxes.beside(540, 360)
    with right:
        eps = st.select_slider(
            "Near is within",
            eps_options,
            key="eps",
            on_change=state.remember,
            help="A bit counts as near if its distance from the threshold is below this, in the unit chosen above.",
        )
        distances = {m.title: cache.ask(bits.margin_distances, m, picture, eps, relative) for m in models}
        near = pd.DataFrame({title: 100 * table.set_index("layer").near for title, table in distances.items()})
        own = distances[model.title]
        near = near.loc[[*own.layer, *(name for name in near.index if name not in set(own.layer))]]
        st.metric(
            "Bits near their threshold",
            f"{np.average(own.near.fillna(0), weights=own.bits):.1%}",
            help=f"Of all bits of {model.title} on this picture.",
        )
        st.dataframe(
            near.rename_axis("layer").reset_index(),
            hide_index=True,
            height=240,
            column_config={title: st.column_config.NumberColumn(f"{title}, %", format="%.1f") for title in distances},
            placeholder="–",
            alt=f"Share of bits within {eps} of their threshold, layer by layer, in percent",
        )
    with left:
        figure.show(
            bit_figures.margin_quantiles(own, relative),
            "margin-quantiles",
            f"Quantiles of the distance of the bits of {model.title} from their thresholds, layer by layer",
            own,
            figure.loading(model, picture) + "from analysis.bits import margin_distances\n"
            "from analysis.figures.bits import margin_quantiles\n\n"
            f"figure = margin_quantiles(margin_distances(model, x, {eps}, {relative}), {relative})\n",
        )
        st.caption(f"{model.title}: boxes from quarter to quarter of the layer's bits, whiskers from 5 to 95 %.")


def _thresholds() -> None:
    images = selection.images()
    n = 0 if images is None else min(_BESIDE, len(images))
    pictures = (picture, *(images.picture(k) for k in range(n))) if images is not None else (picture,)
    values = cache.thresholds(model, pictures)
    left, right = boxes.beside(450, 450)
    with left:
        moving = list(dict.fromkeys(values.layer[values.image >= 0]))
        if layer in moving:
            words.badge("measured", f"dynamic, over {1 + n} pictures")
        else:
            words.badge("computed", f"static, from the weights of {model.title}")
        beside = images is not None and n > 0
        figure.show(
            figures.threshold_plot(values, layer, image=0),
            "thresholds",
            f"Thresholds of the sign of {layer}, channel by channel",
            values[values.layer == layer],
            figure.loading(model, picture)
            + (figure.loading_images(images, n) + "import torch\n\n" if images is not None and beside else "")
            + "from analysis.binarization import thresholds\n"
            "from analysis.figures.binarization import threshold_plot\n\n"
            f"values = thresholds(model, {'torch.cat([x, images])' if beside else 'x'})\n"
            + f"figure = threshold_plot(values, {layer!r}, image=0)\n",
        )
        st.caption("A bit is +1 where the map reaches the threshold.")
    with right:
        context = next((m for m in models if cache.ask(bits.dynamic_layers, m)), None)
        if context is None:
            st.info(
                "All thresholds of these networks are the same for every picture. BCDNet-B computes an addition to "
                "them from the mean of each map (Eq. 16 and 17); put one beside to see which bits that changes.",
                icon=":material/info:",
            )
        else:
            _left_out(context)


def _left_out(context: Model) -> None:
    """What the dynamic part of a model's thresholds does."""
    found = jobs.answer(
        bits.dynamic_bits,
        context,
        picture,
        forwards=2 + len(cache.ask(bits.dynamic_layers, context)),
        what="Thresholds left out",
    )
    if found is None:
        return
    words.badge("measured", f"{context.title} on this picture")
    code = figure.loading(context, picture) + "from analysis.bits import dynamic_bits\n"
    figure.show(
        bit_figures.dynamic_changes(found, size=300),
        "dynamic-bits",
        f"Share of the bits of {context.title} that change when dynamic thresholds are left out, layer by layer",
        found.layers,
        code + "from analysis.figures.bits import dynamic_changes\n\n"
        "figure = dynamic_changes(dynamic_bits(model, x), size=300)\n",
    )
    before, after = (context.classes[int(logits.argmax())] for logits in (found.logits, found.static_logits))
    rows = found.layers
    st.markdown(
        f"Of {rows.bits.sum():,} bits with a dynamic threshold, **{rows.changed.sum():,}** "
        f"({rows.changed.sum() / rows.bits.sum():.2%}) are what they are because of it. Without any, the prediction "
        + (f"stays **{before}**" if before == after else f"turns from **{before}** to **{after}**")
        + f"; the largest change of a logit is {np.abs(found.static_logits - found.logits).max():.3g}."
    )
    where = layer if layer in found.maps else max(found.maps, key=lambda name: (found.maps[name] != 0).mean())
    figure.show(
        bit_figures.dynamic_map(found, where, size=280),
        "dynamic-map",
        f"Share of each token's bits in {where} that change without the layer's dynamic thresholds",
        {"change": found.maps[where]},
        code + "from analysis.figures.bits import dynamic_map\n\n"
        f"figure = dynamic_map(dynamic_bits(model, x), {where!r}, size=280)\n",
    )
    st.caption(f"{where}" + ("" if where == layer else f", which changes most: {layer} has no dynamic threshold."))


def _flips() -> None:
    if not model.config.binary_activations:
        st.info(
            f"{model.title} has real activations, so there are no bits to flip; choose a network of precision 1/1.",
            icon=":material/info:",
        )
        return
    st.markdown(
        "How few bits of one layer decide the class? Bits are put in an order, the first 1, 2, 4, … are flipped until "
        "the class changes, then those that are not needed are put back. What is found is **an upper bound**: fewer "
        "may do."
    )
    probabilities = cache.probabilities(model, picture)
    before = int(probabilities.argmax())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        orders = state.several("orders", bits.ORDERS, bits.ORDERS, len(bits.ORDERS))
        orders = st.multiselect(
            "Orders",
            bits.ORDERS,
            key="orders",
            on_change=state.remember,
            help="By the surrogate gradient of the logit gap, nearest to the threshold first, or at random.",
        )
        state.valid("budget", (50, 100, 200, 400), 100)
        budget = st.select_slider(
            "Forward passes each",
            (50, 100, 200, 400),
            key="budget",
            on_change=state.remember,
            help="A search ends after so many passes, with what it has found by then or with nothing.",
        )
        rivals = [-1, *(int(k) for k in probabilities.argsort()[::-1] if k != before)]
        state.valid("rival", rivals, -1)
        rival = st.selectbox(
            "Change it to",
            rivals,
            format_func=lambda k: "any other class" if k < 0 else model.classes[k],
            key="rival",
            on_change=state.remember,
            help=f"The picture is taken for {model.classes[before]}; the class that the flips shall reach.",
        )
    if not orders:
        st.caption("Choose at least one order.")
        return
    options: dict[str, Any] = {"orders": tuple(orders), "towards": None if rival < 0 else rival, "budget": budget}
    found = jobs.answer(
        bits.compare_orders,
        model,
        picture,
        layer,
        forwards=bits.flip_passes(budget, len(orders)),
        what=f"Fewest flips in {layer}",
        **options,
    )
    if found is None:
        return
    words.badge("measured", f"{model.title} on this picture; every set found was checked by a forward pass of its own")
    for name, flips in found.items():
        st.markdown(f"- *{name}*: {_told(flips, budget)}")
    code = (
        figure.loading(model, picture) + "from analysis.bits import compare_orders\n"
        "from analysis.figures.bits import flip_gaps, flip_map, flips_per_order\n\n"
        f"options = {options!r}\n"
        f"found = compare_orders(model, x, {layer!r}, **options)\n"
    )
    left, right = boxes.beside(450, 450)
    with left:
        figure.show(
            bit_figures.flips_per_order(found, size=320),
            "flips",
            f"Bits of {layer} flipped to change the class, by order",
            bits.flip_summary(found),
            code + "figure = flips_per_order(found, size=320)\n",
        )
    with right:
        figure.show(
            bit_figures.flip_gaps(found, size=320),
            "flip-gaps",
            "Logit of the class less that of its rival, against the number of bits flipped",
            pd.concat([flips.trace.assign(order=name) for name, flips in found.items()]),
            code + "figure = flip_gaps(found, size=320)\n",
        )
    best = min(found, key=lambda name: len(found[name].bits) if found[name].found else np.inf)
    if not found[best].found:
        return
    height, width = found[best].size
    left, right = boxes.beside(450, 450)
    with left:
        figure.show(
            bit_figures.flip_map(found[best], height, width, size=300),
            "flip-map",
            f"Where the bits lie that were flipped, in the order {best}",
            found[best].bits,
            code + f"figure = flip_map(found[{best!r}], {height}, {width}, size=300)\n",
        )
    with right:
        st.dataframe(
            found[best].bits,
            hide_index=True,
            height=300,
            column_config={"margin": st.column_config.NumberColumn(format="%.3f", help="Map minus threshold.")},
            alt=f"The bits flipped, in the order {best}: channel, row and column, bit before, and margin",
        )


def _told(flips: bits.BitFlips, budget: int) -> str:
    """How one search for flips ended, in words."""
    if not flips.found:
        tried = int(flips.trace.flipped.max()) if len(flips.trace) else 0
        if flips.forwards >= budget:
            return (
                f"nothing found when the budget of {budget} passes ended, after up to {tried:,} of {flips.total:,} "
                "bits. That says nothing about whether a set exists."
            )
        return f"nothing found: of the numbers of bits tried, up to all {flips.total:,}, none changes the class."
    ended = (
        "no single one of them can be put back"
        if flips.irreducible
        else f"the budget of {budget} passes ended while needless ones were put back, so fewer of these may do"
    )
    k = len(flips.bits)
    return (
        f"**{k:,} {'bit' if k == 1 else 'bits'}** found, {k / flips.total:.2%} of {flips.total:,}, which turn "
        f"{model.classes[flips.before]} into **{model.classes[flips.after]}**; {ended}. "
        f"{flips.forwards} forward passes."
    )


def _information() -> None:
    st.markdown(
        "A bit that is +1 with probability p tells −p log₂ p − (1−p) log₂ (1−p) bits: a whole one where it is "
        "balanced, nothing where it never changes."
    )
    images = selection.images()
    if images is None:
        return
    left, right = st.columns(2)
    with left:
        n = selection.count(images)
    state.valid("information", list(_TOLD), "entropy_position")
    column = right.selectbox(
        "Shown of each layer",
        list(_TOLD),
        format_func=_TOLD.__getitem__,
        key="information",
        on_change=state.remember,
        help="Sums add the bits' entropies, which is the most that they can tell together.",
    )
    answers = {
        m.title: jobs.answer(bits.information, m, images.first(n), forwards=n, what=f"Bits of {m.title}")
        for m in models
    }
    found = {title: table for title, table in answers.items() if table is not None}
    if not found:
        return
    words.badge("measured", f"over {n:,} images of {images.title}")
    known = [m for m in models if m.title in found]
    ids = {m.title: m.id for m in known}
    figure.show(
        bit_figures.entropy_per_layer(found, column, ids),
        "information",
        f"{_TOLD[column].capitalize()}, layer by layer, of {', '.join(found)}",
        pd.concat([table.assign(model=title) for title, table in found.items()]),
        figure.loading_models(known) + "from analysis.bits import information\n"
        "from analysis.figures.bits import entropy_per_layer\n\n"
        "found = {}\n"
        "for title, model in models.items():\n"
        + textwrap.indent(figure.loading_images(images, n) + "found[title] = information(model, images)\n", "    ")
        + f"figure = entropy_per_layer(found, {column!r}, {ids!r})\n",
    )
    st.caption(
        f"With {n:,} images an entropy is low by about {1 / (2 * n * np.log(2)):.4f} bits on average where it is not "
        "near 0."
    )


@st.fragment
def details() -> None:
    tabs.show(
        "details",
        {
            "Activations": _activations,
            "Margins": _margins,
            "Thresholds": _thresholds,
            "Fewest flips": _flips,
            "Information": _information,
        },
    )
    state.publish()


st.subheader("The bits")
details()

words.misleads(
    "A small weight error is no accuracy: what counts is what the error does to the sums, and batch normalisation "
    "and training take much of it up. Compare the measured accuracies on the overview.",
    "Latent weights carry no scale of their own: batch normalisation undoes it. Compare layers by the relative error.",
    "For weights from a bell curve the relative error is about 0.60, for weights that are all ±α it is 0. Values near "
    "0.60 say that training left the weights' distribution as it started.",
    "A bit near its threshold is easily turned, but that need not matter: turn on the fewest flips to see which bits "
    "the class hangs on. The number found there is an upper bound, of one layer, for one picture.",
    "Entropies count bits one by one. Bits that say the same thing twice are counted twice.",
)
