"""Binarization error: what one bit loses, layer by layer."""

import streamlit as st

from analysis.binarization import branch_order
from analysis.figures import binarization as figures
from app import cache, state
from app.widgets import figure, selection, words

_MEASURES = {"l1": "L1, the paper's Eq. 23", "relative": "relative to mean |W|", "mse": "mean square"}
#: Beside the picture, for thresholds that follow it: the first of the test set.
_NUMBER = 32
_OTHERS = f"next(open_dataset('fashion-mnist').batches(Preprocess.from_dict(model.card['preprocess']), {_NUMBER}))[0]"

model, picture = selection.chosen()
errors = cache.binarization_error(model)
if errors.empty:
    st.info("This network has no layer with weights to binarize.")
    st.stop()

st.markdown(
    "Training keeps real *latent* weights **W**; the network multiplies by **α·sign W**, one bit a weight and one "
    "scale α = mean |W| an output channel. The error is what lies between the two."
)
if not model.config.binary_weights:
    st.info(
        f"{model.title} works with real weights. Shown is what binarizing them as they are would do.",
        icon=":material/info:",
    )

left, right = st.columns([3, 1], gap="large")
with right:
    measure = st.radio(
        "Measure",
        list(_MEASURES),
        format_func=_MEASURES.__getitem__,
        key="measure",
        persist_state="session",
        help="L1 depends on the size of the weights; the relative error does not, so layers can be compared.",
    )
    where = st.radio(
        "Layers",
        ["all", "MLPs only"],
        key="error_layers",
        persist_state="session",
        help="The paper compares the branches of the MLPs (its Fig. 6).",
    )
    order = branch_order(errors, measure)
    if len(order):
        st.metric(
            "Order point > short > long",
            f"{int(order.as_paper.sum())} of {len(order)} MLPs",
            help="The order is inferred: the paper says that the error is smaller the farther apart the exchanging "
            "tokens are; its formula for it is lost from the text this program was written from.",
        )
shown = errors[errors.layer.isin(order.layer)] if where == "MLPs only" and len(order) else errors
with left:
    words.badge("computed", f"from the weights of {model.title}")
    figure.show(
        figures.error_bars(shown, measure),
        "binarization-error",
        f"Binarization error of {shown.layer.nunique()} layers; largest in {shown.sort_values(measure).layer.iloc[-1]}",
        shown,
        figure.loading(model) + "from analysis.binarization import binarization_error\n"
        "from analysis.figures.binarization import error_bars\n\n"
        "errors = binarization_error(model)\n"
        + (f"errors = errors[errors.layer.isin({list(order.layer)!r})]\n" if len(shown) < len(errors) else "")
        + f"figure = error_bars(errors, {measure!r})\n",
    )
if where == "MLPs only" and not len(order):
    st.caption("This network has no MLP with different branches, so all layers are shown.")

st.subheader("The weights of one layer")
left, right = st.columns([3, 1], gap="large")
with right:
    names = list(dict.fromkeys(errors.layer))
    mlps = list(order.layer)
    layer = selection.layer(names, mlps[0] if mlps else names[-1])
    branches = list(errors.branch[errors.layer == layer])
    state.valid("branch", branches, branches[0])
    branch = st.selectbox("Branch", branches, key="branch", help="Each branch has weights and scales of its own.")
    statistics = cache.weight_statistics(model)
    row = statistics[(statistics.layer == layer) & (statistics.branch == branch)].iloc[0]
    st.metric("Bits that are +1", f"{row.positive:.1%}", help="Near 50 %, a weight carries a whole bit.")
    st.metric(
        "Near zero", f"{row.near_zero:.1%}", help="Latent weights below a tenth of α: a little training flips them."
    )
with left:
    weights = cache.latent_weights(model, layer, branch)
    figure.show(
        figures.weight_histograms(weights),
        "weights",
        f"Histograms of the latent, binary and scaled weights of {layer}, {branch}",
        {"latent": weights.latent, "sign": weights.sign, "scaled": weights.scaled, "alpha": weights.alpha},
        figure.loading(model) + "from analysis.binarization import latent_weights\n"
        "from analysis.figures.binarization import weight_histograms\n\n"
        f"figure = weight_histograms(latent_weights(model, {layer!r}, {branch!r}))\n",
    )

st.subheader("The activations of this picture")
left, right = st.columns(2, gap="large")
with left:
    words.badge("measured", "on the picture in the sidebar")
    activations = cache.activation_statistics(model, picture)
    figure.show(
        figures.activation_balance(activations),
        "activations",
        "Share of +1 and −1 bits at every sign of the network",
        activations,
        figure.loading(model, picture) + "from analysis.binarization import activation_statistics\n"
        "from analysis.figures.binarization import activation_balance\n\n"
        "figure = activation_balance(activation_statistics(model, x))\n",
    )
    st.caption(
        "A bit that is almost always the same tells little (low entropy). Outside [−1, 1) the training surrogate "
        "passes no gradient."
    )
with right:
    data = cache.test_set()
    others = tuple(cache.test_picture(k) for k in range(_NUMBER)) if data is not None else ()
    values = cache.thresholds(model, (picture, *others))
    signs = list(dict.fromkeys(values.layer))
    dynamic = list(dict.fromkeys(values.layer[values.image >= 0]))
    state.valid("sign", signs, layer if layer in signs else signs[-1])
    words.badge("measured", f"thresholds; dynamic ones over {1 + len(others)} pictures" if dynamic else "thresholds")
    sign = st.selectbox("Sign of layer", signs, key="sign", help="A bit is +1 where the map reaches the threshold.")
    figure.show(
        figures.threshold_plot(values, sign, image=0, size=310),
        "thresholds",
        f"Thresholds of the sign of {sign}, channel by channel",
        values[values.layer == sign],
        figure.loading(model, picture) + "import torch\n"
        "from analysis.binarization import thresholds\nfrom analysis.figures.binarization import threshold_plot\n\n"
        + (f"from bcdnet.data import open_dataset\nx = torch.cat([x, {_OTHERS}])\n" if others else "")
        + f"figure = threshold_plot(thresholds(model, x), {sign!r}, image=0, size=310)\n",
    )
    st.caption(
        f"Thresholds of {len(dynamic)} layers follow the picture (context embedding)."
        if dynamic
        else "All thresholds of this network are the same for every picture; BCDNet-B's follow the picture."
    )

words.misleads(
    "A small weight error is no accuracy: what counts is what the error does to the sums, and batch normalisation "
    "and training take much of it up. Compare the measured accuracies on the overview.",
    "Latent weights carry no scale of their own: batch normalisation undoes it. Compare layers by the relative error.",
    "For weights from a bell curve the relative error is about 0.60, for weights that are all ±α it is 0. Values near "
    "0.60 say that training left the weights' distribution as it started.",
)
