"""Comparison: every number below is worked out by hand from six images and three classes."""

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.comparison import alike, calibration, compare, gallery, holm, mcnemar_exact, predict_set, roc, top_k
from bcdnet import create_model
from bcdnet.evaluate import detection

CLASSES = ("cat", "dog", "hen")
LABELS = [0, 0, 1, 1, 1, 0]
#       image 0  1  2  3  4  5
ANSWERS = {
    "a": [0, 0, 1, 1, 0, 1],  # 4 right
    "b": [0, 1, 1, 0, 2, 1],  # 2 right
    "c": [0, 2, 1, 1, 1, 1],  # 4 right
}


def one_hot(answers):
    return np.eye(3)[answers]


@pytest.fixture(scope="module")
def comparison():
    return compare({name: one_hot(answers) for name, answers in ANSWERS.items()}, LABELS, CLASSES)


def test_accuracy_and_interval(comparison):
    row = comparison.accuracy.loc["a"]
    assert (row.correct, row.n, row.top5) == (4, 6, 100)
    assert row.top1 == pytest.approx(200 / 3)
    # Wilson at 4 of 6, z^2 = 3.8415: (4 + 1.9207 -+ 1.96 sqrt(6 * 2/9 + 0.9604)) / (6 + 3.8415), with the root 1.5138
    assert (row.low, row.high) == pytest.approx((30.00, 90.32), abs=0.01)


def test_per_class(comparison):
    table = comparison.per_class.set_index(["model", "class"])
    assert table.correct.loc["a"].tolist() == [2, 2, 0]
    assert table.n.loc["a"].tolist() == [3, 3, 0]
    assert table.accuracy["b", "cat"] == pytest.approx(100 / 3)
    assert np.isnan(table.loc[("b", "hen"), ["accuracy", "low", "high"]].to_list()).all()


def test_confusion_has_truth_in_rows(comparison):
    assert comparison.confusion["b"].to_numpy().tolist() == [[1, 2, 0], [1, 1, 1], [0, 0, 0]]
    assert comparison.confusion["b"].loc["dog", "hen"] == 1


def test_agreement(comparison):
    assert comparison.agreement.loc["a", "a"] == 100
    # a and b give the same answer on images 0, 2 and 5, right or wrong; a and c on all but 1 and 4.
    assert comparison.agreement.loc["a", "b"] == comparison.agreement.loc["b", "a"] == 50
    assert comparison.agreement.loc["c", "a"] == pytest.approx(200 / 3)


def test_mcnemar(comparison):
    pairs = comparison.mcnemar.set_index(["model_a", "model_b"])
    # a is right on 0 1 2 3, b on 0 2, c on 0 2 3 4.
    assert pairs.loc[("a", "b"), ["only_a", "only_b"]].tolist() == [2, 0]
    assert pairs.p["a", "b"] == pytest.approx(0.5)  # two heads or two tails in two throws
    assert pairs.loc[("a", "c"), ["only_a", "only_b"]].tolist() == [1, 1]
    assert pairs.p["a", "c"] == 1
    assert pairs.difference["a", "b"] == pytest.approx(100 / 3)
    assert list(pairs.index) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(1, 9) == pytest.approx(2 * 11 / 1024)


def test_holm_makes_the_smallest_of_three_three_times_as_large():
    # 0.01 * 3, 0.03 * 2, then 0.04 * 1, which may not come before 0.06.
    assert holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.5, 0.9])).tolist() == [1, 1] and holm(np.empty(0)).shape == (0,)


def test_p_values_stand_beside_those_for_three_pairs(comparison):
    # 0.5, 1 and, for b against c, two heads in two throws again: 0.5
    assert comparison.mcnemar.p.tolist() == [0.5, 1, 0.5]
    assert comparison.mcnemar.p_holm.tolist() == [1, 1, 1]


def sure(*answers):
    """Logits of a model that is sure of its answers."""
    return 1e3 * one_hot(list(answers))


def test_divergence_is_the_entropy_of_the_mixture_less_its_parts():
    # Image 0: both sure of one class; 1: each of another; 2: one sure, one torn between it and another.
    logits = {"a": sure(0, 0, 0), "b": sure(0, 1, 0)}
    logits["b"][2] = [5.0, 5.0, -1e3]
    table = gallery(logits).set_index("index")
    assert table.index.tolist() == [1, 2, 0]
    # H(3/4, 1/4) - (0 + 1) / 2 = 0.8113 - 0.5
    assert table.divergence.tolist() == pytest.approx([1, 0.3113, 0], abs=1e-4)
    assert table["distinct"].tolist() == [2, 1, 1]
    assert list(table) == ["divergence", "distinct"]  # nothing is right or wrong without labels
    three = gallery({"a": sure(0), "b": sure(1), "c": sure(2)})
    assert three.divergence.item() == pytest.approx(np.log2(3))


