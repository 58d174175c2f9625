"""The page *Binarization error*, its bits: how near each is to turning, what turning it does, what it can tell."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from torch import Tensor

from analysis.bits import (
    BitFlips,
    DynamicBits,
    TokenMargins,
    compare_orders,
    dynamic_bits,
    fewest_flips,
    information,
    layer_margins,
    margin_distances,
)
from analysis.figures.bits import (
    dynamic_changes,
    dynamic_map,
    entropy_per_layer,
    flip_gaps,
    flip_map,
    flips_per_order,
    margin_map,
    margin_quantiles,
)
from analysis.views._view import View
from bcdnet import Network


def bit_margins(
    model: Network,
    x: Tensor,
    layer: str,
    show: int | str = "nearest",
    relative: bool = True,
    limit: float | None = None,
) -> View[TokenMargins]:
    """How near are the bits of one layer to their thresholds, token by token?

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W).
        layer: with a sign.
        show: "nearest", "mean" or a channel.
        relative: in multiples of the channel's spread over the map; else in the map's unit.
        limit: end of the colour scale, to compare maps; the largest magnitude if None.

    Raises:
        ValueError: no such layer or channel, or not exactly one image.

    Example:
        >>> bit_margins(model, x, "mlp1_1", show=3)
    """
    found = layer_margins(model, x, layer, show, relative)
    return View(found, margin_map(found, limit))


def margin_ranges(model: Network, x: Tensor, eps: float = 0.1, relative: bool = True) -> View[pd.DataFrame]:
    """How are the distances of the bits from their thresholds spread in each layer, and what share is near?

    Args:
        model, x, relative: as for :func:`bit_margins`.
        eps: a bit is near below this distance.

    Returns:
        A row per layer, see :func:`analysis.bits.margin_summary`.

    Raises:
        ValueError: not exactly one image.

    Example:
        >>> margin_ranges(model, x, eps=0.05)
    """
    summary = margin_distances(model, x, eps, relative)
    return View(summary, margin_quantiles(summary, relative))


def static_thresholds(model: Network, x: Tensor) -> View[DynamicBits]:
    """Which share of each layer's bits is what it is because BCDNet-B's thresholds follow the image?

    Args:
        model: a network with context embeddings.
        x: one normalised image (1, C, H, W).

    Raises:
        ValueError: a network without embeddings, or not exactly one image.

    Example:
        >>> static_thresholds(model, x)
    """
    found = dynamic_bits(model, x)
    return View(found, dynamic_changes(found))


def static_threshold_map(model: Network, x: Tensor, layer: str, limit: float | None = None) -> View[DynamicBits]:
    """Where on a layer's map lie the bits that its dynamic thresholds decide, in percent of each token's?

    Args:
        model, x: as for :func:`static_thresholds`.
        layer: one with a context embedding.
        limit: end of the colour scale in percent; the largest share if None.

    Raises:
        ValueError: a layer or network without embedding, or not exactly one image.

    Example:
        >>> static_threshold_map(model, x, "conv1_3x3")
    """
    found = dynamic_bits(model, x)
    return View(found, dynamic_map(found, layer, limit))


def flips_to_change(model: Network, x: Tensor, layer: str, **options: Any) -> View[dict[str, BitFlips]]:
    """How few bits of one layer, turned, change the class? An upper bound for each order of trying.

    Args:
        model: a network with binary activations.
        x: one normalised image (1, C, H, W).
        layer: one of :func:`analysis.bits.flip_layers`.
        **options: of :func:`analysis.bits.compare_orders`: ``orders``, ``towards``, ``budget`` passes each.

    Returns:
        The searches by order; :func:`analysis.bits.flip_summary` makes a table of them.

    Raises:
        ValueError: a layer without bits, or options that do not fit.

    Example:
        >>> flips_to_change(model, x, "mlp1_1", budget=20)
    """
    found = compare_orders(model, x, layer, **options)
    return View(found, flips_per_order(found))


def gap_by_flips(model: Network, x: Tensor, layer: str, **options: Any) -> View[dict[str, BitFlips]]:
    """How does the gap of the two logits close as more bits of a layer are turned? Below 0 the class has changed.

    Args:
        model, x, layer, **options: as for :func:`flips_to_change`, whose data this is too.

    Example:
        >>> gap_by_flips(model, x, "mlp1_1", orders=("margin", "random"), budget=20)
    """
    found = compare_orders(model, x, layer, **options)
    return View(found, flip_gaps(found))


def flipped_bits(model: Network, x: Tensor, layer: str, order: str = "gradient", **options: Any) -> View[BitFlips]:
    """Where on the layer's map lie the bits whose turning changes the class?

    Args:
        model, x, layer: as for :func:`flips_to_change`.
        order: "gradient", "margin" or "random".
        **options: of :func:`analysis.bits.fewest_flips`.

    Example:
        >>> flipped_bits(model, x, "mlp1_1", "margin", budget=20)
    """
    found = fewest_flips(model, x, layer, order, **options)
    return View(found, flip_map(found, *found.size))


def bit_information(
    models: Mapping[str, Network],
    images: Tensor,
    column: str = "entropy_position",
    ids: Mapping[str, str] | None = None,
) -> View[dict[str, pd.DataFrame]]:
    """How much can the bits of each layer tell, over a set of images?

    Args:
        models: by name.
        images: normalised (N, C, H, W), for all of them.
        column: "entropy_position" or "entropy_channel" in bits, "balance", "constant" or "information".
        ids: name -> id of a shipped model, which has a colour of its own.

    Returns:
        By name, see :func:`analysis.bits.information`.

    Raises:
        ValueError: no images, or another column.

    Example:
        >>> bit_information({"BCDNet-B": model}, images, "balance")
    """
    found = {name: information(model, images) for name, model in models.items()}
    return View(found, entropy_per_layer(found, column, ids))
