"""Figures of trade-offs: what is beaten, what is picked, and how the estimate of time stands to the measured one."""

import doctest

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis import tradeoffs
from analysis.figures import tradeoffs as figures
from analysis.figures.palette import GREY, VERMILION
from analysis.figures.tradeoffs import accuracy_cost_scatter, latency_bars, latency_fit
from bcdnet.variants import get_config

FIGURES = [accuracy_cost_scatter, figures.layer_bars, latency_bars, latency_fit]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f.__name__)
def test_the_example_of_every_figure_runs(figure):
    examples = doctest.DocTestParser().get_examples(figure.__doc__)
    assert examples
    for example in examples:
        made = eval(example.source, {**vars(tradeoffs), **vars(figures), "get_config": get_config})
        assert isinstance(made, go.Figure)


@pytest.fixture
def points():
    """Three measured points: "b" is beaten by "a", "c" is dearer and better."""
    frame = pd.DataFrame({"name": ["a", "b", "c"], "top1": [90.0, 89.0, 91.0], "latency_ms": [0.2, 0.3, 0.4]})
    same = {"precision": "1/1", "dataset": "d", "kind": "measured", "cost_kind": "measured", "source": "here"}
    return frame.assign(low=frame.top1 - 1, high=frame.top1 + 1, **same)


def test_what_another_beats_is_grey(points):
    front, trace = accuracy_cost_scatter(points, "latency_ms").data
    assert list(trace.text) == ["a", "c", "b"]  # the legend has the colour of the first one
    assert list(trace.marker.color) == [VERMILION, VERMILION, GREY]
    assert list(trace.marker.line.color) == list(trace.marker.color)
    assert list(front.x) == [0.2, 0.4, 0.4] and list(trace.marker.opacity) == [1, 1, 1]
    assert set(trace.marker.size) == {11}


def test_picked_points_stand_out_and_every_point_says_which_it_is(points):
    fig = accuracy_cost_scatter(points, "latency_ms", picked=["b"])
    trace = fig.data[1]
    assert list(trace.marker.opacity) == [0.35, 0.35, 1] and list(trace.marker.size) == [11, 11, 15]
    assert [row[2] for row in trace.customdata] == ["a", "c", "b"]
    assert fig.layout.dragmode == "select"


def test_symbols_tell_where_accuracy_and_cost_come_from(points):
    quoted = points.assign(kind="quoted", name=["p", "q", "r"])
    fig = accuracy_cost_scatter(pd.concat([points, quoted], ignore_index=True), "latency_ms")
    assert [trace.name for trace in fig.data[1:]] == [
        "accuracy quoted, time measured elsewhere",
        "accuracy and time measured",
    ]
    assert fig.data[1].marker.symbol != fig.data[2].marker.symbol
    sizes = accuracy_cost_scatter(points.rename(columns={"latency_ms": "packed_mb"}), "packed_mb")
    assert sizes.data[1].name == "accuracy and size measured"
    assert "%{x:.3~g}" in sizes.data[1].hovertemplate  # 0.2 MB, not 200m


def test_the_line_of_a_design_says_that_its_time_is_an_estimate(points):
    design = pd.DataFrame([{"variant": "mine", "benchmark_ms": 0.25}])
    line = accuracy_cost_scatter(points.rename(columns={"latency_ms": "benchmark_ms"}), "benchmark_ms", design).data[-1]
    assert line.name == "mine: time estimated, accuracy unknown" and set(line.x) == {0.25}


def test_estimated_times_stand_in_the_order_of_the_network():
    estimate = pd.Series([0.1, 0.4, 0.05], ["stem", "conv1_3x3", "head"])
    fig = latency_bars(estimate)
    assert list(fig.data[0].x) == [0.1, 0.4, 0.05] and list(fig.data[0].y) == ["stem", "conv1_3x3", "head"]
    assert fig.layout.yaxis.autorange == "reversed"


def test_fitted_layers_and_networks_held_out_are_told_apart():
    layers = pd.DataFrame({"measured_ms": [0.1, 0.2], "estimated_ms": [0.11, 0.19]}, index=["stem", "head"])
    held_out = pd.DataFrame({"measured_ms": [6.0], "estimated_ms": [6.6], "error": [10.0]}, index=["other"])
    model = tradeoffs.LatencyModel("Abacus, beads, 1 thread", pd.Series(dtype=float), layers, held_out)
    equal, fitted, held = latency_fit(model).data
    assert list(fitted.x) == [0.1, 0.2] and list(held.y) == [6.6] and list(held.text) == ["other"]
    assert fitted.marker.symbol != held.marker.symbol
    assert equal.x == equal.y and np.isclose(equal.x[1], 9.9)
    assert "Abacus" in latency_fit(model).layout.xaxis.title.text
