"""Several models on the same images: what each predicts, how sure the difference is, and where they part."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest
from torch import Tensor

from bcdnet.evaluate import evaluating, wilson_interval
from bcdnet.model import Network

#: Called with (images done, images in all or 0 if unknown); whatever it raises stops the work.
Progress = Callable[[int, int], object]


def top_k(model: Network, x: Tensor, classes: Sequence[str], k: int = 5) -> pd.DataFrame:
    """The ``k`` likeliest classes of one image.

    Args:
        model: the network; run in eval mode, left in its own.
        x: normalised image (1, C, H, W).
        classes: name of every class.
        k: how many; at most all of them.

    Returns:
        Likeliest first, columns ``index``, ``label``, ``logit``, ``probability`` (softmax over all classes, 0 to 1).

    Raises:
        ValueError: more than one image, or not one name for each logit.
    """
    if len(x) != 1:
        raise ValueError(f"top_k() takes one image of shape (1, C, H, W), not {tuple(x.shape)}.")
    logits = predict_set(model, [x])[0]
    if len(classes) != len(logits):
        raise ValueError(f"there are {len(classes)} class names for {len(logits)} logits; give one for each.")
    probability = softmax(logits)
    # Stable, so that equal logits keep the order of the classes.
    best = np.argsort(-logits, kind="stable")[:k]
    return pd.DataFrame(
        {
            "index": best,
            "label": [classes[i] for i in best],
            "logit": logits[best],
            "probability": probability[best],
        }
    )


def predict_set(
    model: Network, batches: Iterable[Tensor | tuple[Tensor, ...]], progress: Progress | None = None, total: int = 0
) -> NDArray[np.float64]:
    """Logits of every image of a set.

    Args:
        model: the network; run in eval mode, left in its own.
        batches: normalised images (N, C, H, W), alone or first in a tuple.
        progress: called after every batch.
        total: images in all, for ``progress``.

    Returns:
        float64 (images, classes), in the order of the batches; probabilities are its ``softmax(axis=1)``.
    """
    logits = [np.empty((0, model.config.num_classes))]
    done = 0
    with evaluating(model), torch.no_grad():
        for batch in batches:
            images = batch if isinstance(batch, Tensor) else batch[0]
            logits.append(model(images.to(model.fc.weight)).double().cpu().numpy())
            done += len(images)
            if progress is not None:
                progress(done, total)
    return np.concatenate(logits)


@dataclass(frozen=True)
class Comparison:
    """Several models on one labelled set; percentages are 0 to 100.

    Attributes:
        classes: class names.
        labels: int (n,).
        predictions: int (n,) by model, in the order given.
        accuracy: index ``model``; ``correct``, ``n``, ``top1``, ``low``, ``high`` (Wilson 95 % interval), ``top5``.
        per_class: one row per model and class: ``model``, ``class``, ``n``, ``correct``, ``accuracy`` with its interval
            ``low``, ``high``; NaN where the set holds no image of the class.
        confusion: by model, counts with true classes as rows and predicted ones as columns.
        agreement: percentage of images on which two models predict the same class, right or wrong.
        mcnemar: one row per pair: ``model_a``, ``model_b``, ``only_a``, ``only_b`` (images only one gets right),
            ``difference`` (top-1 of a less b) and ``p``, see :func:`mcnemar_exact`.
        disagreements: images on which not all models agree, see :func:`compare`.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predictions: dict[str, NDArray[np.int64]]
    accuracy: pd.DataFrame
    per_class: pd.DataFrame
    confusion: dict[str, pd.DataFrame]
    agreement: pd.DataFrame
    mcnemar: pd.DataFrame
    disagreements: pd.DataFrame


