"""The page *Training runs*, and the curves of the overview: what happened while networks were trained."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.overview import training_curves
from analysis.figures.runs import run_colors, run_curves
from analysis.runs import curves, epochs_before, read_run
from analysis.views._view import View
from bcdnet.checkpoint import inspect


def run_curve(
    runs: Mapping[str, str | Path],
    column: str,
    title: str = "",
    x: str = "epochs",
    thin: str | None = None,
    **form: Any,
) -> View[pd.DataFrame]:
    """How did loss, accuracy, flips or binarization error go over training, in one run or several?

    Args:
        runs: by name, the folder of each or its log.
        column: of the logs, such as "train_loss", "test_top1" (%), "flips" or "error"; see :mod:`analysis.runs`.
        title: what is drawn; the column's name if empty.
        x: "epochs" or "iterations".
        thin: a column to be drawn as thin lines beside it, such as "train_top1".
        **form: of the values, ``form``, ``unit`` and ``top`` of :func:`analysis.figures.runs.run_curves`.

    Returns:
        A row for each value that is known, see :func:`analysis.runs.curves`.

    Raises:
        RunError: there is no run, or its log cannot be read.
        ValueError: more runs than there are colours.

    Example:
        >>> run_curve({"A": "assets/checkpoints/fmnist_bcdnet_a.csv"}, "test_top1", thin="train_top1", unit=" %")
    """
    read = [replace(read_run(Path(path)), name=name) for name, path in runs.items()]
    data = curves(read, column).dropna(subset=x)
    beside = None if thin is None else curves(read, thin).dropna(subset=x)
    return View(data, run_curves(data, title or column, run_colors(list(runs)), x, beside, **form))


def accuracy_in_training(checkpoints: Iterable[str | Path]) -> View[dict[str, pd.DataFrame]]:
    """How did the test accuracy of shipped models go, epoch by epoch, in percent?

    A model that is continued from another one of them begins where that one ends.

    Args:
        checkpoints: files with a log beside them, of the same name and `.csv`.

    Returns:
        The logs, by name of the file.

    Example:
        >>> accuracy_in_training(["assets/checkpoints/fmnist_bcdnet_a.safetensors"])
    """
    paths = {Path(path).stem: Path(path) for path in checkpoints}
    logs = {name: pd.read_csv(path.with_suffix(".csv")) for name, path in paths.items()}
    origins = {name: str((inspect(path)["card"].get("recipe") or {}).get("init")) for name, path in paths.items()}
    return View(logs, training_curves(logs, {name: name for name in logs}, epochs_before(logs, origins)))
