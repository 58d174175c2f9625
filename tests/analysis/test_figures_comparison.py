"""Figures of models on a set: examples run, and the reliability diagram shows what calibration found."""

import numpy as np
import pytest

from analysis.comparison import calibration
from analysis.figures.comparison import reliability_diagram

CLASSES, LABELS = ("cat", "dog"), [0, 1, 0, 0]
CONFIDENCE = np.array([0.6, 0.6, 0.8, 0.9])
LOGITS = {
    "a": np.stack([np.log(CONFIDENCE), np.log(1 - CONFIDENCE)], axis=1),  # right, wrong, right, right
    "b": np.zeros((4, 2)),
}


def test_the_reliability_diagram_leaves_out_empty_bins_and_counts_images():
    found = {"a": calibration(LOGITS["a"], LABELS, bins=4)}
    diagonal, curve, share = reliability_diagram(found).data
    assert list(diagonal.x) == list(diagonal.y) == [0, 100]
    assert list(curve.x) == pytest.approx([60, 85]) and list(curve.y) == [50, 100]
    assert curve.name == "a: ECE 12.5 %"
    row = found["a"].table.iloc[2]
    assert curve.y[0] + curve.error_y.array[0] == pytest.approx(row.high)
    assert curve.y[0] - curve.error_y.arrayminus[0] == pytest.approx(row.low)
    assert curve.customdata[0].tolist() == [50, 75, 2]
    assert list(share.x) == [12.5, 37.5, 62.5, 87.5] and list(share.y) == [0, 0, 50, 50]


def test_models_have_colours_and_symbols_of_their_own():
    found = {name: calibration(values, LABELS) for name, values in LOGITS.items()}
    curves = [trace for trace in reliability_diagram(found).data if trace.error_y.array is not None]
    assert len(curves) == 2
    assert curves[0].marker.color != curves[1].marker.color and curves[0].marker.symbol != curves[1].marker.symbol
