"""Measured times of several networks, for the pages that weigh them."""

from collections.abc import Iterable, Sequence

import streamlit as st

from analysis.deployment import Latency
from app import engines
from app.cache import Model
from app.widgets import words

#: Seconds up to which times are taken without asking.
_QUICK = 5


def latencies(models: Sequence[Model], key: str) -> dict[str, Latency]:
    """Time of one image through each model, by id, measured now unless it is known; with a bar, since it takes a while.

    Where it takes long, the reader is asked first, by a button of this key; until then only known times come back.
    """
    try:
        isa = engines.instruction_set()
    except ValueError as error:
        st.error(str(error))
        return {}
    unknown = [model for model in models if not engines.latency_known(model, isa)]
    seconds = sum(engines.latency_seconds(model) for model in unknown)
    if seconds > _QUICK:
        st.info(f"To time these networks takes about {seconds:.0f} s on this machine, once; then it is remembered.")
        if not st.button("Time them", type="primary", key=key, help="Any other click cancels the work."):
            models = [model for model in models if model not in unknown]
            unknown = []
    found = {}
    with words.progress(bool(unknown), "networks") as report:
        for k, model in enumerate(models):
            if report is not None:
                report(k, len(models))
            try:
                found[model.id] = engines.latency(model, isa)
            except ValueError as error:
                st.warning(f"{model.title} was not timed: {error}")
    if slow := engines.degraded(isa):
        st.caption(f":material/hourglass_bottom: {slow}")
    return found


def where(latencies: Iterable[Latency]) -> str:
    """What the times are of, for a badge: "time of one image, here and now, avx512, 1 thread"."""
    found = list(latencies)
    isas = [time.isa for time in found if time.isa][:1]
    return ", ".join(["time of one image, here and now", *isas, engines.threads(found[0].threads)])


def how(latency: Latency) -> str:
    """What was timed in the model's own case: "packed" or "float in PyTorch"."""
    return "float in PyTorch" if latency.packed_ms is None else f"packed, {latency.isa}"
