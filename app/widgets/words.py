"""The sentences around a figure: where a number comes from, and when a picture misleads."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import streamlit as st

from app.cache import Model

_BADGES = {
    "measured": (":material/straighten:", "green", "Measured by this program, on the files it was given."),
    "computed": (":material/calculate:", "blue", "Follows from the architecture or the weights; nothing was timed."),
    "quoted": (":material/format_quote:", "orange", "Copied from a publication; not checked here."),
    "exact": (":material/verified:", "green", "No surrogate stands between the network and this map."),
    "surrogate": (":material/blur_on:", "orange", "Gradients passed through signs as training's stand-in has it."),
}

#: What to say beside a map, by the validity of its method.
VALIDITY = {
    "exact": ("exact", "no surrogate gradient"),
    "surrogate": ("surrogate", "gradient through signs"),
}


def badge(kind: str, detail: str) -> None:
    """Say where the numbers below come from: "measured", "computed", "quoted", and on what or from whom."""
    icon, colour, meaning = _BADGES[kind]
    st.badge(f"{kind} · {detail}", icon=icon, color=colour, help=meaning)  # type: ignore[arg-type]


def scientific(value: float) -> str:
    """A number to one digit, small ones as powers of ten: "0.3", "7·10⁻⁷"."""
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.1g}"
    digit, _, power = f"{value:.0e}".partition("e")
    return f"{digit}·10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def misleads(*sentences: str) -> None:
    """The fine print, one click away."""
    with st.expander("When this misleads", icon=":material/warning:"):
        st.markdown("\n".join(f"- {sentence}" for sentence in sentences))


def continued(model: Model, models: Sequence[Model]) -> str | None:
    """A sentence on a model that started from another one's weights: which of ``models`` is its fair comparison."""
    start = model.recipe.get("init")
    if not isinstance(start, str):
        return None
    origin = next((other for other in models if other.id == start), None)
    name = origin.title if origin else start
    sentence = f"{model.title} is continued from {name}, for {model.epochs} more epochs. "
    if origin and model.config == origin.config:
        return sentence + "Nothing else was changed, so it is the fair control for what else continues from there."
    controls = [
        other.title
        for other in models
        if origin and other.config == origin.config and other.recipe.get("init") == start
        if other.epochs == model.epochs
    ]
    sentence += "A part of its lead may come from the longer training alone: "
    if controls:
        return sentence + f"compare it with {controls[0]}, which was trained as long, rather than with {name}."
    return sentence + "no model here was trained as long without what it adds, so how large a part is not known."


@contextmanager
def progress(visible: bool, unit: str = "passes") -> Iterator[Callable[[int, int], object] | None]:
    """A bar while slow work goes on, gone when it ends; yields what to call with (done, total), None for quick work.

    Drawing it also lets Streamlit stop the work as soon as the reader clicks anything else.
    """
    if not visible:
        yield None
        return
    slot = st.empty()
    bar = slot.progress(0.0, "Running the network")
    try:
        yield lambda done, total: bar.progress(min(done / total, 1.0), f"{done:,} of {total:,} {unit}")
    finally:
        slot.empty()
