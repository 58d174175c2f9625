"""Accuracy of a network on a data set, with the interval its number of images allows."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bcdnet.checkpoint import CheckpointError
from bcdnet.data import DataError, Dataset, Preprocess
from bcdnet.engine import Engine
from bcdnet.model import Network

Classifier = Network | Engine


@dataclass(frozen=True)
class Result:
    """Accuracy on ``n`` images. ``top1``, ``top5`` and the 95 % interval of top-1, ``ci95``, are in percent.

    ``predictions``: index of the class with the largest logit, int64 (n,), in the order of the data set.

    Where network and data set have two classes, of which the second is the one to be found, else None: ``f1``, the
    harmonic mean of precision and recall, and ``auc``, the area under the ROC curve (None where a class has no image),
    both in percent; ``scores``, float64 (n,), logit of the second class less that of the first.
    """

    top1: float
    top5: float
    n: int
    ci95: tuple[float, float]
    predictions: np.ndarray
    f1: float | None = None
    auc: float | None = None
    scores: np.ndarray | None = None

    def metrics(self) -> dict[str, Any]:
        """What a card and ``--json`` hold: "top1", "top5", "n", "ci95"; for two classes also "f1" and "auc"."""
        found: dict[str, Any] = {"top1": self.top1, "top5": self.top5, "n": self.n, "ci95": list(self.ci95)}
        return found if self.f1 is None else found | {"f1": self.f1, "auc": self.auc}


class Tally:
    """What a network says of the images of a data set, written down batch by batch in any order.

    An image that was not seen has zeros, so the sum of what several processes saw, each its own share of the images, is
    what one would have seen.

    Args:
        labels: of the data set, int64 (n,).
        ours: for each class of the data set its index among the network's, int64.
        num_classes: that the network tells apart.

    Attributes:
        seen: float64 (4, n): predicted class, whether it is right, whether the right one is among the best five, and,
            where network and data set have two classes, the logit of the second less that of the first.
    """

    def __init__(self, labels: np.ndarray, ours: torch.Tensor, num_classes: int) -> None:
        self.labels, self.ours = labels, ours
        self.seen = torch.zeros(4, len(labels), dtype=torch.float64)
        self._two = num_classes == len(ours) == 2

    def add(self, indices: torch.Tensor, logits: torch.Tensor) -> None:
        """A batch: which images, int64 (B,), and what the network says of them, (B, K), on the CPU."""
        truth = self.ours[torch.from_numpy(self.labels)[indices]]
        top = logits.topk(min(5, logits.shape[1]), 1).indices
        hits = top == truth[:, None]
        margin = logits[:, self.ours[1]] - logits[:, self.ours[0]] if self._two else torch.zeros(len(logits))
        rows = (top[:, 0], hits[:, 0], hits.any(1), margin)
        self.seen[:, indices] = torch.stack([row.double() for row in rows])

    def result(self) -> Result:
        """All of it, once every image was seen."""
        n, found = len(self.labels), self.seen[0].long()
        hits1, hits5 = (int(row.sum()) for row in self.seen[1:3])
        f1 = auc = scores = None
        if self._two:
            scores = self.seen[3].numpy()
            f1, auc = detection((found == self.ours[1]).numpy(), scores, self.labels == 1)
        interval = wilson_interval(hits1, n)
        return Result(100 * hits1 / n, 100 * hits5 / n, n, interval, found.numpy(), f1, auc, scores)


def evaluate(
    model: Classifier,
    dataset: Dataset,
    batch_size: int = 256,
    progress: Callable[[int, int], object] | None = None,
    preprocess: Preprocess | None = None,
) -> Result:
    """Classify every image once, in eval mode; the network's modes are restored.

    Args:
        model: a network on any device, in any floating dtype, or a packed engine.
        dataset: its classes are matched to the card's by name, so their order does not matter.
        batch_size: images at once.
        progress: called with (images done, images in all) after every batch.
        preprocess: the card's if None.

    Raises:
        DataError: the data set is empty, cannot be read, or has classes that the network does not know.
        CheckpointError: the card holds no usable preprocessing.
        InputError: preprocessing makes images that the network does not take.
    """
    preprocess = model_preprocess(model) if preprocess is None else preprocess
    ours = torch.tensor(_match_classes(model, dataset))
    n = len(dataset)
    if not n:
        raise DataError(f"the data set {dataset.name} holds no images.")
    mode: AbstractContextManager[None]
    if isinstance(model, Engine):
        parameter, mode = torch.zeros(()), nullcontext()
    else:
        parameter, mode = next(model.parameters()), evaluating(model)
    tally, done = Tally(dataset.labels, ours, model.config.num_classes), 0
    with mode, torch.no_grad():
        for x, y in dataset.batches(preprocess, batch_size):
            logits = model(x.to(parameter)).cpu()  # (N, C, H, W) -> (N, num_classes)
            tally.add(torch.arange(done, done + len(y)), logits)
            done += len(y)
            if progress:
                progress(done, n)
    return tally.result()


def detection(said: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> tuple[float, float | None]:
    """F1 and the area under the ROC curve, in percent, of a class to be found; see :class:`Result`.

    ``F1 = 2 TP / (2 TP + FP + FN)``, 0 where nothing is found; the area is the share of pairs of an image with and one
    without the class in which the first scores higher, ties for a half (Hanley and McNeil, Radiology 1982).

    Args:
        said: bool (n,), what the network says.
        scores: (n,), larger where it is surer.
        truth: bool (n,).
    """
    wrong = int((said != truth).sum())
    hits = int((said & truth).sum())
    f1 = 200 * hits / (2 * hits + wrong) if hits else 0.0
    with_it, without = scores[truth], scores[~truth]
    if not (len(with_it) and len(without)):
        return f1, None
    from scipy.stats import mannwhitneyu  # here, because every command would wait half a second for it

    return f1, 100 * float(mannwhitneyu(with_it, without).statistic) / (len(with_it) * len(without))


def wilson_interval(hits: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a proportion, in percent.

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``, Wilson 1927; unlike ``p +- z sqrt(p(1-p)/n)`` it
    stays within 0 and 100 and does not shrink to a point there.

    Args:
        hits: successes, 0 to ``n``.
        n: trials, at least 1.
        z: normal quantile; the default gives 95 %.
    """
    p = hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    # At the ends the formula gives 0 and 1 up to rounding; an interval must hold its own proportion.
    return 100 * low if hits else 0.0, 100 * high if hits < n else 100.0


def model_preprocess(model: Classifier) -> Preprocess:
    """The preprocessing that the network's card describes; CheckpointError if there is none or it is impossible."""
    try:
        return Preprocess.from_dict(model.card["preprocess"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's card does not say how images are prepared ({error}).") from error


def class_names(model: Classifier) -> list[str]:
    """The card's class names, or "class 0", "class 1" … where it has not one for each logit."""
    return _card_names(model) or [f"class {index}" for index in range(model.config.num_classes)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _card_names(model: Classifier) -> list[str] | None:
    names = model.card.get("classes")
    return names if isinstance(names, list) and len(names) == model.config.num_classes else None


def _match_classes(model: Classifier, dataset: Dataset) -> list[int]:
    """For each class of the data set its index among the network's."""
    names = _card_names(model)
    if names is None:
        if len(dataset.classes) != model.config.num_classes:
            raise DataError(
                f"{dataset.name} has {len(dataset.classes)} classes, the network {model.config.num_classes}, "
                "and its card names none to match them by."
            )
        return list(range(len(dataset.classes)))
    return dataset.class_indices(names)