def test_the_gallery_says_which_model_is_right(comparison):
    table = comparison.images.set_index("index")
    assert len(table) == 6
    # Image 1: 0, 1, 2 for a cat; image 4: 0, 2, 1 for a dog; image 3: 1, 0, 1 for a dog. The rest agree.
    assert table.index.tolist() == [1, 4, 3, 0, 2, 5]
    assert table.right.tolist() == ["100", "001", "101", "111", "111", "000"]
    assert table["wrong"].tolist() == [2, 2, 1, 0, 0, 3]
    assert table["distinct"].tolist() == [3, 3, 2, 1, 1, 1]
    assert table["label"].tolist() == comparison.labels[[1, 4, 3, 0, 2, 5]].tolist()
    assert (table.divergence >= 0).all()


def test_a_model_may_be_named_like_a_column():
    logits = {"label": np.array([[1.0, 0.0], [1.0, 0.0]]), "index": np.array([[0.0, 1.0], [1.0, 0.0]])}
    table = compare(logits, [1, 0], ["x", "y"]).images
    assert table["index"].tolist() == [0, 1] and table["label"].tolist() == [1, 0]


def test_models_of_other_classes_are_told_apart_and_orders_found():
    orders, others = alike(
        {
            "first": ["Coat", "Bag", "Shirt", "Boot"],
            "turned": ["boot", "coat", "bag", "SHIRT"],
            "cells": ["functional", "defective"],
        }
    )
    assert {name: order.tolist() for name, order in orders.items()} == {"first": [0, 1, 2, 3], "turned": [1, 2, 3, 0]}
    assert others == {
        "cells": "cells tells other classes apart (functional, defective) than first (Coat, Bag, Shirt and 1 more), "
        "so it is left out here."
    }
    logits = np.array([[10, 20, 30, 40]])  # boot, coat, bag, shirt
    assert logits[:, orders["turned"]].tolist() == [[20, 30, 40, 10]]


# Confidences of 60 % (right, wrong), 80 % (right) and 90 % (right), as logits of two classes.
CONFIDENCE = np.array([0.6, 0.6, 0.8, 0.9])
LOGITS = np.stack([np.log(CONFIDENCE), np.log(1 - CONFIDENCE)], axis=1)
TRUTH = [0, 1, 0, 0]


def test_calibration_by_hand():
    result = calibration(LOGITS, TRUTH, bins=4)
    table = result.table
    assert table.n.tolist() == [0, 0, 2, 2] and result.n == 4
    assert table["from"].tolist() == [0, 25, 50, 75] and table["to"].tolist() == [25, 50, 75, 100]
    assert table.confidence.tolist()[2:] == pytest.approx([60, 85])
    assert table.accuracy.tolist()[2:] == [50, 100]
    assert np.isnan(table.loc[:1, ["confidence", "accuracy", "low", "high"]].to_numpy(float)).all()
    # 2/4 * |50 - 60| + 2/4 * |100 - 85|
    assert result.ece == pytest.approx(12.5)
    # In one bin the errors cancel: |75 - 72.5|
    assert calibration(LOGITS, TRUTH, bins=1).ece == pytest.approx(2.5)
    # A confidence at the end of a bin belongs to it: 0.5 is in the first of two.
    assert calibration(np.zeros((1, 2)), [0], bins=2).table.n.tolist() == [1, 0]


def test_the_interval_comes_from_draws_of_its_own():
    state = np.random.get_state()[1].copy()
    first, again = calibration(LOGITS, TRUTH), calibration(LOGITS, TRUTH)
    assert (first.low, first.high) == (again.low, again.high)
    assert np.array_equal(np.random.get_state()[1], state)
    # Images that are all alike leave nothing to chance: 100 - 60.
    same = calibration(LOGITS[[0, 0, 0]], [0, 0, 0])
    assert (same.low, same.ece, same.high) == pytest.approx((40, 40, 40))


def test_the_interval_holds_the_true_error_of_a_model_that_is_too_sure():
    rng = np.random.default_rng(0)
    logits = np.tile([np.log(0.9), np.log(0.1)], (400, 1))
    inside = 0
    for _ in range(100):  # it is right in 80 % of the cases where it says 90 %
        result = calibration(logits, (rng.random(400) >= 0.8).astype(int), draws=200)
        inside += result.low <= 10 <= result.high
    assert inside >= 88


