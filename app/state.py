"""The selection that all pages share, kept in the session and in the URL.

A widget whose key is one of :data:`FIELDS` keeps its value across pages and appears in the address, so that a link
restores the view. Values that come from an address are checked where they are used: :func:`valid` drops those that
the widget does not offer.
"""

from collections.abc import Sequence
from typing import TypeVar

import streamlit as st

T = TypeVar("T")

#: What the address may hold, and how it is read. "upload" never appears there: a picture stays with its session.
FIELDS: dict[str, type] = {
    "model": str,
    "models": list,
    "runs": list,
    "folder": str,
    "image": int,
    "layer": str,
    "row": int,
    "col": int,
    "target": int,
    "against": int,
    "method": str,
}


def restore(page: str) -> None:
    """Keep the selection from page to page; at a session's first run, take it from the address.

    What cannot be read is dropped.
    """
    # A page that is left keeps what it last published: what was chosen inside a fragment is known there alone.
    turned = st.session_state.get("page") != page
    st.session_state["page"] = page
    published = st.session_state.get("published", {}) if turned else {}
    for name in FIELDS:
        # Streamlit forgets the value of a widget that a page does not show, unless it is written again.
        if name in published or name in st.session_state:
            st.session_state[name] = published.get(name, st.session_state.get(name))
    if "restored" in st.session_state:
        return
    st.session_state["restored"] = True
    for name, kind in FIELDS.items():
        if name not in st.query_params:
            continue
        text = st.query_params[name]
        if kind is list:
            st.session_state[name] = text.split(",")
        elif kind is str:
            st.session_state[name] = text
            if name == "layer":
                choose_layer()
        elif text.isdecimal() and len(text) < 10:
            st.session_state[name] = int(text)


def remember() -> None:
    """Note the selection for the next page; a callback of widgets in fragments, whose run may be cut short."""
    st.session_state["published"] = {name: st.session_state[name] for name in FIELDS if name in st.session_state}


def publish() -> None:
    """Write the selection into the address."""
    remember()
    values = {name: st.session_state.get(name) for name in FIELDS}
    texts = {
        name: ",".join(value) if isinstance(value, list | tuple) else str(value)
        for name, value in values.items()
        if value not in (None, "", []) and (name != "layer" or layer_chosen())
    }
    if st.query_params.to_dict() != texts:
        st.query_params.from_dict(texts)


def valid(name: str, options: Sequence[T], default: T) -> T:
    """The selected value if ``options`` holds it, else ``default``, which is then the selected one."""
    if name not in st.session_state or st.session_state[name] not in options:
        st.session_state[name] = default
    value: T = st.session_state[name]
    return value


def choose_layer() -> None:
    """From now on the layer is one that the reader chose; before, each page starts at the one that shows it best."""
    st.session_state["layer_chosen"] = True
    remember()


def layer_chosen() -> bool:
    """Whether the reader chose the layer."""
    return "layer_chosen" in st.session_state
