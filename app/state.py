"""The selection that all pages share, kept in the session and in the address.

A widget whose key went through :func:`valid`, :func:`several` or :func:`text` keeps its value from page to page, and a
link with the page's address restores it: model, picture, layer, token and class mean the same on every page. What an
address says is checked against what the widget offers when the widget is drawn; anything else is dropped, and the
reader is told.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import streamlit as st

T = TypeVar("T")


def begins() -> bool:
    """Whether this is a session's first run, which :func:`restore` has not seen yet."""
    return "link" not in st.session_state


def restore(page: str) -> None:
    """Begin a run of a page: read the address at a session's first one, and bring back what other pages chose."""
    session = st.session_state
    if begins():
        session["link"] = st.query_params.to_dict()
        session["names"], session["shown"], session["told"], session["published"] = set(), set(), set(), {}
        if "layer" in session["link"]:
            choose_layer()
    turned = session.get("page") != page
    session["page"] = page
    if turned:
        session["shown"], session["told"] = set(), set()
    # A page that is left keeps what it last published: what was chosen inside a fragment is known there alone.
    published = session["published"] if turned else {}
    for name in session["names"]:
        # Streamlit forgets the value of a widget that a page does not show, unless it is written again.
        if name in published or name in session:
            session[name] = published.get(name, session.get(name))


def remember() -> None:
    """Note the selection for the next page; a callback of widgets in fragments, whose run may be cut short."""
    session = st.session_state
    session["published"] |= {name: session[name] for name in session["names"] if name in session}


def last(name: str) -> Any:
    """What was chosen last, also if its widget is not drawn at the moment; None if nothing was."""
    return st.session_state.get(name, st.session_state["published"].get(name))


def forget(name: str) -> None:
    """Choose ``name`` anew, as if the reader had not."""
    for kept in (st.session_state, st.session_state["published"]):
        kept.pop(name, None)


def open_tab() -> None:
    """Take over which tab is open; a callback of tabs of which only the open one is drawn."""
    remember()
    st.session_state["told"] = set()


def publish() -> None:
    """Write what this page, or a fragment of it, shows into the address."""
    tell_dropped()
    remember()
    texts = {}
    for name in sorted(st.session_state["shown"]):
        value = st.session_state.get(name)
        if value not in (None, "", []) and (name != "layer" or layer_chosen()):
            texts[name] = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if st.query_params.to_dict() != texts:
        st.query_params.from_dict(texts)


def valid(name: str, options: Sequence[T], default: T) -> T:
    """The chosen one of ``options``, which the address gives by its text; ``default``, then chosen, if it is none."""
    if (linked := _taken(name)) is not None:
        if linked not in map(str, options):
            _drop(name, linked)
        st.session_state[name] = next((option for option in options if str(option) == linked), default)
    if name not in st.session_state or st.session_state[name] not in options:
        st.session_state[name] = default
    value: T = st.session_state[name]
    return value


def several(name: str, options: Sequence[str], default: Iterable[str], most: int) -> list[str]:
    """Those chosen of ``options``, ``most`` at most; ``default`` if nothing was chosen yet or nothing of it is there.

    A reader who cleared the choice keeps it empty.
    """
    if (linked := _taken(name)) is not None:
        st.session_state[name] = linked.split(",")
        for value in st.session_state[name]:
            if value not in options:
                _drop(name, value)
    wanted = st.session_state.get(name)
    found = [value for value in dict.fromkeys(wanted or ()) if value in options][:most]
    if not found and (wanted is None or wanted):
        found = list(default)[:most]
    st.session_state[name] = found
    return found


def text(name: str, default: str = "") -> str:
    """Text that the reader may type freely."""
    if (linked := _taken(name)) is not None:
        st.session_state[name] = linked
    value: str = st.session_state.setdefault(name, default)
    return value


def linked(name: str) -> str:
    """What the address that began the session says of something no widget has shown yet; "" if nothing."""
    value: str = st.session_state["link"].get(name, "")
    return value


def _taken(name: str) -> str | None:
    """Note that the page shows ``name``; what the address says of it, the first time."""
    session = st.session_state
    if name not in session and name in session["published"]:
        # Its tab was closed for a while.
        session[name] = session["published"][name]
    elif name not in session["told"] and name in session:
        # Set again, or a browser that has not drawn the widget for a while is not told its value.
        session[name] = session[name]
    for names in ("names", "shown", "told"):
        session[names].add(name)
    value: Any = session["link"].pop(name, None)
    return value


def _drop(name: str, value: str) -> None:
    """Note that a link asked for something that is not on offer."""
    told = " ".join(value.split())[:40].replace("`", "")  # anybody may have written the link
    st.session_state.setdefault("dropped", []).append(f"`{name}={told}`")


def tell_dropped() -> None:
    """Say, once, what the link asked for and the page does not have."""
    if dropped := st.session_state.pop("dropped", None):
        st.toast(
            f"The link asks for what is not here: {', '.join(dropped[:5])}. The usual choice is shown instead.",
            icon=":material/link_off:",
            duration="long",
        )


def choose_layer() -> None:
    """From now on the layer is one that the reader chose; before, each page starts at the one that shows it best."""
    st.session_state["layer_chosen"] = True
    remember()


def layer_chosen() -> bool:
    """Whether the reader chose the layer."""
    return "layer_chosen" in st.session_state
