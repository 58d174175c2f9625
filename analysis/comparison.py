"""Several models on the same images: what each predicts, how sure it may be, what is luck, and where they part."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest, entropy
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
            ``difference`` (top-1 of a less b), ``p``, see :func:`mcnemar_exact`, and ``p_holm``, see :func:`holm`.
        images: one row per image, see :func:`gallery`.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predictions: dict[str, NDArray[np.int64]]
    accuracy: pd.DataFrame
    per_class: pd.DataFrame
    confusion: dict[str, pd.DataFrame]
    agreement: pd.DataFrame
    mcnemar: pd.DataFrame
    images: pd.DataFrame


def compare(
    logits: Mapping[str, NDArray[np.floating]], labels: Sequence[int] | NDArray[np.int64], classes: Sequence[str]
) -> Comparison:
    """Compare models by their logits (or probabilities) on the same images.

    Args:
        logits: (n, classes) by model, e.g. from :func:`predict_set`.
        labels: true class of every image, (n,).
        classes: name of every class.

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

    pairs = pd.DataFrame(
        [_pair(a, b, correct[a], correct[b]) for a, b in combinations(names, 2)],
        columns=["model_a", "model_b", "only_a", "only_b", "difference", "p"],
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
        mcnemar=pairs.assign(p_holm=holm(pairs.p.to_numpy(np.float64))),
        images=gallery(logits, truth),
    )


def gallery(
    logits: Mapping[str, NDArray[np.floating]], labels: Sequence[int] | NDArray[np.int64] | None = None
) -> pd.DataFrame:
    """The images of a set, those first on which the models are most divided.

    Divided is measured by the Jensen-Shannon divergence of their softmaxes, ``H(mean p) - mean H(p)`` in bits: 0 where
    all say the same and are equally sure, log2 of the number of models where each is sure of another class. Lin, IEEE
    Transactions on Information Theory 1991.

    Args:
        logits: (n, classes) by model, classes in the same order.
        labels: true class of every image, (n,); None if they are not known.

    Returns:
        Columns ``index`` (position in the set), ``divergence``, ``distinct`` (different predictions) and, with labels,
        ``label``, ``wrong`` (models in error), ``right`` (a digit for each model, "101": the second one is wrong).
        Ties in order of the set.
    """
    values = np.stack(list(logits.values()))  # (models, n, classes)
    odds = softmax(values, axis=2)
    divergence = entropy(odds.mean(0), axis=1, base=2) - entropy(odds, axis=2, base=2).mean(0)
    predicted = values.argmax(2)  # (models, n)
    table = pd.DataFrame({"index": np.arange(values.shape[1])})
    # Rounding may leave less than nothing where all agree.
    table["divergence"] = divergence.clip(min=0)
    table["distinct"] = [len(set(column)) for column in predicted.T.tolist()]
    if labels is not None:
        right = predicted == np.asarray(labels)
        table["label"] = np.asarray(labels, dtype=np.int64)
        table["wrong"] = (~right).sum(0)
        table["right"] = ["".join("01"[int(hit)] for hit in column) for column in right.T]
    return table.sort_values(["divergence", "index"], ascending=[False, True], ignore_index=True)


def alike(classes: Mapping[str, Sequence[str]]) -> tuple[dict[str, NDArray[np.int64]], dict[str, str]]:
    """Which models tell the same classes apart as the first one, by their names whatever the case.

    Args:
        classes: class names by model, in the order of its logits.

    Returns:
        For each such model the order in which its logits are those of the first; for each other one a sentence.
    """
    first, *_ = classes
    wanted = [name.casefold() for name in classes[first]]
    orders, others = {}, {}
    for model, names in classes.items():
        plain = [name.casefold() for name in names]
        if sorted(plain) == sorted(wanted):
            orders[model] = np.array([plain.index(name) for name in wanted], dtype=np.int64)
        else:
            others[model] = (
                f"{model} tells other classes apart ({_some(names)}) than {first} ({_some(classes[first])}), so it is "
                "left out here."
            )
    return orders, others


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class Calibration:
    """How often a model is right where it says how sure it is; percentages are 0 to 100.

    Attributes:
        table: one row per bin of confidence: its ends ``from`` and ``to``, ``n`` images, mean ``confidence``,
            ``accuracy`` with its Wilson 95 % interval ``low``, ``high``; NaN where there is no image.
        ece: expected calibration error, the mean over images of the distance of the two in their bin.
        low, high: its 95 % interval by bootstrap.
        n: images.
    """

    table: pd.DataFrame
    ece: float
    low: float
    high: float
    n: int


