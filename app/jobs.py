"""Slow questions, answered in the background: cost beforehand, progress, time left, and a way to cancel.

A job runs on a thread and on a copy of the network, so that the page stays alive and nobody waits for it; its answer
is kept like any other, and found again on every page. It belongs to one session: what two readers ask alike is computed
once, as the second job finds the answer of the first, but neither can cancel it for the other.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import streamlit as st

from app import cache
from app.cache import Model

K = TypeVar("K")
T = TypeVar("T")

#: Up to this many seconds one simply waits; up to :data:`_UNASKED`, the work starts by itself.
_AT_ONCE, _UNASKED = 0.5, 3.0
#: How often a page looks at its jobs, and after how many seconds a job that nobody looks at any more stops.
_LOOK, _FORGOTTEN = 0.4, 60.0
#: So many that failed or were cancelled are remembered.
_ENDED = 32


class Cancelled(Exception):
    """Raised inside a job, at its next report of progress, when it shall stop."""


@dataclass
class Job:
    """Work under way: ``done`` of ``total`` chunks. ``failed`` is a sentence for the reader, "" if all went well."""

    done: int = 0
    total: int = 0
    began: float = 0.0
    looked_at: float = field(default_factory=time.monotonic)
    failed: str = ""
    ended: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def report(self, done: int, total: int) -> None:
        """What a question calls as its ``progress``."""
        self.done, self.total = done, total
        if time.monotonic() - self.looked_at > _FORGOTTEN:
            self.cancelled.set()
        if self.cancelled.is_set():
            raise Cancelled

    def stopped(self) -> bool:
        """Whether nothing will come of it: it was cancelled, even if its last chunk still goes on, or it failed."""
        return self.cancelled.is_set() or bool(self.ended.is_set() and self.failed)

    def seconds_left(self) -> float | None:
        """By the pace so far; None before the first chunk."""
        if not self.done:
            return None
        return (time.monotonic() - self.began) * (self.total - self.done) / self.done


@st.cache_resource(show_spinner=False)
def _jobs() -> tuple[dict[tuple[Any, ...], Job], ThreadPoolExecutor]:
    # One at a time: two would only slow each other down. Those that wait say so.
    return {}, ThreadPoolExecutor(1, thread_name_prefix="job")


def answer(
    question: Callable[..., T],
    model: Model,
    *arguments: Any,
    forwards: int,
    what: str,
    seconds: float | None = None,
    **options: Any,
) -> T | None:
    """The answer to a slow question; None as long as there is none, and the page says why.

    The cost is told beforehand, and beyond a few seconds the reader has to agree to it. While the work goes on, the
    page shows how far it is and a button that stops it; when it is done, the page is drawn anew.

    Args:
        question: a function of `analysis` with a network as its first argument and ``progress`` among its options.
        model, *arguments, **options: as for :func:`app.cache.ask`.
        forwards: passes through the network that it needs; one with a gradient counts as three.
        what: a name for the work, e.g. "Deletion and insertion"; two jobs of one page have different ones.
        seconds: how long it takes about; from ``forwards`` and the speed of this machine, if None.
    """
    key = cache.question_key(question, model, arguments, options)
    if (known := cache.kept(key)) is not None:
        return known
    jobs, workers = _jobs()
    place = (st.session_state.setdefault("reader", uuid.uuid4().hex), *key)
    job = jobs.get(place)
    agreed: set[tuple[Any, ...]] = st.session_state.setdefault("agreed", set())
    if job is not None and not job.stopped():
        agreed.discard(key)  # a second click asks for nothing more
        _watch(place, what)
        return None
    if seconds is None:
        seconds = forwards * cache.seconds_per_image(model)
    if job is None and seconds <= _AT_ONCE:
        given, named = cache.resolved(model, arguments, options)
        return cache.remember(key, lambda: question(cache.private_copy(model), *given, **named))
    if job is not None and job.failed:
        st.error(job.failed)
    if (job is not None or seconds > _UNASKED) and key not in agreed:
        stopped = "Cancelled; nothing was kept. " if job is not None and job.cancelled.is_set() else ""
        st.info(f"{stopped}{what}: {forwards:,} forward passes, about {duration(seconds)} on this machine.")
        # Noted in a callback, because a run that reads the button may be cut short before it comes to it.
        st.button(
            "Compute it",
            key=f"job-{abs(hash(key))}",
            type="primary",
            on_click=agreed.add,
            args=(key,),
            help="It can be cancelled at any time.",
        )
        return None
    given, named = cache.resolved(model, arguments, options)
    network = cache.private_copy(model)
    for old in [other for other, ended in list(jobs.items()) if ended.ended.is_set()][:-_ENDED]:
        jobs.pop(old, None)
    job = jobs[place] = Job()
    workers.submit(_work, job, key, lambda: question(network, *given, progress=job.report, **named))
    agreed.discard(key)
    _watch(place, what)
    return None


@dataclass(frozen=True)
class Ask:
    """One of several questions, with arguments as for :func:`answer`."""

    question: Callable[..., Any]
    model: Model
    arguments: tuple[Any, ...]
    forwards: int
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def key(self) -> tuple[Any, ...]:
        return cache.question_key(self.question, self.model, self.arguments, dict(self.options))

    def seconds(self) -> float:
        return self.forwards * cache.seconds_per_image(self.model)


def under_way(asks: Mapping[K, Ask]) -> bool:
    """Whether a job of one of these questions goes on, so that a page that asks them shows its progress."""
    found = (_jobs()[0].get((st.session_state.get("reader"), *ask.key())) for ask in asks.values())
    return any(job is not None and not job.ended.is_set() and not job.stopped() for job in found)


def answers(asks: Mapping[K, Ask], what: str) -> dict[K, Any]:
    """Answers to several questions, one job after the other; those that are there already, by the keys of ``asks``.

    The reader agrees once to what all of them cost together, if it is more than a few seconds; ``what`` is a name for
    the whole, as in :func:`answer`.
    """
    waiting = {name: ask for name, ask in asks.items() if not cache.known(ask.key())}
    seconds = sum(ask.seconds() for ask in waiting.values())
    agreed = f"agreed-{abs(hash(tuple(ask.key() for ask in asks.values())))}"
    if seconds > _UNASKED and not st.session_state.get(agreed):
        forwards = sum(ask.forwards for ask in waiting.values())
        st.info(f"{what}: {forwards:,} forward passes, about {duration(seconds)} on this machine; then it is kept.")
        st.button(
            "Compute it",
            key=f"ask-{agreed}",
            type="primary",
            on_click=st.session_state.__setitem__,
            args=(agreed, True),
            help="It goes on in the background and can be cancelled at any time.",
        )
        asks = {name: ask for name, ask in asks.items() if name not in waiting}
    found = {}
    for name, ask in asks.items():
        # What was agreed to is not asked again; what is quick alone, but not with all others, is not waited for.
        pace = ask.seconds() if seconds <= _AT_ONCE else _UNASKED
        options: dict[str, Any] = dict(ask.options)
        value = answer(
            ask.question, ask.model, *ask.arguments, forwards=ask.forwards, what=ask.what, seconds=pace, **options
        )
        if value is None:
            break  # one after the other, so that one line says how far they are
        found[name] = value
    return found


def _work(job: Job, key: tuple[Any, ...], compute: Callable[[], Any]) -> None:
    job.began = time.monotonic()
    try:
        job.report(0, 0)  # it may have been cancelled while it waited
        cache.remember(key, compute)
    except Cancelled:
        pass
    except ValueError as error:
        job.failed = str(error)
    except Exception:
        job.failed = "This could not be computed; the server's log says more."
        logging.getLogger(__name__).exception("a question failed")
    finally:
        job.ended.set()


@st.fragment(run_every=_LOOK)
def _watch(place: tuple[Any, ...], what: str) -> None:
    """Progress of a job, drawn anew by itself until it ends."""
    jobs, _ = _jobs()
    job = jobs.get(place)
    if job is None or job.ended.is_set() or job.stopped():
        if job is not None and not job.stopped():
            del jobs[place]
        st.rerun()
    job.looked_at = time.monotonic()
    bar, button = st.columns([5, 1], vertical_alignment="center")
    if not job.began:
        text = f"{what}: waits for other work to end"
    elif (left := job.seconds_left()) is None:
        text = f"{what}: begins"
    else:
        text = f"{what}: {job.done:,} of {job.total:,}, {duration(left)} left"
    bar.progress(min(job.done / job.total, 1.0) if job.total else 0.0, text)
    button.button(
        "Cancel",
        key=f"cancel-{abs(hash(place))}",
        on_click=job.cancelled.set,
        help="Stops the work within a second; what was computed so far is dropped.",
    )


def duration(seconds: float) -> str:
    """ "less than a second", "4 s", "3 min"."""
    if seconds < 1:
        return "less than a second"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
