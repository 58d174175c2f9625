"""The page *Sampling patterns*: what one token of a layer reads."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from analysis.branches import wrap_effect
from analysis.figures.branches import effect_bars
from analysis.figures.sampling import token_grid
from analysis.figures.tracing import reconstruction_steps, trace_strip
from analysis.sampling import layers, token_sources
from analysis.tracing import Reconstruction, Trace, reconstruction, trace
from analysis.views._view import View, class_names
from bcdnet import Network


def sampling_pattern(
    model: Network, layer: str, row: int, col: int, image: NDArray[np.uint8] | None = None
) -> View[pd.DataFrame]:
    """Which tokens does one location of a layer read, through which branch, with what share of the weights?

    Args:
        model: any network of the library.
        layer: an entry of ``model.units``.
        row, col: token of the layer's output map.
        image: uint8 (H, W) or (H, W, 3), shown under the grid.

    Returns:
        The sources of the token, see :func:`analysis.sampling.token_sources`.

    Raises:
        ValueError: no such layer or location.

    Example:
        >>> sampling_pattern(model, "mlp1_1", 3, 3)
    """
    sources = token_sources(model, layer, row, col)
    about = next(about for about in layers(model).to_dict("records") if about["name"] == layer)
    return View(sources, token_grid(sources, about["in_height"], about["in_width"], image))


def back_to_image(
    model: Network,
    layer: str,
    row: int,
    col: int,
    branch: str | None = None,
    image: NDArray[np.uint8] | None = None,
) -> View[Trace]:
    """By which paths does a token reach back to the pixels, layer by layer, weighed by the weights' magnitudes?

    Args:
        model, layer, row, col: as for :func:`sampling_pattern`; ``layer`` may be "stem".
        branch: of this layer, or "shortcut", that the paths take first; any if None.
        image: uint8 (H, W) or (H, W, 3), drawn as a last map.

    Raises:
        ValueError: no such layer, location or branch.

    Example:
        >>> back_to_image(model, "mlp1_1", 3, 3, "long")
    """
    found = trace(model, layer, row, col, branch)
    return View(found, trace_strip(found, image))


def token_reconstruction(model: Network, x: Tensor, layer: str, branch: str) -> View[Reconstruction]:
    """How does a branch rebuild its tokens, one shift at a time (paper, Eq. 11-13 and Fig. 3)?

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W).
        layer: a binary MLP.
        branch: "point", "short" or "long", as the layer has it.

    Raises:
        ValueError: no such MLP or branch, or not exactly one image.

    Example:
        >>> token_reconstruction(model, x, "mlp1_1", "long")
    """
    found = reconstruction(model, x, layer, branch)
    return View(found, reconstruction_steps(found))


def without_wrapping(model: Network, x: Tensor, classes: Sequence[str] | None = None) -> View[pd.DataFrame]:
    """What do the logits do when shifts bring zeros from beyond the border, in place of wrapping round?

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W).
        classes: name of every class; the card's if None.

    Returns:
        Logits and probabilities of every class, see :func:`analysis.branches.wrap_effect`.

    Raises:
        ValueError: not exactly one image, or not one name for each class.

    Example:
        >>> without_wrapping(model, x, ["shirt", "shoe", "bag"])
    """
    effect = wrap_effect(model, x)
    return View(effect, effect_bars(effect, class_names(model, classes), ("wrap-round", "zero padding")))
