"""The page *Deployment*: one image through the float graph and the packed engine, their sizes and their times.

Every view packs the network itself; PackError, a ValueError, says why where that cannot be.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from analysis.deployment import LayerMaps, Twin, file_parts, layer_maps, layer_times, packed_file, speed, twin
from analysis.figures.deployment import (
    differing_bits,
    file_bars,
    layer_dumbbells,
    speed_lines,
    threshold_room,
    twin_maps,
)
from analysis.views._view import View
from bcdnet import Network, load, pack


def nearest_bits(model: Network, x: Tensor) -> View[Twin]:
    """How near does each layer's nearest bit come to turning, beside how differently the two graphs round?

    Args:
        model: a 1/1 network.
        x: one normalised image (1, C, H, W).

    Example:
        >>> nearest_bits(model, x)
    """
    found = twin(model, pack(model), x)
    return View(found, threshold_room(found.layers))


def bits_that_differ(model: Network, x: Tensor) -> View[Twin]:
    """How many bits of each layer differ between float graph and packed engine, and what made them?

    Args:
        model, x: as for :func:`nearest_bits`, whose data this is too.

    Example:
        >>> bits_that_differ(model, x)
    """
    found = twin(model, pack(model), x)
    return View(found, differing_bits(found.layers))


def layer_both_ways(model: Network, x: Tensor, layer: str, channel: int = 0, bit_channel: int = 0) -> View[LayerMaps]:
    """What does one layer compute in both graphs, and where do they differ?

    Args:
        model, x: as for :func:`nearest_bits`.
        layer: "stem" or an entry of ``model.units``.
        channel, bit_channel: of the output and of the input's bits that are drawn.

    Raises:
        ValueError: no such layer.

    Example:
        >>> layer_both_ways(model, x, "mlp1_1", channel=1)
    """
    found = layer_maps(model, pack(model), x, layer)
    return View(found, twin_maps(found, channel, bit_channel))


def times_by_layer(model: Network, x: Tensor, budget: float = 0.4) -> View[pd.DataFrame]:
    """How long does each layer take on this machine, in float and packed, in milliseconds?

    Args:
        model, x: as for :func:`nearest_bits`.
        budget: seconds to spend.

    Example:
        >>> times_by_layer(model, x, budget=0.1)
    """
    times = layer_times(model, pack(model), x, budget)
    return View(times, layer_dumbbells(times))


def file_sizes(checkpoint: str | Path) -> View[pd.DataFrame]:
    """How large are a checkpoint and the packed file of the same network, in bytes, and what do they hold?

    Args:
        checkpoint: file of a 1/1 network.

    Raises:
        CheckpointError: the file cannot be read.

    Example:
        >>> file_sizes("assets/checkpoints/fmnist_bcdnet_a.safetensors")
    """
    model = load(checkpoint)
    engine = pack(model)
    parts = file_parts(model, engine, Path(checkpoint).stat().st_size, len(packed_file(engine)))
    return View(parts, file_bars(parts))


def times_by_threads(
    model: Network, x: Tensor, threads: Sequence[int] = (1, 2), budget: float = 2.0
) -> View[pd.DataFrame]:
    """How fast does the network run on this machine, in float and packed, in milliseconds for the images at once?

    Args:
        model: a 1/1 network.
        x: normalised images (N, C, H, W).
        threads: numbers of threads to try.
        budget: seconds to spend on each.

    Returns:
        See :func:`analysis.deployment.speed`.

    Example:
        >>> times_by_threads(model, x, threads=[1], budget=0.1)
    """
    times = pd.concat([speed(model, x, number, budget) for number in threads], ignore_index=True)
    return View(times, speed_lines(times))
