"""The selection that all pages share, kept in the session and in the address.

A widget whose key went through :func:`valid`, :func:`several` or :func:`text` keeps its value from page to page, and a
link with the page's address restores it: model, picture, layer, token and class mean the same on every page. What an
address says is checked against what the widget offers when the widget is drawn; anything else is dropped, and the
reader is told.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

T = TypeVar("T")

#: Where a session keeps the book, which no widget can have as its key.
_PLACE = "_book"


@dataclass
class _Book:
    """What a session remembers of its selection, besides the values of the widgets themselves.

    Attributes:
        link: what the address that began the session says of widgets that were not drawn yet.
        page: the one that is open.
        names: of all widgets of the selection that were drawn so far.
        shown: names that the open page shows, which belong into the address.
        published: name -> value, as they last were in the address or in a callback.
        dropped: what the link asked for in vain, until it is said.
        cleared: names of choices of several that the reader left empty.
        layer_chosen: whether the reader chose the layer.
    """

    link: dict[str, str]
    page: str = ""
    names: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    published: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    cleared: set[str] = field(default_factory=set)
    layer_chosen: bool = False


def _book() -> _Book:
    book: _Book = st.session_state[_PLACE]
    return book


def begins() -> bool:
    """Whether this is a session's first run, which :func:`restore` has not seen yet."""
    return _PLACE not in st.session_state


def restore(page: str) -> None:
    """Begin a run of a page: read the address at a session's first one, and bring back what other pages chose."""
    session = st.session_state
    if begins():
        link = st.query_params.to_dict()
        session[_PLACE] = _Book(link, layer_chosen="layer" in link)
    book = _book()
    turned, book.page = book.page != page, page
    if turned:
        book.shown = set()
    # A page that is left keeps what it last published: what was chosen inside a fragment is known there alone.
    published = book.published if turned else {}
    for name in book.names:
        # Streamlit forgets the value of a widget that a page does not show, unless it is written again.
        if name in published or name in session:
            session[name] = published.get(name, session.get(name))


def remember() -> None:
    """Note the selection for the next page; a callback of widgets in fragments, whose run may be cut short."""
    session, book = st.session_state, _book()
    book.published |= {name: session[name] for name in book.names if name in session}


def last(name: str) -> Any:
    """What was chosen last, also if its widget is not drawn at the moment; None if nothing was."""
    return st.session_state.get(name, _book().published.get(name))


def forget(name: str) -> None:
    """Choose ``name`` anew, as if the reader had not."""
    st.session_state.pop(name, None)
    _book().published.pop(name, None)


def names() -> frozenset[str]:
    """All of the selection that were drawn so far, on any page."""
    return frozenset(_book().names)


def forget_linked(name: str) -> None:
    """Forget what the address that began the session says of something no widget has shown yet."""
    _book().link.pop(name, None)


def publish() -> None:
    """Write what this page, or a fragment of it, shows into the address."""
    tell_dropped()
    remember()
    texts = {}
    for name in sorted(_book().shown):
        value = st.session_state.get(name)
        empty = value in (None, "", []) and name not in _book().cleared
        if not empty and (name != "layer" or _book().layer_chosen):
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


def several(name: str, options: Sequence[str], default: Collection[str], most: int) -> list[str]:
    """Those chosen of ``options``, ``most`` at most; ``default`` if nothing was chosen yet or nothing of it is there.

    A reader who cleared the choice keeps it empty.
    """
    if (linked := _taken(name)) is not None:
        st.session_state[name] = [value for value in linked.split(",") if value]
        offered = [value for value in dict.fromkeys(st.session_state[name]) if value in options]
        for value in st.session_state[name]:
            if value not in offered[:most]:
                _drop(name, value)
    wanted = st.session_state.get(name)
    found = [value for value in dict.fromkeys(wanted or ()) if value in options][:most]
    if not found and (wanted is None or wanted):
        found = list(default)[:most]
    (_book().cleared.discard if found or not default else _book().cleared.add)(name)
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
    return _book().link.get(name, "")


def _taken(name: str) -> str | None:
    """Note that the page shows ``name``; what the address says of it, the first time."""
    session, book = st.session_state, _book()
    if name not in session and name in book.published:
        # Its tab was closed for a while.
        session[name] = book.published[name]
    elif name in session and not _heard(name):
        session[name] = session[name]  # set again, or a browser that has not drawn the widget is not told its value
    for names in (book.names, book.shown):
        names.add(name)
    return book.link.pop(name, None)


def _heard(name: str) -> bool:
    """Whether the browser said what a widget holds when it asked for this run; it leaves out what it has not drawn.

    To be asked before the run draws the widget, as that is noted in the same place. A widget of a kind that the
    browser has not drawn before comes late: its code has to be fetched first.
    """
    context = get_script_run_ctx()
    assert context is not None
    state = context.session_state._state  # nothing public of Streamlit's tells
    return state._key_id_mapper.get_id_from_key(name, None) in state._new_widget_state.states


def _drop(name: str, value: str) -> None:
    """Note that a link asked for something that is not on offer."""
    told = " ".join(value.split())[:40].replace("`", "")  # anybody may have written the link
    _book().dropped.append(f"`{name}={told}`")


def tell_dropped() -> None:
    """Say, once, what the link asked for and the page does not have."""
    dropped, _book().dropped = _book().dropped, []
    if dropped:
        st.toast(
            f"Not here, so left out of the link's view: {', '.join(dropped[:3])}",
            icon=":material/link_off:",
            duration="long",
        )


def choose_layer() -> None:
    """From now on the layer is one that the reader chose; before, each page starts at the one that shows it best."""
    _book().layer_chosen = True
    remember()


def layer_chosen() -> bool:
    """Whether the reader chose the layer."""
    return _book().layer_chosen
