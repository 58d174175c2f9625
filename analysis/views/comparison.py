"""The page *Compare variants*: several models on one set of images.

``models`` are networks by name, or, where the set has been through them already, their logits (N, classes), e.g. of
:func:`analysis.comparison.predict_set`; ``images`` may then be None. ``classes`` are names in the order of every
model's logits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from analysis.comparison import ROC, Calibration, Comparison, calibration, compare, gallery, predict_set, roc
from analysis.figures.comparison import (
    accuracy_whiskers,
    confusion_heatmap,
    image_gallery,
    per_class_dots,
    reliability_diagram,
    roc_curves,
)
from analysis.views._view import View
from bcdnet import Network

Models = Mapping[str, Network | NDArray[np.floating]]

_BATCH = 100


def accuracies(
    models: Models,
    images: Tensor | None,
    labels: Sequence[int],
    classes: Sequence[str],
    ids: Mapping[str, str] | None = None,
) -> View[Comparison]:
    """How accurate is each model, in percent, and are the differences more than luck?

    ``data.mcnemar`` has the exact test of every pair, ``data.images`` the images themselves.

    Args:
        models: networks or logits, by name.
        images: normalised (N, C, H, W).
        labels: true classes (N,).
        classes: name of every class.
        ids: name -> id of a shipped model, which has a colour of its own.

    Raises:
        ValueError: no model, no image, or shapes that do not fit each other.

    Example:
        >>> accuracies({"BCDNet-B": model}, images, labels, classes)
    """
    found = compare(_logits(models, images), labels, classes)
    return View(found, accuracy_whiskers(found.accuracy, ids))


def accuracy_by_class(
    models: Models,
    images: Tensor | None,
    labels: Sequence[int],
    classes: Sequence[str],
    ids: Mapping[str, str] | None = None,
) -> View[Comparison]:
    """Which classes are hard, and for which model?

    Args:
        models, images, labels, classes, ids: as for :func:`accuracies`, whose data this is too.

    Example:
        >>> accuracy_by_class(logits, None, labels, classes)
    """
    found = compare(_logits(models, images), labels, classes)
    return View(found, per_class_dots(found.per_class, ids))


def confusion(
    models: Models, images: Tensor | None, labels: Sequence[int], classes: Sequence[str], name: str
) -> View[Comparison]:
    """What does one of the models take for what?

    Args:
        models, images, labels, classes: as for :func:`accuracies`, whose data this is too.
        name: of the model whose mistakes are drawn.

    Example:
        >>> confusion(logits, None, labels, classes, "a")
    """
    found = compare(_logits(models, images), labels, classes)
    return View(found, confusion_heatmap(found.confusion[name]))


def reliability(
    models: Models,
    images: Tensor | None,
    labels: Sequence[int],
    bins: int = 15,
    ids: Mapping[str, str] | None = None,
) -> View[dict[str, Calibration]]:
    """How often is each model right where it says how sure it is, and how far is it off on average, in percent?

    Args:
        models, images, labels, ids: as for :func:`accuracies`.
        bins: of equal width.

    Example:
        >>> reliability(logits, None, labels, bins=10)
    """
    found = {name: calibration(values, labels, bins) for name, values in _logits(models, images).items()}
    return View(found, reliability_diagram(found, ids))


def one_class_found(
    models: Models,
    images: Tensor | None,
    labels: Sequence[int],
    positive: int,
    ids: Mapping[str, str] | None = None,
) -> View[dict[str, ROC]]:
    """How many images of one class does each model find, at the price of how many false alarms?

    Args:
        models, images, labels, ids: as for :func:`accuracies`.
        positive: index of the class to be found.

    Example:
        >>> one_class_found(logits, None, labels, positive=1)
    """
    found = {name: roc(values, labels, positive) for name, values in _logits(models, images).items()}
    return View(found, roc_curves(found, ids))


def disagreements(
    models: Models,
    images: Tensor | None,
    pictures: Sequence[Any],
    classes: Sequence[str],
    labels: Sequence[int] | None = None,
    most: int = 12,
) -> View[pd.DataFrame]:
    """On which images are the models most divided?

    Args:
        models, images, classes: as for :func:`accuracies`.
        pictures: N pictures to look at, uint8 (H, W) or (H, W, 3).
        labels: true classes (N,), if they are known.
        most: how many to draw.

    Returns:
        All images, those first on which the models are most divided, see :func:`analysis.comparison.gallery`.

    Example:
        >>> disagreements(logits, None, pictures, classes, labels)
    """
    logits = _logits(models, images)
    table = gallery(logits, labels)
    answers = {name: values.argmax(1) for name, values in logits.items()}
    return View(table, image_gallery(table.head(most), pictures, answers, classes))


def _logits(models: Models, images: Tensor | None) -> dict[str, NDArray[np.floating]]:
    logits: dict[str, NDArray[np.floating]] = {}
    for name, model in models.items():
        if isinstance(model, Network):
            if images is None:
                raise ValueError(f"{name} is a network, which needs images; give them, or its logits.")
            logits[name] = predict_set(model, images.split(_BATCH))
        else:
            logits[name] = model
    return logits