def compare(logits: Mapping[str, NDArray[np.floating]], labels: Sequence[int], classes: Sequence[str]) -> Comparison:
    """Compare models by their logits (or probabilities) on the same images.

    Args:
        logits: (n, classes) by model, e.g. from :func:`predict_set`.
        labels: true class of every image, (n,).
        classes: name of every class.

    Returns:
        A :class:`Comparison`. Its ``disagreements`` have columns ``index`` (position in the set), ``label``,
        ``distinct`` (different predictions) and ``wrong`` (models in error), most divided first, then most often
        wrong, then in order.

    Raises:
        ValueError: no model, no image, shapes that do not fit each other, or logits that are not numbers.
    """
    truth = np.asarray(labels, dtype=np.int64)
    _check(logits, truth, classes)
    n, names = len(truth), list(logits)
    # The first of equal logits, like torch.argmax.
    predictions = {name: np.argmax(values, axis=1).astype(np.int64) for name, values in logits.items()}
    correct = {name: prediction == truth for name, prediction in predictions.items()}

    accuracy = []
    for name in names:
        hits = int(correct[name].sum())
        low, high = wilson_interval(hits, n)
        top5 = 100 * _in_top(logits[name], truth, 5).mean()
        accuracy.append(
            {"model": name, "correct": hits, "n": n, "top1": 100 * hits / n, "low": low, "high": high, "top5": top5}
        )

    stacked = np.stack([predictions[name] for name in names], axis=1)  # (n, models)
    divided = pd.DataFrame({"index": np.arange(n), "label": truth})
    divided["distinct"] = [len(set(row)) for row in stacked.tolist()]
    divided["wrong"] = (stacked != truth[:, None]).sum(1)
    divided = divided[divided["distinct"] > 1].sort_values(
        ["distinct", "wrong", "index"], ascending=[False, False, True], ignore_index=True
    )

    agreement = [[100 * (predictions[a] == predictions[b]).mean() for b in names] for a in names]
    return Comparison(
        classes=tuple(classes),
        labels=truth,
        predictions=predictions,
        accuracy=pd.DataFrame(accuracy).set_index("model"),
        per_class=_per_class(correct, truth, classes),
        confusion={name: _confusion(truth, predictions[name], classes) for name in names},
        agreement=pd.DataFrame(agreement, names, names),
        mcnemar=pd.DataFrame(
            [_pair(a, b, correct[a], correct[b]) for a, b in combinations(names, 2)],
            columns=["model_a", "model_b", "only_a", "only_b", "difference", "p"],
        ),
        disagreements=divided,
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test of two models on the same images.

    If both were equally good, each image that only one gets right would be a fair coin: ``p = P(|X - m/2| >= |only_a -
    m/2|)``, ``X ~ Binomial(m = only_a + only_b, 1/2)``; 1 if they never differ. McNemar, Psychometrika 1947.
    """
    differing = only_a + only_b
    return float(binomtest(only_a, differing, 0.5).pvalue) if differing else 1.0


def _check(logits: Mapping[str, NDArray[np.floating]], truth: NDArray[np.int64], classes: Sequence[str]) -> None:
    if not logits:
        raise ValueError("there is no model to compare; give the logits of at least one.")
    if truth.ndim != 1 or not len(truth):
        raise ValueError("there is no image to compare on; give the label of at least one.")
    if truth.min() < 0 or truth.max() >= len(classes):
        raise ValueError(
            f"labels must be class numbers from 0 to {len(classes) - 1}; {truth.min()} to {truth.max()} came."
        )
    for name, values in logits.items():
        if np.shape(values) != (len(truth), len(classes)):
            raise ValueError(f"the logits of {name} must be {(len(truth), len(classes))}, not {np.shape(values)}.")
        if np.isnan(values).any():
            raise ValueError(f"the logits of {name} are not all numbers; check its checkpoint.")


def _in_top(logits: NDArray[np.floating], truth: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    return (np.argsort(-logits, axis=1, kind="stable")[:, :k] == truth[:, None]).any(1)


def _per_class(
    correct: Mapping[str, NDArray[np.bool_]], truth: NDArray[np.int64], classes: Sequence[str]
) -> pd.DataFrame:
    rows = []
    for name, hits in correct.items():
        for index, label in enumerate(classes):
            members = truth == index
            n, right = int(members.sum()), int(hits[members].sum())
            share = 100 * right / n if n else float("nan")
            low, high = wilson_interval(right, n) if n else (float("nan"), float("nan"))
            rows.append((name, label, n, right, share, low, high))
    return pd.DataFrame(rows, columns=["model", "class", "n", "correct", "accuracy", "low", "high"])


def _confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]) -> pd.DataFrame:
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    return pd.DataFrame(counts, pd.Index(classes, name="true"), pd.Index(classes, name="predicted"))


def _pair(
    a: str, b: str, correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]
) -> tuple[str, str, int, int, float, float]:
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return a, b, only_a, only_b, 100 * (only_a - only_b) / len(correct_a), mcnemar_exact(only_a, only_b)
