"""The sentences around a figure: where a number comes from, and when a picture misleads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st

_BADGES = {
    "measured": (":material/straighten:", "green", "Measured here, on the files shipped with this program."),
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


def misleads(*sentences: str) -> None:
    """The fine print, one click away."""
    with st.expander("When this misleads", icon=":material/warning:"):
        st.markdown("\n".join(f"- {sentence}" for sentence in sentences))


@contextmanager
def progress(visible: bool) -> Iterator[Callable[[int, int], object] | None]:
    """A bar while slow work goes on, gone when it ends; yields what to call with (done, total), None for quick work.

    Drawing it also lets Streamlit stop the work as soon as the reader clicks anything else.
    """
    if not visible:
        yield None
        return
    slot = st.empty()
    bar = slot.progress(0.0, "Running the network")
    try:
        yield lambda done, total: bar.progress(min(done / total, 1.0), f"{done:,} of {total:,} passes")
    finally:
        slot.empty()
