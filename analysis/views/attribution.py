"""The page *Attribution*: what a network predicts, which pixels speak for it, and whether the map can be believed.

Options of a method, such as ``grid=7``, go to every view that makes maps: see :data:`analysis.methods.METHODS`. Each of
them raises ValueError, with a sentence that says what to change, for what its method cannot do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from analysis.attribution import Attribution, attribute
from analysis.comparison import top_k
from analysis.faithfulness import Judgement, SurrogateMeter, judge, randomise, surrogate_meter
from analysis.figures.attribution import Box, Picture, difference, map_grid, overlay, top_bars, wipe
from analysis.figures.faithfulness import randomisation_curve, removal_curves, score_bars, surrogate_gauge
from analysis.methods import METHODS
from analysis.views._view import View, class_names
from bcdnet import Network


def likeliest_classes(
    model: Network, x: Tensor, classes: Sequence[str] | None = None, k: int = 5, chosen: int | None = None
) -> View[pd.DataFrame]:
    """What does a network take an image for, and how sure is it?

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W).
        classes: name of every class; the card's if None.
        k: how many to show.
        chosen: class to highlight; the likeliest if None.

    Returns:
        Likeliest first, see :func:`analysis.comparison.top_k`; probabilities from 0 to 1.

    Raises:
        ValueError: more than one image, or not one name for each class.

    Example:
        >>> likeliest_classes(model, x, ["shirt", "shoe", "bag"])
    """
    top = top_k(model, x, class_names(model, classes), k)
    return View(top, top_bars(top, chosen))


def attribution_map(
    model: Network,
    x: Tensor,
    target: int,
    method: str = "grad_cam",
    layer: str | None = None,
    against: int | None = None,
    image: Picture | None = None,
    box: Box | None = None,
    limit: float | None = None,
    **options: Any,
) -> View[Attribution]:
    """Which pixels speak for a class, and which against it, in logits?

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W).
        target: class to explain.
        method: key of :data:`analysis.methods.METHODS`.
        layer: for Grad-CAM; the last one if None.
        against: explain why the target and not this class.
        image: uint8 (H, W) or (H, W, 3), the pixels the network saw, shown under the map.
        box: where the image is the picture that they were taken from, the part of it that they are, in its pixels
            (left, top, right, bottom).
        limit: what the strongest colour stands for, to compare maps; the largest magnitude if None.
        **options: of the method.

    Example:
        >>> attribution_map(model, x, target=0, method="occlusion", window=7, stride=7)
    """
    found = attribute(model, x, target, method, layer, against, **options)
    return View(found, overlay(found.map, image, limit=limit, box=box))


def removal(
    model: Network,
    x: Tensor,
    target: int,
    method: str = "grad_cam",
    layer: str | None = None,
    against: int | None = None,
    **options: Any,
) -> View[Judgement]:
    """Does the output fall, or rise, as pixels are deleted, or inserted, in the map's order? Beside random maps.

    The data holds infidelity and sensitivity as well; :func:`faithfulness_scores` draws those.

    Args:
        model, x, target, method, layer, against, **options: as for :func:`attribution_map`.

    Example:
        >>> removal(model, x, target=0)
    """
    found = judge(model, x, target, method, layer, against, **options)
    return View(found, removal_curves(found.curves))


def faithfulness_scores(
    model: Network,
    x: Tensor,
    target: int,
    method: str = "grad_cam",
    layer: str | None = None,
    against: int | None = None,
    **options: Any,
) -> View[Judgement]:
    """How badly does a map predict what removing blocks does, and how much does it change with the image? Beside
    random maps; the less the better.

    Args:
        model, x, target, method, layer, against, **options: as for :func:`attribution_map`.

    Example:
        >>> faithfulness_scores(model, x, target=0, against=1)
    """
    found = judge(model, x, target, method, layer, against, **options)
    return View(found, score_bars([found.infidelity, found.sensitivity]))


def randomised_parameters(
    model: Network,
    x: Tensor,
    target: int,
    method: str = "grad_cam",
    layer: str | None = None,
    against: int | None = None,
    **options: Any,
) -> View[pd.DataFrame]:
    """Does the map change as the network's parameters are shuffled, stage by stage? One that stays does not show it.

    Args:
        model, x, target, method, layer, against, **options: as for :func:`attribution_map`.

    Returns:
        Rank correlation with the trained network's map, see :func:`analysis.faithfulness.parameter_randomisation`.

    Example:
        >>> randomised_parameters(model, x, target=0)
    """
    found = randomise(model, x, target, method, layer, against, **options)
    return View(found, randomisation_curve(found))


def surrogate_correlations(
    model: Network, x: Tensor, target: int, against: int | None = None, **options: Any
) -> View[SurrogateMeter]:
    """How far do gradients through signs tell what taking blocks away shows, without any gradient?

    Args:
        model, x, target, against: as for :func:`attribution_map`.
        **options: of :func:`analysis.faithfulness.surrogate_meter`.

    Example:
        >>> surrogate_correlations(model, x, target=0, grid=4)
    """
    found = surrogate_meter(model, x, target, against, **options)
    return View(found, surrogate_gauge(found))


def attribution_grid(
    model: Network,
    x: Tensor,
    rows: tuple[str, Sequence[Any]],
    columns: tuple[str, Sequence[Any]],
    limits: Mapping[tuple[str, str], float] | None = None,
    image: Picture | None = None,
    box: Box | None = None,
    **fixed: Any,
) -> View[dict[tuple[str, str], Attribution]]:
    """How does the map change with the class, the method or the layer, two of them at once?

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W).
        rows, columns: the name of an argument of :func:`analysis.attribution.attribute` and its values.
        limits: of each map, what its strongest colour stands for; one for all, the largest magnitude, if None.
        image, box: as for :func:`attribution_map`, under every map.
        **fixed: the other arguments of :func:`analysis.attribution.attribute`.

    Returns:
        Attributions by row and column, in words.

    Example:
        >>> attribution_grid(model, x, ("target", [0, 1]), ("method", ["saliency", "feature_ablation"]))
    """
    found = {
        (_word(model, rows[0], row), _word(model, columns[0], column)): attribute(
            model, x, **{**fixed, rows[0]: row, columns[0]: column}
        )
        for row in rows[1]
        for column in columns[1]
    }
    if limits is None:
        values = np.concatenate([one.map.ravel() for one in found.values()])
        limits = dict.fromkeys(found, float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0)
    return View(found, map_grid({title: one.map for title, one in found.items()}, limits, image, box=box))


def wiped_maps(
    models: Mapping[str, Network],
    x: Tensor,
    target: int,
    method: str = "grad_cam",
    cut: float = 0.5,
    image: Picture | None = None,
    box: Box | None = None,
    **arguments: Any,
) -> View[dict[str, Attribution]]:
    """Two models' maps of one image in one, the first left of a line and the second right of it, on one scale.

    Args:
        models: two, by name, of the same classes and image size.
        x: one normalised image (1, C, H, W).
        target, method: as for :func:`attribution_map`.
        cut: where the line is, as a share of the width.
        image, box: as for :func:`attribution_map`, under both.
        **arguments: more of :func:`analysis.attribution.attribute`.

    Example:
        >>> wiped_maps({"a": model, "b": model}, x, target=0, cut=0.3)
    """
    found = _two(models, x, target, method, arguments)
    a, b = found.values()
    return View(found, wipe(a.map, b.map, _names(found), cut, image, box=box))


def map_difference(
    models: Mapping[str, Network],
    x: Tensor,
    target: int,
    method: str = "grad_cam",
    image: Picture | None = None,
    box: Box | None = None,
    **arguments: Any,
) -> View[dict[str, Attribution]]:
    """Where do two models' maps of one image differ? Both and their difference, on one scale.

    Args:
        models, x, target, method, image, box, **arguments: as for :func:`wiped_maps`.

    Example:
        >>> map_difference({"a": model, "b": model}, x, target=0, against=1)
    """
    found = _two(models, x, target, method, arguments)
    a, b = found.values()
    return View(found, difference(a.map, b.map, _names(found), image, box=box))


def _word(model: Network, argument: str, value: Any) -> str:
    """What a row or a column of the grid is called."""
    if argument == "target":
        return class_names(model, None)[value]
    return METHODS[value].title if argument == "method" else str(value)


def _two(
    models: Mapping[str, Network], x: Tensor, target: int, method: str, arguments: dict[str, Any]
) -> dict[str, Attribution]:
    if len(models) != 2:
        raise ValueError(f"this view compares two models; give two, not {len(models)}.")
    return {name: attribute(model, x, target, method, **arguments) for name, model in models.items()}


def _names(found: Mapping[str, Attribution]) -> tuple[str, str]:
    first, second = found
    return first, second
