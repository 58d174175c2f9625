"""The page *OPs trade-offs*, and what the cards of models say: accuracy against cost, and where the cost lies."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.figures.comparison import accuracy_whiskers
from analysis.figures.tradeoffs import MEASURED, accuracy_cost_scatter, latency_bars, latency_fit, layer_bars
from analysis.tradeoffs import (
    LatencyModel,
    Trained,
    benchmark_latencies,
    computed_costs,
    latency_model,
    layer_costs,
    measured_results,
    scatter_points,
    with_measured,
)
from analysis.views._view import View
from bcdnet import Config
from bcdnet.checkpoint import inspect


def accuracy_against_cost(
    dataset: str = "ImageNet-1K",
    checkpoints: Iterable[str | Path] = (),
    cost: str = "ops_full",
    measured: pd.DataFrame | None = None,
    designs: Sequence[Config] = (),
    log: bool = True,
    picked: Collection[str] = (),
) -> View[pd.DataFrame]:
    """What accuracy does an operation, a parameter or a millisecond buy? The paper's networks, or trained ones.

    Args:
        dataset: whose accuracies: "ImageNet-1K", quoted, or that of the checkpoints, "fashion-mnist".
        checkpoints: files of trained models.
        cost: a key of :data:`analysis.figures.tradeoffs.AXES`.
        measured: columns ``name``, ``value`` and ``how``, for a cost that is measured; not for "benchmark_ms", which
            the committed benchmark knows.
        designs: networks whose cost is drawn as a line, as their accuracy is not known.
        log: logarithmic cost axis.
        picked: names of points that stand out.

    Returns:
        The points, see :func:`analysis.tradeoffs.scatter_points`.

    Raises:
        ValueError: a measured cost without its measurements.

    Example:
        >>> accuracy_against_cost(cost="benchmark_ms", designs=[get_config("bcdnet_a", width=0.5)])
    """
    points = scatter_points(_trained(checkpoints))
    points = points[points.dataset == dataset]
    custom = computed_costs(designs) if designs else None
    if cost == "benchmark_ms":
        points = with_measured(points, benchmark_latencies(), cost, MEASURED[cost], "quoted")
        if custom is not None:
            custom[cost] = [latency_model().estimate(config).sum() for config in designs]
    elif cost in MEASURED:
        if measured is None:
            raise ValueError(f"{cost} is measured: give a table of name, value and how it was measured.")
        points = with_measured(points, measured, cost, MEASURED[cost])
    return View(points, accuracy_cost_scatter(points, cost, custom, log, picked=picked))


def design_costs(config: Config, measure: str = "ops") -> View[pd.DataFrame]:
    """Where in a network of one's own design lie the operations, or the memory?

    Args:
        config: from :func:`bcdnet.variants.get_config`, with what is to be changed.
        measure: "ops" or "kilobytes".

    Returns:
        A row per layer, see :func:`analysis.tradeoffs.layer_costs`.

    Example:
        >>> design_costs(get_config("bcdnet_a", mlp_groups=2, branches="PLL"))
    """
    layers = layer_costs(config)
    return View(layers, layer_bars(layers, measure))


def design_times(config: Config) -> View[pd.Series]:
    """How long would each layer of a design take, packed, on the benchmark's machine, in milliseconds?

    Args:
        config: a 1/1 network.

    Raises:
        PackError: the engine cannot run it.

    Example:
        >>> design_times(get_config("bcdnet_a", width=0.5))
    """
    estimate = latency_model().estimate(config)
    return View(estimate, latency_bars(estimate))


def time_estimate() -> View[LatencyModel]:
    """How good is the estimate behind :func:`design_times`, on the layers it was fitted to and on other networks?

    Example:
        >>> time_estimate()
    """
    model = latency_model()
    return View(model, latency_fit(model))


def card_accuracies(checkpoints: Iterable[str | Path], ids: Mapping[str, str] | None = None) -> View[pd.DataFrame]:
    """How accurate are trained models, in percent and with 95 % intervals, as their cards have it?

    Args:
        checkpoints: files, of one data set, since accuracies on others do not compare.
        ids: title -> id that settles a model's colour; names of the files if None.

    Returns:
        Index title; ``id``, ``top1``, ``low``, ``high``, ``n`` test images and how many of them are ``correct``.

    Example:
        >>> card_accuracies(sorted(Path("assets/checkpoints").glob("fmnist_*.safetensors")))
    """
    about = measured_results(_trained(checkpoints)).dropna(subset=["top1", "n"]).set_index("title")
    table = about[["id", "top1", "low", "high", "n"]].assign(correct=(about.top1 * about.n / 100).round())
    return View(table, accuracy_whiskers(table, dict(table.id) if ids is None else ids))


def _trained(checkpoints: Iterable[str | Path]) -> list[Trained]:
    about = {Path(path).stem: inspect(path) for path in checkpoints}
    return [(name, found["card"].get("title", name), found["config"], found["card"]) for name, found in about.items()]
