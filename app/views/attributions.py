"""Attribution: what the network predicts for a picture, and which pixels speak for it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import streamlit as st

from analysis.attribution import Attribution, rank_correlation
from analysis.figures import attribution as figures
from analysis.methods import METHODS
from app import cache, state
from app.widgets import figure, selection, words

model, picture = selection.chosen()
_SIDE = min(model.config.image_size)
#: Name of an option -> (label, smallest, largest, step, help).
_OPTIONS: dict[str, tuple[str, float, float, float, str]] = {
    "samples": ("Samples", 1, 200, 1, "More samples: less noise, more time."),
    "noise": ("Noise", 0.01, 1.0, 0.01, "Standard deviation of the noise, as a share of the picture's range."),
    "steps": ("Steps", 2, 500, 1, "Points on the line from the baseline to the picture."),
    "grid": ("Blocks a side", 2, _SIDE, 1, "The picture is cut into this many blocks in each direction."),
    "window": ("Window (pixels)", 1, _SIDE, 1, "Side of the square that is covered."),
    "stride": ("Stride (pixels)", 1, _SIDE, 1, "How far the square moves from one position to the next."),
}

seen = cache.seen(model, picture)
image = np.asarray(seen.image)
scores = cache.probabilities(model, picture)
if not np.isfinite(scores).all():
    st.error("The network's output for this picture is not a number, so there is nothing to explain.")
    st.stop()
status = cache.method_status(model)

st.markdown(
    "Each map says which pixels speak **for** the chosen class (red) and which **against** it (blue). On a binary "
    "network a gradient passes through signs only with the help of a *surrogate*, so beside each map stands one that "
    "needs no gradient at all."
)


def _options(method: str) -> dict[str, Any]:
    """What the reader set for the method; nothing for what was left as it is."""
    offered = [name for name in METHODS[method].options if name in _OPTIONS]
    chosen = {}
    if offered:
        with st.popover("Options", icon=":material/tune:", width="stretch"):
            for name in offered:
                label, low, high, step, text = _OPTIONS[name]
                default = METHODS[method].options[name]
                value = st.number_input(
                    label, low, high, default, step=step, help=text, placeholder="automatic", key=f"{method}_{name}"
                )
                if value is not None and value != default:
                    chosen[name] = value
    return chosen


def _run(method: str, target: int, layer: str | None, against: int | None, **options: Any) -> Attribution | None:
    """The map, with progress if it takes long; None if the reader has to agree first, or nothing came of it."""
    forwards = cache.cost_estimate(model, method, **options)
    # A gradient costs about two forward passes more.
    seconds = (1 if METHODS[method].validity == "exact" else 3) * forwards * cache.seconds_per_image(model)
    arguments = (model, picture, target, method, layer, against)
    slow = seconds > 3 and not cache.attribution_known(*arguments, **options)
    if slow:
        st.info(f"This needs {forwards:,} forward passes, about {seconds:.0f} s on this machine.")
        if not st.button("Compute it", type="primary", key=f"go_{method}", help="Any other click cancels the work."):
            return None
    try:
        with words.progress(slow) as report:
            return cache.attribute(*arguments, progress=report, **options)
    except ValueError as error:
        st.error(str(error))
        return None


def _draw(result: Attribution, name: str, alt: str, options: Mapping[str, Any] = MappingProxyType({})) -> None:
    chosen: dict[str, Any] = {"layer": result.layer, "against": result.against, **options}
    arguments = [f"{name}={value!r}" for name, value in chosen.items() if value is not None]
    figure.show(
        figures.overlay(result.map, image, size=380),
        name,
        alt,
        {"map": result.map, "raw": result.raw},
        figure.loading(model, picture) + "from analysis.attribution import attribute\n"
        "from analysis.figures.attribution import overlay\n\n"
        f"result = attribute({', '.join(['model', 'x', str(result.target), repr(result.method), *arguments])})\n"
        "figure = overlay(result.map, image, size=380)\n",
    )


# Boxes of a fixed width, which a narrow window stacks; columns would squeeze the maps instead.
with st.container(horizontal=True, gap="medium"):
    controls, left, right = (st.container(width=width) for width in (220, 310, 310))
with controls:
    words.badge("measured", "softmax of the logits")
    bars = st.container()  # above the choice of the class that they mark
    target = selection.target([model], picture)
    top = cache.top_k(model, picture)
    known = "model.card['classes']" if model.card.get("classes") else model.classes
    with bars:
        figure.show(
            figures.top_bars(top, chosen=target),
            "top-classes",
            f"Top five classes; {model.classes[int(scores.argmax())]} leads with {scores.max():.0%}",
            top,
            figure.loading(model, picture) + "from analysis.comparison import top_k\n"
            "from analysis.figures.attribution import top_bars\n\n"
            f"classes = {known}\n"
            f"figure = top_bars(top_k(model, x, classes), chosen={target})\n",
        )
    if picture.label is None:
        st.caption(
            f"The network knows its {len(model.classes)} classes only and always names one: for a picture of "
            "anything else the percentages mean nothing."
        )
    runnable = list(status.index[status.runnable])
    state.valid("method", runnable, "grad_cam")
    method = st.selectbox(
        "Method",
        runnable,
        format_func=lambda key: status.loc[key, "title"],
        key="method",
        help="How the pixels' share is found. Those that mean nothing on this network are listed below, with reasons.",
    )
    layer = None
    if METHODS[method].per_layer:
        offered = cache.target_layers(model)
        layer = selection.layer(
            offered, offered[-1], help="Grad-CAM explains by this layer's map. Exact at the last one only."
        )
    rivals = [int(k) for k in scores.argsort()[::-1] if k != target]
    state.valid("against", [None, *rivals], None)
    against = st.selectbox(
        "Compared with",
        rivals,
        index=None,
        format_func=lambda k: model.classes[k],
        key="against",
        placeholder="nothing",
        help="With a second class, the map explains the difference of the two logits: why this one and not that one.",
    )
    options = _options(method)

reference = "feature_ablation" if method != "feature_ablation" else "occlusion"
with left:
    result = _run(method, target, layer, against, **options)
    if result is not None:
        st.markdown(f"**{METHODS[method].title}**" + (f" of {layer}" if layer else ""))
        words.badge(*words.VALIDITY[result.validity])
        _draw(result, "attribution", f"{METHODS[method].title} map for {model.classes[target]}", options)
        for note in result.notes:
            st.caption(note)
with right:
    check = _run(reference, target, None, against)
    if check is not None:
        st.markdown(f"**{METHODS[reference].title}**, for comparison")
        words.badge(*words.VALIDITY[check.validity])
        _draw(
            check,
            "attribution-without-gradient",
            f"{METHODS[reference].title} map for {model.classes[target]}, which needs no gradient",
        )
        if result is not None:
            same = result.raw.shape == check.raw.shape
            agreement = rank_correlation(*((result.raw, check.raw) if same else (result.map, check.map)))
            st.metric(
                "Rank correlation of the two maps",
                "undefined" if np.isnan(agreement) else f"{agreement:+.2f}",
                help="Spearman's: +1 if both put the pixels in the same order, 0 if they have nothing in common.",
            )

with st.expander("How each method works, and those that are not offered", icon=":material/menu_book:"):
    table = status.assign(
        formula=[METHODS[key].formula for key in status.index], source=[METHODS[key].citation for key in status.index]
    )
    st.dataframe(
        table[["title", "validity", "why", "formula", "source"]],
        hide_index=True,
        alt="Every attribution method, whether it is exact, a surrogate or invalid on this network, and why",
    )
words.misleads(
    "A map explains the network, not the world: a strong map for a wrong class is still a true account of the network.",
    "A surrogate map follows the smooth stand-in that training used for the sign. Where its rank correlation with the "
    "forward-only map is low, do not believe it.",
    "Covering pixels with black is itself a change: in a picture with a black background it takes away, on a white one "
    "it paints a hole.",
    "Colours are scaled to each map's own largest value; read the numbers on the bar before you compare two maps.",
)
