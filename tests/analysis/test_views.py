"""Every view is one call that returns data and a figure, and no figure of the dashboard is without one."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from nets import TINY

import analysis.figures
import bcdnet
from analysis import views
from analysis.views import View
from bcdnet.files import assets_dir
from bcdnet.variants import get_config

VIEWS: dict[str, Callable[..., View]] = {
    name: function for name in views.__all__ if inspect.isfunction(function := getattr(views, name))
}
#: Figures that no page shows, and why.
UNSHOWN = {"error_bars": "one model's errors alone: the pages draw several models beside each other, with block_errors"}


def names() -> dict[str, Any]:
    """What the examples speak of: a network of three classes, random images, and what two others say of them."""
    torch.manual_seed(0)
    images = torch.randn(4, 1, 28, 28)
    return VIEWS | {
        "Path": Path, "get_config": get_config,
        "model": bcdnet.create_model("bcdnet_b", **{**TINY, "num_classes": 3}, mlp_groups=2).eval(),
        "images": images, "x": images[:1], "labels": [0, 1, 2, 0], "classes": ["shirt", "shoe", "bag"],
        "pictures": np.zeros((4, 28, 28), np.uint8),
        "logits": {name: np.random.default_rng(k).normal(size=(4, 3)) for k, name in enumerate("ab")},
    }  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_the_example_of_every_view_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    examples = doctest.DocTestParser().get_examples(VIEWS[name].__doc__ or "")
    assert examples
    for example in examples:
        assert example.source.startswith(f"{name}(")
        data, figure = eval(example.source, names())
        assert data is not None and isinstance(figure, go.Figure) and figure.data


def figures() -> Iterator[Callable[..., go.Figure]]:
    for about in pkgutil.iter_modules(analysis.figures.__path__):
        module = importlib.import_module(f"analysis.figures.{about.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__ and not name.startswith("_") and about.name != "palette"
            if own and inspect.signature(function).return_annotation is go.Figure:
                yield function


def called(code: CodeType) -> Iterator[str]:
    """Names that a function's code speaks of, those inside its inner functions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from called(constant)


def reached(start: Callable[..., Any]) -> set[Callable[..., Any]]:
    """The functions of `analysis` that a function may call, directly or by another."""
    found, todo = set(), [start]
    while todo:
        function = todo.pop()
        if function not in found:
            found.add(function)
            known = (function.__globals__.get(name) for name in called(function.__code__))
            todo += [one for one in known if inspect.isfunction(one) and one.__module__.startswith("analysis.")]
    return found


def test_no_figure_is_without_a_view() -> None:
    shown = set().union(*(reached(view) for view in VIEWS.values()))
    missing = {function.__name__ for function in figures() if function not in shown}
    assert missing == set(UNSHOWN)


def test_training_that_goes_on_is_drawn_behind_what_came_before() -> None:
    names = ("fmnist_bcdnet_a", "fmnist_bcdnet_b")  # the second is continued from the first
    logs, fig = views.accuracy_in_training([assets_dir() / "checkpoints" / f"{name}.safetensors" for name in names])
    ends = {name: max(max(trace.x) for trace in fig.data if trace.name == name) for name in names}
    begins = {name: min(min(trace.x) for trace in fig.data if trace.name == name) for name in names}
    assert begins == {names[0]: 1, names[1]: ends[names[0]] + 1}
    assert ends[names[1]] - ends[names[0]] == logs[names[1]].test_top1.notna().sum()


def test_all_views_are_offered_under_one_name() -> None:
    for about in pkgutil.iter_modules(views.__path__):
        module = importlib.import_module(f"analysis.views.{about.name}")
        own = [
            name
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__ and not name.startswith("_") and about.name != "_view"
        ]
        assert set(own) <= set(VIEWS)
        for name in own:
            assert (VIEWS[name].__doc__ or "").splitlines()[0].strip()


def test_a_view_draws_the_data_it_returns() -> None:
    model, x = (names()[name] for name in ("model", "x"))
    fields, drawn = views.exact_field(model, "stem", 0, 0)
    assert np.argwhere(fields["field"]).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert np.count_nonzero(drawn.data[0].z) == 4
    one, whole = views.attribution_map(model, x, 1, "saliency")
    assert np.allclose(whole.data[0].customdata, one.map)
    weights, marked = views.layer_weights(model, "mlp1_1", "long", mark=(0, 1)).data
    assert marked is not None and marked.n == (weights.latent >= 0).sum()
    errors = views.weight_errors({"B": model}, by="mlps").data
    assert set(errors.branch) == {"point", "short", "long"}


def test_known_logits_stand_for_a_network_and_its_images() -> None:
    known = names()
    images, labels, classes = (known[name] for name in ("images", "labels", "classes"))
    with torch.no_grad():
        logits = {"B": known["model"](images).double().numpy()}
    asked = views.accuracies({"B": known["model"]}, images, labels, classes).data
    assert asked.accuracy.equals(views.accuracies(logits, None, labels, classes).data.accuracy)
    with pytest.raises(ValueError, match="needs images"):
        views.accuracies({"B": known["model"]}, None, labels, classes)


def test_what_does_not_fit_is_said_in_words() -> None:
    known = names()
    with pytest.raises(ValueError, match="beyond must be one of"):
        views.exact_field(known["model"], "mlp1_1", 3, 3, beyond="paths")
    with pytest.raises(ValueError, match="compares two models"):
        views.wiped_maps({"a": known["model"]}, known["x"], 0)
    with pytest.raises(ValueError, match="is measured: give"):
        views.accuracy_against_cost(cost="latency_ms")


def test_the_gallery_begins_with_the_image_that_divides_the_models() -> None:
    logits = {"a": np.array([[9.0, 0], [9, 0]]), "b": np.array([[9.0, 0], [0, 9]])}
    pictures = np.stack([np.full((2, 2), 10, np.uint8), np.full((2, 2), 200, np.uint8)])
    data, figure = views.disagreements(logits, None, pictures, ["cat", "dog"], labels=[0, 1])
    assert list(data["index"]) == [1, 0]
    assert np.asarray(figure.data[0].z).shape == (2, 2, 3) and (np.asarray(figure.data[0].z) == 200).all()
    assert [note.text for note in figure.layout.annotations] == [
        "№ 1 · dog<br><b>1</b> cat<br><b>2</b> dog", "№ 0 · cat<br><b>1</b> cat<br><b>2</b> cat",
    ]  # fmt: skip
    assert "<b>1</b> a" in figure.layout.title.text and "<b>2</b> b" in figure.layout.title.text


def test_maps_can_lie_on_the_picture_that_the_network_saw_a_part_of() -> None:
    model, x = (names()[name] for name in ("model", "x"))
    picture, one, two = np.zeros((40, 60), np.uint8), {"target": 1, "method": "saliency"}, {"a": model, "b": model}
    asks: list[tuple[Callable[..., View], Any, dict[str, Any]]] = [
        (views.attribution_map, model, one | {"limit": 2.0}),
        (views.attribution_grid, model, {"rows": ("target", [0, 1]), "columns": ("method", ["saliency"])}),
        (views.wiped_maps, two, one),
        (views.map_difference, two, one),
    ]
    for view, of, asked in asks:
        plain, placed = (view(of, x, image=picture, box=box, **asked).figure for box in (None, (16.0, 6.0, 44.0, 34.0)))
        assert placed != plain
        if "limit" in asked:
            assert (placed.data[0].zmin, placed.data[0].zmax) == (-2, 2)
