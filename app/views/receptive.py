"""Receptive fields: what can reach a location, and how much it does."""

import numpy as np
import streamlit as st

from analysis.figures import receptive_field as figures
from app import cache, state
from app.widgets import figure, selection, words

model, picture = selection.chosen()
layers = cache.layers(model)
names = list(layers)
mlps = [name for name in names if layers[name].kind == "mlp"]
image = np.asarray(cache.seen(model, picture).image)

st.markdown(
    "The **exact** receptive field is the set of pixels that can reach one location of a layer. The **effective** one "
    "says how much each of them does. Long-range branches make the first jump across the whole picture: cyclic shifts "
    "come back in on the opposite side, so it is a set on a torus and not a box."
)


@st.fragment
def exact() -> None:
    drawing, controls = st.columns([3, 2], gap="large")
    with controls:
        layer = selection.layer(
            names,
            mlps[0] if mlps else names[-1],
            help="The field belongs to a location of this layer's output map.",
        )
        row, col = selection.token(model, picture, layer)
        field = cache.exact_receptive_field(model, layer, row, col)
        plain = cache.exact_receptive_field(model, layer, row, col, wrap=False)
        reached, border = st.columns(2)
        reached.metric(
            "Of the picture",
            f"{field.mean():.1%}",
            help=f"{field.sum()} of {field.size} pixels can reach this location.",
        )
        border.metric(
            "Only round the border",
            f"{(field & ~plain).sum() / field.sum():.1%}",
            help="Share of the set that is reached only by paths that leave the map and come back in.",
        )
        growth = cache.receptive_field_growth(model, *_last_token(layer, row, col))
        figure.show(
            figures.growth_curve({model.title: growth}, {model.title: model.id}, size=300),
            "field-growth",
            "Share of the picture that one location can see, growing from layer to layer",
            growth,
            figure.loading(model) + "from analysis.figures.receptive_field import growth_curve\n"
            "from analysis.receptive_field import receptive_field_growth\n\n"
            f"growth = receptive_field_growth(model, *{_last_token(layer, row, col)})\n"
            f"figure = growth_curve({{{model.title!r}: growth}}, {{{model.title!r}: {model.id!r}}}, size=300)\n",
        )
        st.caption("How the field grows from the stem to the last layer, for the location over the same place.")
    with drawing:
        words.badge("computed", "exact for the architecture; no weights, no rounding")
        figure.show(
            figures.receptive_set(field, plain, image),
            "exact-field",
            f"{field.mean():.0%} of the pixels can reach row {row}, column {col} of {layer}",
            {"field": field, "without_wrapping": plain},
            figure.loading(model, picture) + "from analysis.figures.receptive_field import receptive_set\n"
            "from analysis.receptive_field import exact_receptive_field\n\n"
            f"field = exact_receptive_field(model, {layer!r}, {row}, {col})\n"
            f"plain = exact_receptive_field(model, {layer!r}, {row}, {col}, wrap=False)\n"
            "figure = receptive_set(field, plain, image)\n",
        )
    st.subheader("How much each pixel counts")
    effective(layer, row, col, field)
    state.publish()


def _last_token(layer: str, row: int, col: int) -> tuple[int, int]:
    """The token of the last map that lies over the middle of a token of another map."""
    here, last = layers[layer], layers[names[-1]]
    return (2 * row + 1) * last.height // (2 * here.height), (2 * col + 1) * last.width // (2 * here.width)


def effective(layer: str, row: int, col: int, field: np.ndarray) -> None:
    if cache.test_set(model.dataset) is None:
        st.info("The effective receptive field is averaged over test images, and they were not found.")
        return
    drawing, controls = st.columns([3, 2], gap="large")
    with controls:
        method = st.segmented_control(
            "Measured by",
            ["gradient", "perturbation"],
            default="gradient",
            required=True,
            key="erf_method",
            help="Gradient: fast, but it follows the smooth stand-in of the sign. Perturbation: changes blocks "
            "of pixels and runs the network forward, exact but slow.",
        )
        n = st.select_slider(
            "Test images",
            [16, 64, 256],
            value=16,
            key="erf_images",
            help="The field is the mean over this many images, the first of the test set.",
        )
        log = st.toggle("Logarithmic colours", key="erf_log", help="Show four decades, so that faint pixels are seen.")
    seconds = cache.erf_seconds(model, n, method)
    slow = seconds > 3 and not cache.erf_known(model, layer, row, col, n, method)
    if slow:
        with drawing:
            st.info(f"This takes about {seconds:.0f} s on this machine, less for an early layer.")
            if not st.button("Compute it", type="primary", key="erf_go", help="Any other click cancels the work."):
                return
    with drawing:
        with words.progress(slow) as report:
            erf = cache.effective_receptive_field(model, layer, row, col, n, method, report)
        words.badge("measured", f"mean over {erf.n} test images, {erf.method}")
        figure.show(
            figures.erf_heatmap(erf, field, log=log),
            "effective-field",
            f"Effective receptive field of row {row}, column {col} of {layer}: half of the effect comes from "
            f"{erf.area[50]:.0%} of the pixels",
            {"effective": erf.map, "exact": field},
            figure.loading(model) + "from analysis.figures.receptive_field import erf_heatmap\n"
            "from analysis.receptive_field import effective_receptive_field, exact_receptive_field\n"
            "from bcdnet.data import Preprocess, open_dataset\n\n"
            "how = Preprocess.from_dict(model.card['preprocess'])\n"
            f"images, _ = next(open_dataset({model.dataset!r}).batches(how, {n}))\n"
            f"erf = effective_receptive_field(model, images, {layer!r}, {row}, {col}, {method!r})\n"
            f"field = exact_receptive_field(model, {layer!r}, {row}, {col})\n"
            f"figure = erf_heatmap(erf, field, log={log})\n",
        )
    with controls:
        st.markdown("Smallest share of the pixels that holds …")
        for column, share in zip(st.columns(3), (20, 50, 90), strict=True):
            column.metric(f"{share} % of it", f"{erf.area[share]:.1%}")
        st.caption(
            "The smaller these shares, the more the location listens to few pixels. The exact set holds "
            f"{erf.inside:.1%} of the sum."
        )


exact()
words.misleads(
    "The exact field says what *can* matter. Most of its pixels may hardly do: compare with the effective field.",
    "The gradient passes through signs with the training surrogate, 2−2|x| inside [−1, 1], which is not the slope of "
    "a sign. Where both methods disagree, believe the perturbation.",
    "A perturbed block is set to the mean colour. In pictures with a black background that adds something as well as "
    "taking something away.",
    "The effective field belongs to these images; other pictures give another one.",
    "A context embedding averages over the whole map, so in BCDNet-B every pixel can reach every location.",
)
