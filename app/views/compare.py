"""Compare variants: the same picture, and the same test set, through up to four models."""

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from analysis.comparison import Comparison
from analysis.deployment import Latency
from analysis.figures import attribution as maps
from analysis.figures import comparison as figures
from analysis.methods import METHODS
from app import cache, state
from app.widgets import latency, selection, words

_MOST = 4

everything, _ = cache.catalogue()
picture = selection.chosen()[1]
by_id = {model.id: model for model in everything}

st.markdown(
    "The same picture goes through up to four networks. The maps share one colour scale, so a pale map is weaker "
    "evidence and not just a paler picture."
)
wanted = st.session_state.get("models", ["none yet"])
st.session_state["models"] = [key for key in wanted if key in by_id][:_MOST]
if wanted and not st.session_state["models"]:  # nothing was chosen so far, or an address named models that are not here
    binary = [m.id for m in everything if m.config.precision == "1/1"]
    st.session_state["models"] = (binary or list(by_id))[:3]
chosen = st.multiselect(
    "Models",
    list(by_id),
    format_func=lambda key: by_id[key].title,
    key="models",
    max_selections=_MOST,
    help="Up to four networks, in the order in which you choose them.",
)
models = [by_id[key] for key in chosen]
if not models:
    st.info("Choose at least one model.")
    st.stop()
if any(m.classes != models[0].classes for m in models):
    st.info("These models tell different classes apart, so they cannot be compared. Choose models of one data set.")
    st.stop()


def _one_picture() -> None:
    scores = {m.id: cache.probabilities(m, picture) for m in models}
    names = models[0].classes
    left, right, _ = st.columns([2, 2, 3])
    with left:
        target = selection.target(models, picture)
    with right:
        forward_only = ["grad_cam", "feature_ablation"]
        method = st.segmented_control(
            "Map",
            forward_only,
            default="grad_cam",
            required=True,
            key="compare_method",
            format_func=lambda key: METHODS[key].title,
            help="Both are exact: Grad-CAM at the last unit, and block ablation, which only runs the network forward.",
        )
    results = {}
    for m in models:
        try:
            results[m.id] = cache.attribute(m, picture, target, method)
        except ValueError as error:
            st.warning(f"{m.title}: {error}")
    slots = {}
    for column, m in zip(st.columns(len(models)), models, strict=True):
        with column.container(border=True, height="stretch"):
            slots[m.id] = _card(m, scores[m.id])
    measured = st.container()
    shown = [m for m in models if m.id in results]
    if shown:
        words.badge(*words.VALIDITY["exact"])
        st.plotly_chart(
            maps.side_by_side(
                {m.title: results[m.id].map for m in shown}, [np.asarray(cache.seen(m, picture).image) for m in shown]
            ),
            config={"displayModeBar": False},
            alt=f"{METHODS[method].title} for {names[target]}: {', '.join(m.title for m in shown)}",
        )
    # Last, because timing takes a while.
    with measured:
        times = latency.latencies(models, "compare_time")
        if times:
            words.badge("measured", latency.where(times.values()))
    for key, time in times.items():
        with slots[key]:
            _times(time)


def _card(m: cache.Model, scores: np.ndarray) -> DeltaGenerator:
    """What is known of a model; returns the place where its times belong."""
    st.markdown(f"**{m.title}**")
    best = int(scores.argmax())
    right = picture.label is None or m.classes[best] == cache.test_set().classes[picture.label]  # type: ignore[union-attr]
    verdict = "" if picture.label is None else (" :green[:material/check:]" if right else " :red[:material/close:]")
    st.markdown(f"{m.classes[best]} · {scores[best]:.1%}{verdict}")
    metrics, cost = m.card.get("metrics") or {}, cache.network_cost(m.config)
    top1 = metrics.get("top1")
    with st.container(horizontal=True):  # a narrow card has them one below the other
        st.metric(
            "Top-1 (%)",  # in the label, because four cards side by side leave room for five figures
            "–" if top1 is None else f"{top1:.2f}",
            help="Measured on the whole test set, from the card."
            if top1 is not None
            else "The card holds no accuracy.",
        )
        st.metric("OPs (10⁶)", f"{cost.ops['full'] / 1e6:.2f}", help="Computed: BOPs / 64 + FLOPs, convention full.")
    return st.container(horizontal=True)


def _times(time: Latency) -> None:
    st.metric(
        "Packed (ms)",
        "–" if time.packed_ms is None else f"{time.packed_ms:.2f}",
        help=time.why or f"Measured: median of {time.packed_runs} runs of one image.",
    )
    st.metric(
        "Float (ms)",
        f"{time.float_ms:.2f}",
        help=f"Measured: median of {time.runs} runs of one image in PyTorch, binary weights binarized once.",
    )


_one_picture()

st.subheader("On the test set")


