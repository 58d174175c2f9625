"""Comparison: every number below is worked out by hand from six images and three classes."""

import numpy as np
import pytest
import torch

from analysis.comparison import compare, mcnemar_exact, predict_set, top_k
from bcdnet import create_model

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


def test_disagreements_come_most_divided_first(comparison):
    table = comparison.disagreements
    # Image 1: 0, 1, 2 with two wrong; image 4: 0, 2, 1 with two wrong; image 3: 1, 0, 1 with one wrong.
    assert table["index"].tolist() == [1, 4, 3]
    assert table["distinct"].tolist() == [3, 3, 2]
    assert table["wrong"].tolist() == [2, 2, 1]
    assert table["label"].tolist() == comparison.labels[[1, 4, 3]].tolist()


def test_a_model_may_be_named_like_a_column():
    logits = {"label": np.array([[1.0, 0.0], [1.0, 0.0]]), "index": np.array([[0.0, 1.0], [1.0, 0.0]])}
    table = compare(logits, [1, 0], ["x", "y"]).disagreements
    assert table.to_dict("records") == [{"index": 0, "label": 1, "distinct": 2, "wrong": 1}]


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
