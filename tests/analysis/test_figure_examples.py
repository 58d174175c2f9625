"""Every figure function has an example, and it runs."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from nets import TINY

import analysis
import analysis.figures
import bcdnet
from bcdnet.variants import get_config

#: Not figures, but what all of them are drawn with.
TOOLS = {"palette"}
MODULES = [
    importlib.import_module(f"{package.__name__}.{about.name}")
    for package in (analysis, analysis.figures)
    for about in pkgutil.iter_modules(package.__path__)
    if not about.ispkg and about.name not in TOOLS
]


def figures() -> Iterator[Callable[..., go.Figure]]:
    for module in MODULES:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if (
                own
                and module.__name__.startswith("analysis.figures")
                and inspect.signature(function).return_annotation is go.Figure
            ):
                yield function


def names() -> dict[str, Any]:
    """What the examples speak of: all functions of `analysis`, a network of three classes, and random images."""
    torch.manual_seed(0)
    images = torch.randn(4, 1, 28, 28)
    functions = {name: f for module in MODULES for name, f in inspect.getmembers(module, inspect.isfunction)}
    return functions | {
        "bcdnet": bcdnet, "pd": pd, "Path": Path, "get_config": get_config,
        "model": bcdnet.create_model("bcdnet_b", **{**TINY, "num_classes": 3}, mlp_groups=2).eval(),
        "images": images, "x": images[:1], "labels": [0, 1, 2, 0], "classes": ["shirt", "shoe", "bag"],
        "logits": {name: np.random.default_rng(k).normal(size=(4, 3)) for k, name in enumerate("ab")},
    }  # fmt: skip


@pytest.mark.parametrize("figure", list(figures()), ids=lambda f: f"{f.__module__.rpartition('.')[2]}.{f.__name__}")
def test_the_example_of_every_figure_runs(figure: Callable[..., go.Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    examples = doctest.DocTestParser().get_examples(figure.__doc__ or "")
    assert examples
    for example in examples:
        assert example.source.startswith(f"{figure.__name__}(")
        assert isinstance(eval(example.source, names() | vars(inspect.getmodule(figure))), go.Figure)
