"""Training runs: what their logs say, and how far those have come that are still training.

A run is a folder with ``log.csv`` and ``run.json``; while it trains also ``progress.json``, and ``step{n}.safetensors``
for every step it has finished. A log alone, as it ships beside a checkpoint, is a run too. Columns of a log:

* ``step``, ``precision``, ``epoch``, ``iteration``: where the row stands; epochs and iterations count from the start of
  their step;
* ``lr``, ``train_loss``, ``train_top1`` and ``test_top1`` in percent, ``seconds`` since the row before;
* ``flips``: share of binary weights, 0 to 1, whose latent value changed its sign since the row before;
* ``error``: mean ``|W - alpha sign(W)|`` over all binary weights (paper, Eq. 23);
* ``flips_<kind>`` and ``error_<kind>``: the same of one kind of weight, see :data:`KINDS`.

Logs of older runs lack some of them, and an empty cell is a value that is not known.
"""

import csv
import datetime
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcdnet.files import LOG, PROGRESS, RECORD

#: Kinds of binary weights, and what to call them.
KINDS = {
    "conv3x3": "3×3 convolutions",
    "conv1x1": "1×1 convolutions",
    "P": "point branch",
    "S": "short branch",
    "L": "long branch",
}
#: A run that is training reports every few seconds; after this many without a report it is no longer called so.
STALE_SECONDS = 180.0

#: What every log has.
_COLUMNS = ("step", "precision", "epoch")
#: Row by row a log has some hundred bytes; a larger file is something else.
_MAX_BYTES = 32 * 2**20