def _test_set() -> None:
    data = cache.test_set()
    if data is None:
        st.info("The test set was not found, so there is nothing to count on.")
        return
    n = st.segmented_control(
        "Images",
        [1000, 10000],
        default=1000,
        required=True,
        key="compare_n",
        format_func=lambda k: f"all {k:,}" if k == 10000 else f"the first {k:,}",
        help="More images, narrower intervals, more time.",
    )
    seconds = sum(n * cache.seconds_per_image(m) for m in models if not cache.logits_known(m, n))
    if seconds > 30:
        st.info(f"This needs up to {seconds:.0f} s on this machine, once; then it is remembered.")
        if not st.button("Compute it", type="primary", key="compare_go", help="Any other click cancels the work."):
            return
    slot = st.empty()
    for k, m in enumerate(models):
        if not cache.logits_known(m, n):
            bar = slot.progress(0.0, f"{m.title}: reading the test images")

            def show(done: int, total: int, m: cache.Model = m, bar=bar, k: int = k) -> None:
                bar.progress((k + done / total) / len(models), f"{m.title}: {done:,} of {total:,} images")

            cache.test_logits(m, n, show)
    slot.empty()
    try:
        result = cache.compare(tuple(models), n)
    except ValueError as error:
        st.warning(str(error))
        return
    words.badge("measured", f"on {'all ' if n == len(data) else 'the first '}{n:,} test images, here and now")
    _results(result, n)


def _results(result: Comparison, n: int) -> None:
    left, right = st.columns(2, gap="large")
    ids = {m.title: m.id for m in models}
    left.plotly_chart(
        figures.accuracy_whiskers(result.accuracy, ids),
        config={"displayModeBar": False},
        alt="Top-1 accuracy with 95 % confidence intervals",
    )
    right.plotly_chart(
        figures.per_class_dots(result.per_class, ids),
        config={"displayModeBar": False},
        alt="Accuracy by class",
    )
    if len(result.mcnemar):
        st.markdown("**Are the differences more than luck?**")
        st.dataframe(
            result.mcnemar,
            hide_index=True,
            column_config={
                "model_a": "Model A",
                "model_b": "Model B",
                "only_a": st.column_config.NumberColumn("only A right", help="Images that A gets right, B does not."),
                "only_b": st.column_config.NumberColumn("only B right", help="Images that B gets right, A does not."),
                "difference": st.column_config.NumberColumn("A − B", format="%+.2f %%", help="Difference of top-1."),
                "p": st.column_config.NumberColumn("p", format="%.3g", help="Exact McNemar test: the chance of so "
                                                   "uneven a split if both were equally good."),
            },
            alt="Pairwise differences of the models, with exact McNemar tests",
        )  # fmt: skip
        for sentence in filter(None, (words.continued(m, everything) for m in models)):
            st.caption(f":material/info: {sentence}")
    with st.expander("What one model takes for what", icon=":material/grid_on:"):
        titles = [m.title for m in models]
        state.valid("confused", titles, titles[0])
        title = st.selectbox("Model", titles, key="confused", help="Whose mistakes are counted, class by class.")
        st.plotly_chart(
            figures.confusion_heatmap(result.confusion[title]),
            config={"displayModeBar": False},
            alt=f"Confusion matrix of {title}: true classes in rows, predicted ones in columns",
        )
    divided = result.images[result.images["distinct"] > 1]
    if len(divided):
        _disagreements(result, divided, n)


def _disagreements(result: Comparison, divided: pd.DataFrame, n: int) -> None:
    st.markdown(
        f"**Where they part**: {len(divided):,} of {n:,} images. Choose a row to look at it above."
    )
    shown = divided.head(200)
    names = np.array(result.classes)
    table = pd.DataFrame({"image": shown["index"], "label": names[shown.label]})
    titles = {f"model {k}": m.title for k, m in enumerate(models)}  # a title may be "image" or "label"
    for column, title in titles.items():
        table[column] = names[result.predictions[title][shown["index"]]]
    st.dataframe(
        table,
        hide_index=True,
        column_config=dict(titles),
        height=260,
        key="disagreements",
        selection_mode="single-row",
        on_select=lambda: _look_at(table),
        alt="Test images on which the models disagree, with the label and each prediction",
    )


def _look_at(table: pd.DataFrame) -> None:
    rows = st.session_state["disagreements"]["selection"]["rows"]
    if rows:
        st.session_state["image"] = int(table["image"].iloc[rows[0]])
        st.session_state["source"] = "Test image"


_test_set()
words.misleads(
    "With few images the intervals are wide: two models whose intervals overlap may well be equally good.",
    "A model that is continued from another one has been trained for longer. The difference of the two is not only "
    "what it adds: look for one that was trained as long.",
    "p-values of several pairs are not corrected for looking at many.",
    "OPs are counted, times measured on this machine as busy as it was. A model with fewer OPs need not be faster.",
    "The softmax of an untested network says how it ranks classes, not how often it is right.",
)
