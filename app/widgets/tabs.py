"""Tabs of which only the open one is drawn, so that a page pays for what is looked at."""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st
from streamlit.elements.lib.mutable_tab_container import TabContainer

from app import state


def show(key: str, views: dict[str, Callable[[], Any]]) -> None:
    """Tabs with the keys of ``views`` as their names; the function of the open one draws it.

    Which one is open belongs to the selection that all pages share, under ``key``.
    """
    for tab, draw in zip(named(key, list(views)), views.values(), strict=True):
        if tab.open:
            with tab:
                draw()


def named(key: str, names: Sequence[str]) -> Sequence[TabContainer]:
    """The empty tabs of :func:`show`, where a page fills the open one itself."""
    state.valid(key, names, names[0])
    return st.tabs(names, key=key, on_change=state.open_tab)