class RunError(ValueError):
    """A file that tells of no training run; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Progress:
    """How far a run was when it last reported.

    Attributes:
        step, steps: the training step it is in, counted from 1, and how many there are.
        iteration, iterations: of that step, done and in all.
        updated: when it reported.
        eta_s: seconds that it expects the rest of the step to take; None if it does not know.
        stopped: whether it said that it stops, or its process ran on this machine and is gone.
    """

    step: int
    steps: int
    iteration: int
    iterations: int
    updated: datetime.datetime
    eta_s: float | None
    stopped: bool


@dataclass(frozen=True, eq=False)
class Run:
    """One training run as its files describe it.

    Attributes:
        name: of its folder, or of the file where there is only a log.
        source: the log; it need not be there yet.
        log: its rows in order, numbers as float64, NaN where unknown, ``precision`` as text. ``epochs`` and
            ``iterations``, added here, are counted on over the steps.
        recipe: what it was started with; empty where that is not known.
        progress: its last report, if it made one.
        finished: whether every step of the recipe has left its result in the folder.
        problem: one sentence on a file that could not be read; empty if all could.
    """

    name: str
    source: Path
    log: pd.DataFrame
    recipe: dict[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    finished: bool = False
    problem: str = ""

    def silent_for(self, now: datetime.datetime) -> float:
        """Seconds since its last report; 0 if the clock that stamped it is ahead, infinite if there is none."""
        return float("inf") if self.progress is None else max(0.0, (now - self.progress.updated).total_seconds())

    def state(self, now: datetime.datetime) -> str:
        """How it stands at a time, given with its zone.

        "training"; "silent", if it should report and does not; "finished"; "stopped"; or "log only", if nothing else is
        known.
        """
        if self.finished:
            return "finished"
        if self.progress is not None and not self.progress.stopped:
            return "training" if self.silent_for(now) <= STALE_SECONDS else "silent"
        return "stopped" if self.recipe or self.progress is not None else "log only"


def read_run(path: Path) -> Run:
    """The run in a folder, or the one whose log is a CSV file.

    A run that has logged nothing so far has an empty log. A damaged ``run.json`` or ``progress.json`` is told in
    ``problem``, because the log can be read without.

    Raises:
        RunError: there is no run, or its log cannot be read.
    """
    if not _is_run(path):
        return Run(path.stem, path, _log(path))
    source = path / LOG
    log = _log(source) if source.exists() else _table(_COLUMNS, [])
    problem, recipe, progress = "", {}, None
    try:
        recipe = _recipe(path / RECORD)
        progress = _progress(path / PROGRESS)
    except RunError as error:
        problem = str(error)
    steps = len(recipe.get("steps", ()))
    finished = steps > 0 and all((path / f"step{n}.safetensors").is_file() for n in range(1, steps + 1))
    return Run(path.name, source, log, recipe, progress, finished, problem)


def find_runs(folder: Path) -> list[Run]:
    """The runs right inside a folder, by name; that one alone if the folder is a run itself. `~` is the user's home.

    A run whose log cannot be read is among them, with an empty log and the reason as its ``problem``. What is no
    folder, or may not be read, holds no runs.
    """
    try:
        folder = folder.expanduser()
        folders = [folder] if _is_run(folder) else sorted(child for child in folder.iterdir() if _is_run(child))
    except (OSError, ValueError, RuntimeError):  # the last two: a null character in it, and a home of nobody's
        return []
    return [_read_or_say_why(path) for path in folders]


def curves(runs: Sequence[Run], column: str) -> pd.DataFrame:
    """One column of the logs of several runs, for drawing.

    Args:
        runs: their names must differ.
        column: of a log, see the head of this file.

    Returns:
        A row for each value that is known: ``run`` (name), ``step``, ``precision``, ``epochs`` and ``iterations``
        since the start of the run, ``value``. A run without the column has no row.
    """
    keys = ["step", "precision", "epochs", "iterations"]
    parts = [
        run.log[[*keys, column]].rename(columns={column: "value"}).assign(run=run.name)
        for run in runs
        if column in run.log
    ]
    everything = pd.concat(parts) if parts else pd.DataFrame(columns=[*keys, "value", "run"])
    return everything.dropna(subset="value")[["run", *keys, "value"]].reset_index(drop=True)


def epochs_before(logs: Mapping[str, pd.DataFrame], origins: Mapping[str, str]) -> dict[str, int]:
    """Epochs of the networks that each one goes on from, back to the first whose log is known.

    Args:
        logs: name -> log with the column ``test_top1``, which is empty in rows that end no epoch.
        origins: name -> name of the network that it goes on from, if it does.

    Returns:
        Name -> epochs before its own log begins, 0 if it starts anew.
    """
    before = {}
    for name in logs:
        line, at = [name], origins.get(name)
        while at is not None and at in logs and at not in line:
            line.append(at)
            at = origins.get(at)
        before[name] = sum(int(logs[earlier].test_top1.notna().sum()) for earlier in line[1:])
    return before


def kinds(runs: Sequence[Run]) -> list[str]:
    """Kinds of binary weights of which at least one run logged an error or flips, in the order of :data:`KINDS`."""
    logged = {
        column.partition("_")[2]
        for run in runs
        for column in map(str, run.log)
        if column.startswith(("error_", "flips_")) and run.log[column].notna().any()
    }
    return [kind for kind in KINDS if kind in logged] + sorted(logged - set(KINDS))


def last_rows(runs: Sequence[Run]) -> pd.DataFrame:
    """The last row of every log, and its test accuracies.

    Returns:
        A row a run: ``run``; ``step``, ``precision``, ``epochs``, ``iterations``, ``lr``, ``train_loss``,
        ``train_top1``, ``flips`` and ``error`` of the log's last row; ``last_top1``, the last test accuracy that is
        known, ``best_top1``, the highest one of the last step, and ``best_epochs``, when that was; ``seconds`` of all
        rows together. NaN where the log does not say.
    """
    columns = ["step", "precision", "epochs", "iterations", "lr", "train_loss", "train_top1", "flips", "error"]
    table = []
    for run in runs:
        last = run.log.iloc[-1].to_dict() if len(run.log) else {}
        row = {"run": run.name, **{name: last.get(name, float("nan")) for name in columns}}
        if "test_top1" in last:
            tested = run.log[run.log.step == last["step"]].dropna(subset="test_top1")
        else:
            tested = run.log[:0]
        if len(tested):
            best = tested.loc[tested.test_top1.idxmax()]
            row |= {"last_top1": tested.test_top1.iloc[-1], "best_top1": best.test_top1, "best_epochs": best.epochs}
        if "seconds" in last:
            row["seconds"] = run.log.seconds.sum(min_count=1)
        table.append(row)
    return pd.DataFrame(table, columns=["run", *columns, "last_top1", "best_top1", "best_epochs", "seconds"])


def all_rows(runs: Sequence[Run]) -> pd.DataFrame:
    """The logs of one or more runs below each other, with ``run`` and ``source`` in front."""
    logs = pd.concat([run.log.assign(run=run.name, source=source_name(run)) for run in runs], ignore_index=True)
    return logs[["run", "source", *logs.columns.drop(["run", "source"])]]


def source_name(run: Run) -> str:
    """The log's path from two folders above on, which names it without telling where the machine keeps it."""
    return "/".join(run.source.absolute().parts[-3:])


