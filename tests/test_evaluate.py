"""Accuracy counted by hand, and the interval against published values."""

import numpy as np
import pytest
import torch

import bcdnet
from bcdnet.checkpoint import CheckpointError
from bcdnet.data import DataError, Dataset, Preprocess
from bcdnet.data.dataset import ArrayImages
from bcdnet.evaluate import Tally, class_names, evaluate, wilson_interval

PLAIN = Preprocess((4, 4), 1, mean=(0.0,), std=(1.0,))


def brightness_classifier(classes: list[str]) -> bcdnet.Network:
    """A network whose logit c is -|brightness - c / 10|-like: class c wins for images of brightness about c / 10."""
    model = bcdnet.create_model(
        "reactnet_a", image_size=4, in_channels=1, num_classes=len(classes),
        stem_stride=1, stem_channels=4, channels=(4,), blocks=(1,), strides=(1,), precision="32/32",
    )  # fmt: skip
    # features() is replaced by the brightness itself, so that the answers are known.
    model.features = lambda x: x.mean((1, 2, 3))[:, None].expand(-1, 4)  # type: ignore[method-assign]
    steps = torch.arange(len(classes), dtype=torch.float32)
    model.fc.weight.data = (2 * steps / 10)[:, None].expand(-1, 4) / 4
    model.fc.bias.data = -((steps / 10) ** 2)  # -(b - c/10)^2 + b^2, linear in b
    model.card = {"classes": classes, "preprocess": PLAIN.to_dict()}
    return model


def dataset(brightness: list[float], labels: list[int], classes: list[str]) -> Dataset:
    pixels = np.stack([np.full((4, 4), round(255 * b), np.uint8) for b in brightness])
    return Dataset("greys", tuple(classes), ArrayImages(pixels), np.array(labels))


def test_accuracy_by_hand() -> None:
    names = list("abcdefgh")
    model = brightness_classifier(names)
    model.units.train()
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    done: list[tuple[int, int]] = []
    # Classes seen: 0, 3, 7, 1, 2. Right: the first two; the third is among the best five of 7, 6, 5, 4, 3; the others'
    # labels are not among those of 1 (1, 0 or 2, …, at most 4) and 2 (2, 1, 3, 0, 4).
    data = dataset([0.0, 0.3, 0.7, 0.1, 0.2], [0, 3, 4, 7, 6], names)
    result = evaluate(model, data, batch_size=2, progress=lambda *args: done.append(args))
    assert result.predictions.tolist() == [0, 3, 7, 1, 2]
    assert (result.top1, result.top5, result.n) == (40.0, 60.0, 5)
    assert result.ci95 == wilson_interval(2, 5)
    assert done == [(2, 5), (4, 5), (5, 5)]
    assert [module.training for module in model.modules()] == modes


def test_classes_are_matched_by_name() -> None:
    model = brightness_classifier(["T-shirt/top", "Bag", "Coat"])
    # In a folder they come sorted, and with names that file systems can hold.
    data = dataset([0.0, 0.1, 0.2], [2, 0, 1], ["Bag", "Coat", "t-shirt_top"])
    assert evaluate(model, data).top1 == 100
    assert evaluate(model, data).top5 == 100
    with pytest.raises(DataError, match="no class 'Hat' as greys does"):
        evaluate(model, dataset([0.0], [0], ["Hat"]))


def test_without_names_the_numbers_of_classes_must_agree() -> None:
    model = brightness_classifier(["a", "b", "c"])
    model.card = {"preprocess": PLAIN.to_dict()}
    assert class_names(model) == ["class 0", "class 1", "class 2"]
    assert evaluate(model, dataset([0.2], [2], ["x", "y", "z"])).top1 == 100
    with pytest.raises(DataError, match="2 classes, the network 3"):
        evaluate(model, dataset([0.2], [1], ["x", "y"]))
    model.card = {}
    with pytest.raises(CheckpointError, match="does not say how images are prepared"):
        evaluate(model, dataset([0.2], [2], ["x", "y", "z"]))
    assert evaluate(model.double(), dataset([0.2], [2], ["x", "y", "z"]), preprocess=PLAIN).top1 == 100


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(8, 10, 49.0162, 94.3318), (0, 10, 0.0, 27.7533), (10, 10, 72.2467, 100.0), (8800, 10000, 87.3485, 88.6224)],
)
def test_wilson_interval(hits: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=1e-4)
    assert wilson_interval(hits, n)[0] <= 100 * hits / n <= wilson_interval(hits, n)[1]


def test_two_classes_have_f1_and_the_area_under_the_roc_curve() -> None:
    model = brightness_classifier(["good", "bad"])  # "bad" wins above a brightness of 0.05
    grey = [0.0, 0.02, 0.2, 0.4, 0.6, 0.02]
    result = evaluate(model, dataset(grey, [0, 1, 0, 1, 1, 0], ["good", "bad"]))
    # Found: 2 of 3 that are bad, and one that is not: F1 = 4 / (4 + 1 + 1).
    assert result.f1 == pytest.approx(100 * 4 / 6)
    # Of nine pairs, 0.4 and 0.6 win all six of theirs; 0.02 wins one, loses one and ties one.
    assert result.auc == pytest.approx(100 * 7.5 / 9)
    swapped = evaluate(model, dataset(grey, [1, 0, 1, 0, 0, 1], ["bad", "good"]))
    assert (swapped.top1, swapped.auc) == (pytest.approx(result.top1), pytest.approx(result.auc))
    assert swapped.f1 == pytest.approx(100 * 4 / 6)  # of "good": 2 of 3 found, one more said
    one = evaluate(model, dataset([0.4], [1], ["good", "bad"]))
    assert one.f1 == 100 and one.auc is None
    assert evaluate(brightness_classifier(list("abc")), dataset([0.1], [1], list("abc"))).f1 is None


def test_a_tally_of_shares_adds_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 2, generator=generator), np.array([0, 1, 1, 0, 1, 0, 0])
    ours = torch.tensor([1, 0])  # the network's order is the other one
    whole, *shares = (Tally(labels, ours, 2) for _ in range(3))
    whole.add(torch.arange(7), logits)
    for process, share in enumerate(shares):
        share.add(torch.arange(process, 7, 2), logits[process::2])
    first, second = shares
    first.seen += second.seen
    one, other = whole.result(), first.result()
    assert one.metrics() == other.metrics() and one.metrics().keys() == {"top1", "top5", "n", "ci95", "f1", "auc"}
    assert one.predictions.tolist() == other.predictions.tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(one.scores, (logits[:, 0] - logits[:, 1]).numpy(), rtol=1e-6)
    assert one.top1 == pytest.approx(100 * np.mean(1 - logits.argmax(1).numpy() == labels))
    three = Tally(labels, torch.arange(2), 3)
    three.add(torch.arange(7), torch.randn(7, 3, generator=generator))
    assert three.result().metrics().keys() == {"top1", "top5", "n", "ci95"} and three.result().scores is None
