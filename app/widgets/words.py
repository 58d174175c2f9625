"""The sentences around a figure: where a number comes from, and when a picture misleads."""

import streamlit as st

_BADGES = {
    "measured": (":material/straighten:", "green", "Measured here, on the files shipped with this program."),
    "computed": (":material/calculate:", "blue", "Follows from the architecture or the weights; nothing was timed."),
    "quoted": (":material/format_quote:", "orange", "Copied from a publication; not checked here."),
}


def badge(kind: str, detail: str) -> None:
    """Say where the numbers below come from: "measured", "computed" or "quoted", and on what or from whom."""
    icon, colour, meaning = _BADGES[kind]
    st.badge(f"{kind} · {detail}", icon=icon, color=colour, help=meaning)  # type: ignore[arg-type]


def misleads(*sentences: str) -> None:
    """The fine print, one click away."""
    with st.expander("When this misleads", icon=":material/warning:"):
        st.markdown("\n".join(f"- {sentence}" for sentence in sentences))