def _is_run(path: Path) -> bool:
    try:
        return (path / LOG).is_file() or (path / RECORD).is_file()
    except OSError:  # it may not be looked into
        return False


def _read_or_say_why(path: Path) -> Run:
    try:
        return read_run(path)
    except RunError as error:
        return Run(path.name, path / LOG, _table(_COLUMNS, []), problem=str(error))


def _text(path: Path) -> str:
    """The content of an ordinary file of a sane size."""
    try:
        if not path.is_file():
            raise RunError(f"{path} is neither a folder of a training run nor a log; name one of the two.")
        if path.stat().st_size > _MAX_BYTES:
            raise RunError(f"{_named(path)} has more than {_MAX_BYTES:,} bytes, so it is no log of a training run.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{_named(path)} cannot be read ({type(error).__name__}).") from error


def _named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _log(path: Path) -> pd.DataFrame:
    text = _text(path)
    try:
        header, *rows = csv.reader(text.splitlines(), strict=True)
    except (csv.Error, ValueError) as error:  # ValueError: nothing in it, not even a header
        raise RunError(f"{_named(path)} is no table of comma-separated values; {_MEND}") from error
    if not set(_COLUMNS) <= set(header) or len(set(header)) < len(header):
        raise RunError(f"{_named(path)} has not the columns of a training log, such as step and epoch; {_MEND}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise RunError(f"{_named(path)} has {len(row)} values in line {number}, not {len(header)}; {_MEND}")
    try:
        return _table(header, rows)
    except ValueError as error:
        raise RunError(f"{_named(path)} holds something other than a number where one belongs; {_MEND}") from error


#: How every sentence on a damaged log ends.
_MEND = "restore it, or take the run out of the folder."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
    log = pd.DataFrame(
        {
            name: list(cells) if name == "precision" else np.array([float(cell or "nan") for cell in cells])
            for name, cells in columns.items()
        }
    )
    if log.step.isna().any():
        raise ValueError("a row without its step")
    for column, total in (("epoch", "epochs"), ("iteration", "iterations")):
        log[total] = _counted_on(log, column) if column in log else float("nan")
    return log


def _counted_on(log: pd.DataFrame, column: str) -> pd.Series:
    """A count that starts again at every step, as one that goes on; unknown after a step that did not count."""
    before = log.groupby("step")[column].max().cumsum(skipna=False).shift(fill_value=0.0)
    return log[column] + log.step.map(before)


def _recipe(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    recipe = _object(path).get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("steps"), list):
        raise RunError(f"{_named(path)} names no recipe with steps, so how far the run has come is not known.")
    return recipe


def _progress(path: Path) -> Progress | None:
    if not path.exists():
        return None
    report = _object(path)
    try:
        counts = {name: int(report[name]) for name in ("step", "steps", "iteration", "iterations")}
        updated = datetime.datetime.fromisoformat(report["updated"])
        eta = report.get("eta_s")
        return Progress(
            **counts,
            updated=updated if updated.tzinfo else updated.replace(tzinfo=datetime.UTC),
            eta_s=float(eta) if eta is not None and math.isfinite(float(eta)) else None,
            stopped=report.get("stopped") is True or _is_gone(report.get("process"), report.get("host")),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{_named(path)} is no report of a run that trains; remove it if the run has ended.") from error


def _is_gone(process: object, host: object) -> bool:
    """Whether a process, by its number, ran on this machine and does not any more."""
    if host != platform.node() or not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)  # signal 0 asks, and does nothing
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # somebody else's, and no number of a process
        return False
    return False


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{_named(path)} is no JSON file; restore it, or remove it if the run has ended.") from error
    if not isinstance(content, dict):
        raise RunError(f"{_named(path)} holds no JSON object; restore it, or remove it if the run has ended.")
    return content