def calibration(
    logits: NDArray[np.floating],
    labels: Sequence[int] | NDArray[np.int64],
    bins: int = 15,
    draws: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Reliability of a model's confidence, the largest probability of its softmax.

    ``ECE = sum over bins of n_b / n * |accuracy_b - confidence_b|`` with bins ``((b-1)/B, b/B]``; Naeini et al., AAAI
    2015; Guo et al., ICML 2017. The interval is the basic bootstrap's, ``2 ECE - quantile`` (Davison and Hinkley, 1997,
    ch. 5), cut off at 0: few images make an ECE too large, by about as much as resampling makes it larger still, which
    this takes off again. Therefore it may end below the ECE itself.

    Args:
        logits: (n, classes).
        labels: true class of every image, (n,).
        bins: of equal width.
        draws: resamples of the images.
        seed: of the draws.

    Raises:
        ValueError: no image, or shapes that do not fit each other.
    """
    truth = np.asarray(labels, dtype=np.int64)
    if not len(truth) or np.shape(logits)[:1] != truth.shape:
        raise ValueError(f"there must be one label for each of at least one row of logits; {np.shape(logits)} came.")
    n = len(truth)
    confidence = softmax(logits, axis=1).max(1)
    hits = np.argmax(logits, axis=1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = hits - confidence

    def error(gaps: NDArray[np.float64], places: NDArray[np.int64]) -> float:
        # n_b / n * |mean gap| is |sum of gaps| / n.
        return 100 * float(np.abs(np.bincount(places, gaps, bins)).sum()) / n

    rng = np.random.default_rng(seed)
    ece = error(gap, place)
    resampled = [error(gap[chosen], place[chosen]) for chosen in (rng.integers(0, n, n) for _ in range(draws))]
    largest, smallest = np.quantile(resampled, (0.975, 0.025))
    rows = []
    for b in range(bins):
        members = place == b
        count, right = int(members.sum()), int(hits[members].sum())
        interval = wilson_interval(right, count) if count else (float("nan"),) * 2
        means = (100 * confidence[members].mean(), 100 * right / count) if count else (float("nan"),) * 2
        rows.append((100 * b / bins, 100 * (b + 1) / bins, count, *means, *interval))
    table = pd.DataFrame(rows, columns=["from", "to", "n", "confidence", "accuracy", "low", "high"])
    return Calibration(table, ece, max(0.0, 2 * ece - largest), max(0.0, 2 * ece - smallest), n)


@dataclass(frozen=True)
class ROC:
    """How many images of a class are found at the price of how many false alarms.

    Attributes:
        table: one row per threshold, from none found to all: ``threshold`` (log odds at and above which an image counts
            as found, inf first), ``fpr`` and ``tpr`` in percent.
        auc: area under the curve in percent, ties for a half.
        positive, negative: number of images of the class, and of all others.
    """

    table: pd.DataFrame
    auc: float
    positive: int
    negative: int


def roc(logits: NDArray[np.floating], labels: Sequence[int] | NDArray[np.int64], positive: int) -> ROC:
    """The receiver operating characteristic of one class against all others (Fawcett, Pattern Recogn. Lett. 2006).

    The score is the log odds of the class, ``z_k - log sum over j != k of exp z_j``; of two classes that is the
    difference of the logits.

    Args:
        logits: (n, classes).
        labels: true class of every image, (n,).
        positive: index of the class to be found.

    Raises:
        ValueError: shapes that do not fit each other, or no image with or without the class.
    """
    truth = np.asarray(labels, dtype=np.int64) == positive
    if np.shape(logits)[:1] != truth.shape:
        raise ValueError(f"there must be one label for each row of logits; {np.shape(logits)} came.")
    found, others = int(truth.sum()), int((~truth).sum())
    if not found or not others:
        raise ValueError("a ROC curve needs images of the class and images of others; choose another class or more.")
    values = np.asarray(logits, np.float64)
    scores = values[:, positive] - logsumexp(np.delete(values, positive, axis=1), axis=1)
    thresholds, place = np.unique(-scores, return_inverse=True)
    tpr = np.cumsum(np.bincount(place, truth)) / found
    fpr = np.cumsum(np.bincount(place, ~truth)) / others
    table = pd.DataFrame({"threshold": -thresholds, "fpr": 100 * fpr, "tpr": 100 * tpr})
    table = pd.concat([pd.DataFrame({"threshold": [np.inf], "fpr": [0.0], "tpr": [0.0]}), table], ignore_index=True)
    return ROC(table, float(np.trapezoid(table.tpr, table.fpr)) / 100, found, others)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test of two models on the same images.

    If both were equally good, each image that only one gets right would be a fair coin: ``p = P(|X - m/2| >= |only_a -
    m/2|)``, ``X ~ Binomial(m = only_a + only_b, 1/2)``; 1 if they never differ. McNemar, Psychometrika 1947.
    """
    differing = only_a + only_b
    return float(binomtest(only_a, differing, 0.5).pvalue) if differing else 1.0


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-values of several tests made larger, so that any one below 0.05 by luck is as rare as in a single test.

    The k-th smallest of m times ``m - k + 1``, never less than the one before, at most 1. Holm, Scandinavian Journal of
    Statistics 1979.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


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
