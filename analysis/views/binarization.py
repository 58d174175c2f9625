"""The page *Binarization error*, its weights: what one bit a weight and one bit an activation lose."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from analysis.binarization import (
    LatentWeights,
    Marked,
    activation_error,
    activation_statistics,
    latent_weights,
    mark_weights,
    thresholds,
)
from analysis.bits import compare_errors, errors_by_block
from analysis.figures.binarization import activation_balance, activation_errors, threshold_plot, weight_histograms
from analysis.figures.bits import block_errors
from analysis.views._view import View
from bcdnet import Network


def weight_errors(models: Mapping[str, Network], measure: str = "l1", by: str = "layer") -> View[pd.DataFrame]:
    """What does binarizing the weights cost in each branch, layer by layer or block by block (paper, Eq. 23, Fig. 6)?

    Args:
        models: by name.
        measure: "l1" (the paper's), "relative" or "mse".
        by: "layer", "group" for the mean of each block, or "mlps" for the layers that are MLPs, as in the paper.

    Returns:
        See :func:`analysis.bits.compare_errors`; :func:`analysis.binarization.order_summary` counts what it says of the
        paper's order.

    Raises:
        ValueError: no network, or another measure.

    Example:
        >>> weight_errors({"BCDNet-B": model}, "relative", by="group")
    """
    errors = compare_errors(models)
    if by == "group":
        errors = errors_by_block(errors)
    elif by == "mlps":
        errors = errors[errors.branch != "conv"]
    return View(errors, block_errors(errors, measure, "group" if by == "group" else "layer"))


def layer_weights(
    model: Network,
    layer: str,
    branch: str | None = None,
    mark: tuple[float, float] | None = None,
    of: str = "latent",
) -> View[tuple[LatentWeights, Marked | None]]:
    """How are the latent, binary and scaled weights of a layer spread, and where do some of them lie in all three?

    Args:
        model: any network of the library.
        layer: of binary weights.
        branch: one of its branches; all if None.
        mark: from and to, both included: these weights stand out.
        of: what ``mark`` is a range of, "latent", "sign" or "scaled".

    Returns:
        The weights, and what those that are marked share, None if none are.

    Raises:
        ValueError: no such layer, branch or histogram.

    Example:
        >>> layer_weights(model, "mlp1_1", "long", mark=(-0.01, 0.01))
    """
    weights = latent_weights(model, layer, branch)
    marked = None if mark is None else mark_weights(weights, *mark, of)
    return View((weights, marked), weight_histograms(weights, marked=None if marked is None else marked.chosen))


def activation_bits(model: Network, x: Tensor) -> View[pd.DataFrame]:
    """How often is each layer's bit +1, and how much lies where training passes no gradient?

    Args:
        model: any network of the library.
        x: normalised images (N, C, H, W).

    Returns:
        Shares from 0 to 1, see :func:`analysis.binarization.activation_statistics`.

    Example:
        >>> activation_bits(model, x)
    """
    statistics = activation_statistics(model, x)
    return View(statistics, activation_balance(statistics))


def signs_of_activations(
    model: Network, x: Tensor, images: Tensor | None = None, measure: str = "relative"
) -> View[pd.DataFrame]:
    """What do the activations of one image lose as signs, layer by layer, and where does that lie within a set?

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W).
        images: normalised (N, C, H, W), whose range is drawn too.
        measure: "relative", "l1" or "mse".

    Returns:
        See :func:`analysis.binarization.activation_error`; the one image is number -1, those of the set 0 to N - 1.

    Raises:
        ValueError: no images, or another measure.

    Example:
        >>> signs_of_activations(model, x, images)
    """
    one = activation_error(model, x)
    several = None if images is None else activation_error(model, images)
    table = pd.concat([one.assign(image=-1), several], ignore_index=True)
    return View(table, activation_errors(one, several, measure))


def sign_thresholds(model: Network, x: Tensor, layer: str, images: Tensor | None = None) -> View[pd.DataFrame]:
    """Where are a layer's thresholds, and how far do they follow the image in BCDNet-B?

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W), which is singled out.
        layer: with a sign.
        images: normalised (N, C, H, W), over which the range of the thresholds is drawn too.

    Returns:
        Thresholds by layer, channel and image, ``x`` being image 0; see :func:`analysis.binarization.thresholds`.

    Example:
        >>> sign_thresholds(model, x, "conv1_3x3", images)
    """
    values = thresholds(model, x if images is None else torch.cat([x, images]))
    return View(values, threshold_plot(values, layer, image=0))
