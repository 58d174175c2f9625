"""Packed engines, and what was timed on this machine since the dashboard was started.

Everything belongs to an instruction set, ``isa``, see :func:`instruction_set`. Times are taken one at a time, whoever
asks: two at once would slow each other down.
"""

import os
import threading

import pandas as pd
import streamlit as st
import torch

from analysis import deployment, tradeoffs
from app import cache
from app.cache import HASH, Config, Model, Picture, Progress
from bcdnet import kernels
from bcdnet.bench import cpu_name
from bcdnet.engine import Engine, pack
from bcdnet.model import Network

#: Threads of both graphs where one number stands for all: what the dashboard gives to the work of one user.
THREADS = torch.get_num_threads()
#: Seconds that the table of speeds spends on one number of threads, if the network is quick enough.
_BUDGET = 2.0

_measuring = threading.Lock()


def machine() -> str:
    """The processor's name."""
    return cpu_name()


def cores() -> int:
    """Processor cores that this program may use."""
    return kernels.cores()


def threads(count: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{count} thread{'' if count == 1 else 's'}"


def instruction_set() -> str:
    """What computes. ValueError, with a sentence for the reader, if the environment asks for what cannot run here."""
    return kernels.active()


def degraded(isa: str) -> str:
    """Why the slow reference computes, in a sentence; empty where the kernels do."""
    return kernels.describe() if isa == kernels.REFERENCE else ""


@st.cache_data(show_spinner=False, max_entries=256, hash_funcs=HASH)
def packable(model: Model) -> str:
    """See :func:`analysis.deployment.packable`: why it cannot be packed; empty if it can."""
    with cache.locked(model) as network:
        return deployment.packable(network)


@st.cache_resource(show_spinner=False, max_entries=8, hash_funcs=HASH)
def engine(model: Model, isa: str) -> Engine:
    """The packed network, which many may call at once. ValueError, with a sentence for the reader, if there is none."""
    with cache.locked(model) as network, kernels.use_isa(isa):
        return pack(network, THREADS)


@st.cache_data(show_spinner=False, max_entries=128, hash_funcs=HASH)
def twin(model: Model, picture: Picture, isa: str) -> deployment.Twin:
    """See :func:`analysis.deployment.twin`."""
    packed = engine(model, isa)
    with cache.locked(model) as network:
        return deployment.twin(network, packed, cache.seen(model, picture).x)


@st.cache_data(show_spinner=False, max_entries=16, hash_funcs=HASH)
def layer_maps(model: Model, picture: Picture, layer: str, isa: str) -> deployment.LayerMaps:
    """See :func:`analysis.deployment.layer_maps`."""
    packed = engine(model, isa)
    with cache.locked(model) as network:
        return deployment.layer_maps(network, packed, cache.seen(model, picture).x, layer)


@st.cache_data(show_spinner=False, max_entries=8, hash_funcs=HASH)
def packed_file(model: Model, isa: str) -> bytes:
    """See :func:`analysis.deployment.packed_file`."""
    return deployment.packed_file(engine(model, isa))


@st.cache_data(show_spinner=False, max_entries=64, hash_funcs=HASH)
def file_parts(model: Model, isa: str) -> pd.DataFrame:
    """See :func:`analysis.deployment.file_parts`."""
    size = len(packed_file(model, isa))
    with cache.locked(model) as network:
        return deployment.file_parts(network, engine(model, isa), model.bytes, size)


@st.cache_data(show_spinner=False, max_entries=256, hash_funcs=HASH)
def packed_megabytes(model: Model, isa: str) -> float | None:
    """Size of the packed file; None if it cannot be packed."""
    if packable(model):
        return None
    with cache.locked(model) as network, kernels.use_isa(isa):
        return len(deployment.packed_file(pack(network, THREADS))) / 1e6


# -- times ------------------------------------------------------------------------------------------------------------


@st.cache_data(show_spinner=False, max_entries=64, hash_funcs=HASH)
def layer_times(model: Model, isa: str) -> pd.DataFrame:
    """See :func:`analysis.deployment.layer_times`, on :data:`THREADS`."""
    network, packed = cache.private_copy(model), engine(model, isa)
    with _measuring:
        return deployment.layer_times(network, packed, _image(model.config))


def latency(model: Model, isa: str) -> deployment.Latency:
    """See :func:`analysis.deployment.latency`: one image on :data:`THREADS`."""

    def compute() -> deployment.Latency:
        return timed(cache.private_copy(model), isa)

    return cache.remember(("latency", model.key, isa), compute)


def timed(network: Network, isa: str, progress: Progress | None = None) -> deployment.Latency:
    """See :func:`analysis.deployment.latency`: one image on :data:`THREADS`; ``app.jobs`` may ask it.

    It is its turn that is waited for, and can be given up; the timing itself is one step.
    """
    report = progress or (lambda done, total: None)
    report(0, 1)
    while not _measuring.acquire(timeout=0.2):
        report(0, 1)
    try:
        with kernels.use_isa(isa):
            return deployment.latency(network, _image(network.config), THREADS)
    finally:
        _measuring.release()


def how_timed(latency: deployment.Latency) -> str:
    """What was timed in the model's own case: "packed" with its instruction set, or "float in PyTorch"."""
    return "float in PyTorch" if latency.packed_ms is None else f"packed, {latency.isa}"


def latency_seconds(model: Model) -> float:
    """Time that :func:`latency` takes on this machine, about: some tenths, or five rounds and what comes before."""
    return max(0.4, 13 * cache.seconds_per_image(model))


def speed_seconds(model: Model, isa: str) -> float:
    """Time that :func:`speed` takes on this machine, about."""
    quick = latency(model, isa)
    # Five rounds at least, and some before them, of the float graph, of the simulation, and of the engine.
    slow = 8 * 3 * (quick.float_ms + (quick.packed_ms or 0)) / 1e3
    return len(deployment.thread_counts(cores())) * max(_BUDGET, slow)


def speed_known(model: Model, isa: str) -> bool:
    """Whether :func:`speed` would answer at once."""
    return cache.known(_speed_key(model, isa))


def speed(model: Model, isa: str, progress: Progress | None = None, anew: bool = False) -> pd.DataFrame:
    """See :func:`analysis.deployment.speed`: one image, on one thread to all cores; ``attrs["load"]`` is the machine's
    over the last minute. Times of an earlier call are kept, with ``anew`` until there are others."""

    def compute() -> pd.DataFrame:
        network, counts, tables = cache.private_copy(model), deployment.thread_counts(cores()), []
        for k, threads in enumerate(counts):
            if progress is not None:
                progress(k, len(counts))
            with _measuring, kernels.use_isa(isa):  # others take their turn in between
                tables.append(deployment.speed(network, _image(model.config), threads, _BUDGET))
        speed = pd.concat(tables, ignore_index=True)
        speed.attrs["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return speed

    return cache.remember(_speed_key(model, isa), compute, anew)


def _speed_key(model: Model, isa: str) -> tuple[str, ...]:
    return ("speed", model.key, isa)


@st.cache_data(show_spinner=False, max_entries=1)
def latency_model() -> tradeoffs.LatencyModel:
    """See :func:`analysis.tradeoffs.latency_model`: ValueError, with a sentence for the reader, without its timings."""
    return tradeoffs.latency_model()


@st.cache_data(show_spinner=False, max_entries=256)
def _estimated(config: str) -> pd.Series:
    return latency_model().estimate(Config.from_json(config))


def estimated_latency(config: Config) -> pd.Series:
    """See :meth:`analysis.tradeoffs.LatencyModel.estimate`: ValueError, with a sentence, if it cannot be packed."""
    return _estimated(config.to_json())


def _image(config: Config) -> torch.Tensor:
    size = (1, config.in_channels, *config.image_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))
