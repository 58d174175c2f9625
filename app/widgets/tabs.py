"""Tabs of which only the open one is drawn, so that a page pays for what is looked at."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from app import state


def show(key: str, views: dict[str, Callable[[], Any]]) -> None:
    """Tabs with the keys of ``views`` as their names; the function of the open one draws it.

    Which one is open belongs to the selection that all pages share, under ``key``.
    """
    names = list(views)
    state.valid(key, names, names[0])
    for tab, draw in zip(st.tabs(names, key=key, on_change=state.remember), views.values(), strict=True):
        if tab.open:
            with tab:
                draw()
