"""The page *Receptive fields*: which pixels reach a token, and how much each of them does."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from analysis.figures.receptive_field import erf_heatmap, growth_curve, receptive_set
from analysis.receptive_field import (
    CONVOLUTIONS,
    ERF,
    Mask,
    branch_receptive_field,
    effective_receptive_field,
    exact_receptive_field,
    receptive_field_growth,
)
from analysis.views._view import View
from bcdnet import Network

#: What :func:`exact_field` can set apart in a second colour -> what that colour stands for.
BEYOND = {"wrap-round": "reached only round the border", "convolutions": "not reached by convolutions alone"}


def exact_field(
    model: Network,
    layer: str,
    row: int,
    col: int,
    branch: str | None = None,
    beyond: str = "wrap-round",
    image: NDArray[np.uint8] | None = None,
) -> View[dict[str, Mask]]:
    """Which pixels can reach one token of a layer at all, and which of them only by a detour?

    Args:
        model: any network of the library.
        layer: "stem" or an entry of ``model.units``.
        row, col: token of the layer's output map.
        branch: of this layer, or "shortcut", that the paths take first; any if None.
        beyond: a key of :data:`BEYOND`, what is set apart in a second colour.
        image: uint8 (H, W) or (H, W, 3), shown under the set.

    Returns:
        bool (H, W) each: "field", the whole set, and "plain", the part of it without a detour.

    Raises:
        ValueError: no such layer, location or branch, or another ``beyond``.

    Example:
        >>> exact_field(model, "mlp1_1", 3, 3, "long", beyond="convolutions")
    """
    if beyond not in BEYOND:
        raise ValueError(f"beyond must be one of {', '.join(BEYOND)}, not {beyond!r}.")

    def reached(wrap: bool) -> Mask:
        if branch is None:
            return exact_receptive_field(model, layer, row, col, wrap=wrap)
        return branch_receptive_field(model, layer, branch, row, col, wrap=wrap)

    field = reached(wrap=True)
    if beyond == "convolutions":
        plain = field & exact_receptive_field(model, layer, row, col, kinds=CONVOLUTIONS)
    else:
        plain = reached(wrap=False)
    return View({"field": field, "plain": plain}, receptive_set(field, plain, image, BEYOND[beyond]))


def field_growth(
    models: Mapping[str, Network], row: int, col: int, ids: Mapping[str, str] | None = None
) -> View[dict[str, pd.DataFrame]]:
    """How does the set of pixels that reach a token grow from layer to layer, in one network or several?

    Args:
        models: by name.
        row, col: token of every model's last map; on larger maps, the token that lies over the middle of it.
        ids: name -> id of a shipped model, which has a colour of its own.

    Returns:
        By name, see :func:`analysis.receptive_field.receptive_field_growth`.

    Raises:
        ValueError: no such location.

    Example:
        >>> field_growth({"BCDNet-B": model}, 3, 3)
    """
    growths = {name: receptive_field_growth(model, row, col) for name, model in models.items()}
    return View(growths, growth_curve(growths, ids))


def effective_field(
    model: Network,
    images: Tensor,
    layer: str | None = None,
    row: int | None = None,
    col: int | None = None,
    method: str = "gradient",
    limit: float | None = None,
    log: bool = False,
) -> View[ERF]:
    """How much does a token depend on each pixel, averaged over images?

    Set beside each other what "gradient", a surrogate in binary networks, and "perturbation" find:
    :func:`analysis.receptive_field.agreement` of the two says how far they tell the same story.

    Args:
        model: any network of the library.
        images: normalised (N, C, H, W).
        layer: "stem" or an entry of ``model.units``; the last one if None.
        row, col: token of its output map; the middle if None.
        method: "gradient" or "perturbation".
        limit: top of the colour scale, to compare maps; their own maximum if None.
        log: logarithmic colours.

    Raises:
        ValueError: no images, or no such layer, location or method.

    Example:
        >>> effective_field(model, x, "conv1_3x3", 3, 3, "perturbation")
    """
    found = effective_receptive_field(model, images, layer, row, col, method)
    exact = exact_receptive_field(model, found.layer, found.row, found.col)
    return View(found, erf_heatmap(found, exact, limit, log))
