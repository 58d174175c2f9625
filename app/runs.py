"""Training runs on offer: the shipped logs, and the runs in a folder of the reader's.

Files are read anew after two seconds, however many readers watch them.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import streamlit as st

from analysis import runs
from analysis.runs import Run
from app.cache import Model

_SECONDS = 2


def default_folder() -> str:
    """Where a reader's runs are looked for: `$BCDNET_RUNS`, else where training puts them."""
    return os.environ.get("BCDNET_RUNS") or "runs"


def shipped(models: Sequence[Model]) -> tuple[dict[str, Run], list[str]]:
    """The logs of the models on offer by the model's id, and a sentence for each that cannot be read."""
    found, problems = {}, []
    for model in models:
        if model.log is None or not model.log.is_file():
            continue
        try:
            found[model.id] = replace(_read(model.log), name=model.title)
        except runs.RunError as error:
            problems.append(str(error))
    return found, problems


def own(folder: str) -> tuple[dict[str, Run], list[str]]:
    """The runs of a folder by what an address calls them, and a sentence for each file that cannot be read."""
    found = {}
    for run in _find(Path(folder)):
        # With the name of the folder above, because a run is often named as the model that came of it.
        name = "/".join(run.source.absolute().parts[-3:-1])
        found[quote(name)] = replace(run, name=name)  # quoted, as a comma ends a name in the address
    return found, [run.problem for run in found.values() if run.problem]


def is_folder(name: str) -> bool:
    """Whether there is a folder of this name."""
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, RuntimeError):  # longer than a name can be, or a home of nobody's
        return False


@st.cache_data(show_spinner=False, max_entries=64, ttl=_SECONDS)
def _read(log: Path) -> Run:
    return runs.read_run(log)


@st.cache_data(show_spinner=False, max_entries=16, ttl=_SECONDS)
def _find(folder: Path) -> list[Run]:
    return runs.find_runs(folder)