@pytest.mark.parametrize("labels", [[], [0]])
def test_calibration_wants_a_label_for_each_image(labels):
    with pytest.raises(ValueError, match="one label for each"):
        calibration(np.zeros((2 * len(labels), 2)), labels)


def test_top5_counts_the_five_largest():
    logits = np.array([[6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1]], dtype=float)
    accuracy = compare({"m": logits}, [4, 5], list("abcdef")).accuracy
    assert accuracy.top5.item() == 50 and accuracy.top1.item() == 0


def tiny():
    torch.manual_seed(0)
    return create_model(
        "reactnet_a", image_size=28, in_channels=1, num_classes=3, width=1 / 8, stem_stride=1,
        strides=(1, 2, 1, 2, 1), blocks=(1, 1, 1, 2, 2),
    )  # fmt: skip


def test_predict_set_and_top_k_agree_and_keep_the_mode():
    model, seen = tiny().train(), []
    x = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    before = model.stem.bn.running_mean.clone()
    logits = predict_set(model, [x[:3], (x[3:], torch.zeros(2))], lambda *done: seen.append(done), total=5)
    assert logits.shape == (5, 3) and seen == [(3, 5), (5, 5)]
    assert model.training and torch.equal(model.stem.bn.running_mean, before)
    best = top_k(model, x[4:], CLASSES, k=2)
    assert best["index"].tolist() == np.argsort(-logits[4])[:2].tolist()
    assert best["label"].tolist() == [CLASSES[i] for i in best["index"]]
    odds = np.exp(logits[4])
    np.testing.assert_allclose(best["probability"], np.sort(odds / odds.sum())[:0:-1], rtol=1e-5)
    assert predict_set(model, []).shape == (0, 3)


def test_a_cancelled_prediction_leaves_the_model_as_it_was():
    model = tiny().train()

    def cancel(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        predict_set(model, [torch.zeros(2, 1, 28, 28)] * 3, cancel)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("logits", "labels", "sentence"),
    [
        ({}, [0], "no model"),
        ({"m": np.zeros((0, 3))}, [], "no image"),
        ({"m": np.zeros((2, 3))}, [0, 3], "from 0 to 2"),
        ({"m": np.zeros((2, 2))}, [0, 1], "must be (2, 3)"),
        ({"m": np.full((1, 3), np.nan)}, [0], "not all numbers"),
    ],
)
def test_what_cannot_be_compared(logits, labels, sentence):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        compare(logits, labels, CLASSES)
    assert sentence in str(error.value)


def test_top_k_wants_one_image_and_all_names():
    with pytest.raises(ValueError, match="one image"):
        top_k(tiny(), torch.zeros(2, 1, 28, 28), CLASSES)
    with pytest.raises(ValueError, match="2 class names for 3 logits"):
        top_k(tiny(), torch.zeros(1, 1, 28, 28), CLASSES[:2])


def test_a_roc_curve_by_hand():
    # Log odds of class 1: 2, 1, 1, -1, -3. Found at 2: a hit; at 1: a hit and a false alarm; at -1 a false alarm.
    logits = np.array([[0, 2], [0, 1], [1, 2], [1, 0], [3, 0]])
    curve = roc(logits, [1, 1, 0, 0, 1], 1)
    assert curve.table.threshold.tolist() == [np.inf, 2, 1, -1, -3]
    np.testing.assert_allclose(curve.table.tpr, [0, 100 / 3, 200 / 3, 200 / 3, 100])
    np.testing.assert_allclose(curve.table.fpr, [0, 0, 50, 100, 100])
    # Pairs of a positive and a negative: 2 > 1, 2 > -1, 1 = 1, 1 > -1, -3 < 1, -3 < -1: 3.5 of 6.
    assert curve.auc == pytest.approx(350 / 6) and (curve.positive, curve.negative) == (3, 2)


def test_the_area_is_that_of_the_evaluation_and_many_classes_are_one_against_the_rest():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 2)).round(1), rng.integers(0, 2, 200)
    _, area = detection(logits.argmax(1) == 1, logits[:, 1] - logits[:, 0], labels == 1)
    assert roc(logits, labels, 1).auc == pytest.approx(area)
    three = np.concatenate([logits, np.full((200, 1), -1e9)], axis=1)  # a third class that is never likely
    pd.testing.assert_frame_equal(roc(three, labels, 1).table, roc(logits, labels, 1).table)
    with pytest.raises(ValueError, match="images of the class and images of others"):
        roc(three, labels, 2)
    with pytest.raises(ValueError, match="one label for each row"):
        roc(logits, labels[:-1], 1)
