"""The colours of the page, for what draws with its own: light or dark, also when the reader changes it."""

from pathlib import Path

import streamlit as st

_watch = st.components.v2.component("theme_watch", html="", js=Path(__file__).with_suffix(".js").read_text("utf-8"))


def ink() -> str:
    """Colour of the page's words."""
    kind = "dark" if st.context.theme.type == "dark" else "light"
    color: str = st.get_option(f"theme.{kind}.textColor")
    return color


def watch() -> None:
    """Run the page again when its theme changes, which Streamlit itself does not do."""
    _watch(key="theme_watch", on_changed_change=lambda: None)
