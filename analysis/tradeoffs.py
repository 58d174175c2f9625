"""Accuracy against cost: what the paper prints, what this code counts, and what the shipped models were measured at.

Every row says which of the three it is in a column ``kind``: "quoted", "computed" or "measured". The time of a network
that nobody timed is estimated, by a sum that is fitted to layers which were (:func:`latency_model`).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls

from bcdnet.cost import NetworkCost, network_cost
from bcdnet.engine import describe_units
from bcdnet.model import Network
from bcdnet.variants import VARIANTS, Config

#: A trained model: id, title, configuration, card.
Trained = tuple[str, str, Config, Mapping[str, Any]]

_DATA = Path(__file__).parent / "data"
_BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
_PAPER = "BCDNet, ECCV 2022 (quoted)"

#: Unit of a column of counts in the paper's Table 1.
_TABLE_1_UNITS = {"bops": 1e9, "flops": 1e8, "flops_bracket": 1e8, "ops": 1e8, "ops_bracket": 1e8}

_SETTINGS = (
    "The settings of this training are in the paper's Supplementary A, which was not at hand: compare within this "
    "table only."
)

#: Captions in our words, units by column, and what a reader must know.
_ABOUT: dict[int, tuple[str, dict[str, str], tuple[str, ...]]] = {
    1: (
        "ImageNet-1K: BCDNet and the state of the art.",
        {
            "bops": "1e9",
            "flops": "1e8",
            "flops_bracket": "1e8",
            "ops": "1e8",
            "ops_bracket": "1e8",
            "top1": "%",
            "top1_gain": "% points over ReActNet-A",
            "top5": "%",
        },
        (
            "The bracketed FLOPs and OPs count real convolutions and the linear layer only; the others also count "
            "element-wise work. Where the paper prints one number, its convention is that of the work it comes from.",
            "The authors' own like-for-like baseline reaches 70.31 % (Table 6, 'Convolution'), so the MLP stage alone "
            "gains +1.45 points over it, not the printed +2.4.",
            "BCDNet-B's +0.5 points over BCDNet-A include 300k more training iterations.",
        ),
    ),
    2: ("ImageNet-1K: networks of the ResNet-18 architecture.", {"top1": "%"}, ()),
    3: (
        "Fine-grained data sets: top-1 accuracy; † with ImageNet pretraining.",
        dict.fromkeys(("cub_200", "flowers", "aircraft", "cars", "dogs", "avg"), "%"),
        (
            "The † numbers exceed what full-precision networks reach on the official splits: quoted, not promised.",
            "Stanford Dogs is made of ImageNet images, so pretraining has seen them.",
        ),
    ),
    4: (
        "ResNet-18 on ImageNet-1K: stages whose binary convolutions give way to binary MLPs.",
        {"top1": "%"},
        (_SETTINGS,),
    ),
    5: (
        "ResNet-18 on ImageNet-1K: binary MLPs in place of one convolution of the last stage.",
        {"block_ops": "1e6", "top1": "%"},
        (_SETTINGS,),
    ),
    6: (
        "Branches of the binary MLP (point, short, long range) over training, ImageNet-1K.",
        {
            f"{step}_{top}": "%"
            for step in ("step1", "step2_200k", "step2_400k", "step2_600k")
            for top in ("top1", "top5")
        },
        (
            "Step 1 is 32/1 (real weights), step 2 is 1/1.",
            "'Convolution' is the like-for-like baseline, trained by the authors in the same way: 70.31 % at the end. "
            "P-S-L ends at 71.76 %, 1.45 points above it.",
        ),
    ),
}

#: Row of Table 1 or 2 -> our variant.
_OURS = {
    "ReActNet-A [23]": "reactnet_a",
    "ReActNet-B [23]": "reactnet_b",
    "ReActNet-C [23]": "reactnet_c",
    "BCDNet-A": "bcdnet_a",
    "BCDNet-B": "bcdnet_b",
    "ReActNet (R18) [23]": "reactnet_18",
    "BCDNet-A (R18)": "bcdnet_a_18",
    "BCDNet-B (R18)": "bcdnet_b_18",
}

#: The network whose layers the benchmarks time one by one.
_TIMED = "bcdnet_a"

COSTS = ["bops", "flops_full", "flops_conv_fc", "ops_full", "ops_conv_fc", "params", "binary_params", "megabytes"]


def paper_table(number: int) -> pd.DataFrame:
    """One of the paper's Tables 1 to 6, row by row as printed; a dash is NaN.

    Table 1's ``flops`` and ``ops`` are the numbers before a bracket, ``flops_bracket`` and ``ops_bracket`` those
    inside it. ``attrs`` hold ``source``, ``caption``, ``units`` (by column) and ``notes``.

    Raises:
        ValueError: there is no such table.
    """
    if number not in _ABOUT:
        raise ValueError(f"the paper's tables here are 1 to 6; there is no table {number!r}.")
    table = pd.read_csv(_DATA / f"table_{number}.csv")
    caption, units, notes = _ABOUT[number]
    table["kind"] = "quoted"
    table.attrs = {"source": f"Table {number}, {_PAPER}", "caption": caption, "units": units, "notes": notes}
    return table


def custom_cost(config: Config, image_size: tuple[int, int] | None = None) -> pd.Series:
    """Cost of one image through one network, in plain counts.

    Args:
        config: any network; it need not be a row of the table of variants.
        image_size: (height, width) in pixels; the configuration's own if None.

    Returns:
        ``variant``, ``precision``, ``image_size``; ``bops``; ``flops_full``, ``flops_conv_fc``, ``ops_full``,
        ``ops_conv_fc`` (see :mod:`bcdnet.cost`); ``params`` (both heads), ``binary_params``; ``megabytes`` (1e6 bytes)
        with binary parameters at 1 bit and the others at 32; ``kind``, ``source``.

    Raises:
        InputError: the strides do not allow this image size.
    """
    height, width = config.image_size if image_size is None else image_size
    return pd.Series(
        {
            "variant": config.name,
            "precision": config.precision,
            "image_size": f"{height}x{width}",
            **_totals(network_cost(config, image_size)),
            "kind": "computed",
            "source": "counted layer by layer by bcdnet.cost",
        }
    )


def computed_costs(configs: Iterable[Config] | None = None) -> pd.DataFrame:
    """:func:`custom_cost` of several networks, a row each; of every named variant if None."""
    return pd.DataFrame([custom_cost(config) for config in (VARIANTS.values() if configs is None else configs)])


def layer_costs(config: Config, image_size: tuple[int, int] | None = None) -> pd.DataFrame:
    """Cost of every layer with parameters, in order, in plain counts.

    Returns:
        ``layer`` (dotted path), ``unit`` (entry of ``model.units``, or "stem", "fc", "fc_dist"), ``kind`` (class of the
        module), ``output`` (shape as text), ``params``, ``binary_params``, ``kilobytes`` (1e3 bytes), ``bops``,
        ``flops_full``, ``flops_conv_fc``, ``ops_full``, ``ops_conv_fc``.
    """
    rows = []
    for layer in network_cost(config, image_size).layers:
        parts = layer.name.split(".")
        rows.append(
            {
                "layer": layer.name,
                "unit": parts[1] if parts[0] == "units" else parts[0],
                "kind": layer.kind,
                "output": "×".join(map(str, layer.output)),
                "params": layer.params,
                "binary_params": layer.binary_params,
                "kilobytes": layer.bits / 8e3,
                "bops": layer.bops,
                **{f"flops_{convention}": flops for convention, flops in layer.flops.items()},
                **{f"ops_{convention}": layer.bops / 64 + flops for convention, flops in layer.flops.items()},
            }
        )
    return pd.DataFrame(rows)


def paper_vs_computed() -> pd.DataFrame:
    """Every cost the paper prints of the networks defined here, beside what this code counts.

    Returns:
        ``method``, ``variant``, ``quantity`` (column of Table 1), ``printed``, ``computed`` (in the unit of the table),
        ``agrees`` (``computed`` rounds to ``printed``). The two that do not, OPs of ReActNet-C (2.30 printed, 2.3055
        counted) and of BCDNet-B (1.09, 1.0966), are sums of the printed, rounded BOPs/64 and FLOPs.
    """
    counted = {"bops": "bops", "flops": "flops_full", "flops_bracket": "flops_conv_fc", "ops": "ops_full"}
    counted["ops_bracket"] = "ops_conv_fc"
    rows = []
    for printed in paper_table(1).to_dict("records"):
        if (variant := _OURS.get(printed["method"])) is None:
            continue
        cost = _totals(network_cost(VARIANTS[variant]))
        for quantity, unit in _TABLE_1_UNITS.items():
            computed = cost[counted[quantity]] / unit
            agrees = round(computed, 2) == printed[quantity]
            rows.append((printed["method"], variant, quantity, printed[quantity], computed, agrees))
    return pd.DataFrame(rows, columns=["method", "variant", "quantity", "printed", "computed", "agrees"])


def measured_results(models: Iterable[Trained]) -> pd.DataFrame:
    """Accuracy and cost of trained models, from their cards and configurations; builds no weights.

    Args:
        models: (id, title, configuration, card) of each.

    Returns:
        One row a model in the order given: ``id``, ``title``, ``variant``, ``precision``, ``dataset``, ``top1``,
        ``low``, ``high`` (95 % interval), ``top5`` in percent, ``n`` test images, the columns of COSTS at the size it
        was trained for, ``kind``, ``source``. No rows without models; NaN where a card is silent.
    """
    columns = ["id", "title", "variant", "precision", "dataset", "top1", "low", "high", "top5", "n", *COSTS]
    rows = []
    for identity, title, config, card in models:
        metrics, dataset = card.get("metrics") or {}, card.get("dataset", "unknown data")
        low, high = metrics.get("ci95", (math.nan, math.nan))
        how = f"measured on {metrics['n']:,} test images of {dataset}" if "n" in metrics else "not measured"
        rows.append(
            {
                "id": identity,
                "title": title,
                "variant": config.name,
                "precision": config.precision,
                "dataset": dataset,
                "top1": metrics.get("top1", math.nan),
                "low": low,
                "high": high,
                "top5": metrics.get("top5", math.nan),
                "n": metrics.get("n", math.nan),
                **_totals(network_cost(config)),
                "kind": "measured",
                "source": f"{how}; {identity}",
            }
        )
    return pd.DataFrame(rows, columns=[*columns, "kind", "source"])


def scatter_points(models: Iterable[Trained] = ()) -> pd.DataFrame:
    """All points of an accuracy-cost chart; accuracies on different ``dataset`` are not comparable.

    Quoted: every row of Tables 1 and 2 with a known cost. Costs are Table 1's where it prints them (one printed number
    serves both conventions), else those computed for the variants defined here; ``cost_kind`` says which.
    Measured: :func:`measured_results` of ``models``, with computed costs.

    Returns:
        ``name``, ``precision``, ``dataset``, ``top1``, ``low``, ``high``, COSTS in plain counts, ``kind``,
        ``cost_kind``, ``source``.
    """
    rows = []
    for number in (1, 2):
        table = paper_table(number)
        for row in table.to_dict("records"):
            variant = _OURS.get(row["method"])
            cost = dict(_totals(network_cost(VARIANTS[variant]))) if variant else {}
            printed = number == 1 and pd.notna(row["bops"])
            if printed:
                value = {name: row[name] * unit for name, unit in _TABLE_1_UNITS.items()}
                cost["bops"], cost["flops_full"], cost["ops_full"] = value["bops"], value["flops"], value["ops"]
                for name in ("flops", "ops"):
                    bracket = value[f"{name}_bracket"]
                    cost[f"{name}_conv_fc"] = bracket if pd.notna(bracket) else value[name]
            if cost:
                rows.append(
                    {
                        "name": row["method"].split(" [")[0],
                        "precision": row["w_a"],
                        "dataset": "ImageNet-1K",
                        "top1": row["top1"],
                        **cost,
                        "kind": "quoted",
                        "cost_kind": "quoted" if printed else "computed",
                        "source": table.attrs["source"],
                    }
                )
    columns = ["name", "precision", "dataset", "top1", "low", "high", *COSTS, "kind", "cost_kind", "source"]
    points = pd.DataFrame(rows, columns=columns)
    measured = measured_results(models).assign(cost_kind="computed").rename(columns={"title": "name"})
    return pd.concat([points, measured[columns]], ignore_index=True) if len(measured) else points


def with_measured(
    points: pd.DataFrame, values: pd.DataFrame, column: str, what: str, kind: str = "measured"
) -> pd.DataFrame:
    """Points with one more cost, which was measured.

    Args:
        points: from :func:`scatter_points`.
        values: ``name``, ``value``, and in words ``how`` each was measured.
        column: what the new column is called, e.g. "latency_ms".
        what: the same for readers, e.g. "time".
        kind: which points the values belong to. The paper's networks and the models here have names in common and are
            different networks.

    Returns:
        The points with ``column``, NaN where nothing is known. Where it is, ``cost_kind`` is "measured" and ``source``
        says how.
    """
    ours = points.kind == kind
    found = points[ours][["name"]].merge(values, on="name", how="left").set_axis(points.index[ours])
    points = points.assign(**{column: found.value})
    known = points[column].notna()
    points.loc[known, "cost_kind"] = "measured"
    # An empty column has no type of its own.
    points.loc[known, "source"] += f"; {what}: " + found.how.astype("str")
    return points


def benchmark(name: str) -> dict[str, Any]:
    """A result file of `make bench` as committed: "layers" or "networks".

    Raises:
        ValueError: the file is not there; an installed package comes without.
    """
    try:
        document: dict[str, Any] = json.loads((_BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"there are no timings benchmarks/results/{name}.json; make them with `make bench`."
        ) from error
    return document


def benchmark_latencies(networks: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Time of one image through the paper's networks, packed, on the machine of the committed benchmark.

    Args:
        networks: a result file of ``python -m benchmarks.networks``; the committed one if None.

    Returns:
        ``name`` as in :func:`scatter_points`, ``variant``, ``value`` (median, milliseconds, one thread) and ``how``,
        which names the processor. Weights were random, which changes no time.
    """
    document = benchmark("networks") if networks is None else networks
    names = {variant: method.split(" [")[0] for method, variant in _OURS.items()}
    timed = _packed_times(document)
    table = pd.DataFrame({"variant": list(timed), "value": list(timed.values())})
    table = table.assign(name=table.variant.map(names), how=f"measured elsewhere, on {_machine(document)}")
    return table.dropna(subset="name", ignore_index=True)[["name", "variant", "value", "how"]]


def pareto_front(points: pd.DataFrame, cost: str, accuracy: str = "top1") -> pd.DataFrame:
    """The rows that no other row beats: none is at most as costly and at least as accurate, and better in one.

    Rows where either value is NaN are left out; sorted by cost.
    """
    known = points.dropna(subset=[cost, accuracy]).sort_values([cost, accuracy], ascending=[True, False], kind="stable")
    best_before = known[accuracy].cummax().shift(fill_value=float("-inf"))
    # Twins in both values do not beat each other.
    twin = known.duplicated([cost, accuracy]) & known[accuracy].eq(best_before)
    front = known[accuracy].gt(best_before)
    return known[front | (twin & front.groupby([known[cost], known[accuracy]]).transform("any"))]


#: What the time of a layer is a sum of -> the work that a unit of it is, in words.
WORK = {
    "binary_3x3": "binary multiply-accumulate of a 3×3 convolution",
    "binary_1x1": "binary multiply-accumulate of a 1×1 convolution or binary MLP",
    "real_conv": "real multiply-accumulate of a convolution",
    "real_linear": "real multiply-accumulate of a linear layer",
    "elements": "element written, or read once more for its context",
    "layers": "layer",
}


def latency_work(config: Config, image_size: tuple[int, int] | None = None) -> pd.DataFrame:
    """What the packed engine has to do for one image, layer by layer.

    Args:
        config: a 1/1 network without MLP-Mixers.
        image_size: (height, width) in pixels; the configuration's own if None.

    Returns:
        Index ``layer``: "stem", the units, "head"; the columns of WORK in plain counts. ``elements`` are those of the
        layer's output; with an embedding those of its input again, whose bits are made in a pass of their own once the
        mean of the finished map is known.

    Raises:
        PackError: the engine cannot run it.
        InputError: the strides do not allow this image size.
    """
    with torch.device("meta"):
        units = {unit.name: unit for unit in describe_units(Network(config))}
    work = {name: dict.fromkeys(WORK, 0) | {"layers": 1} for name in ("stem", *units, "head")}
    for layer in network_cost(config, image_size).layers:
        parts = layer.name.split(".")
        name = parts[1] if parts[0] == "units" else "stem" if parts[0] == "stem" else "head"
        unit, amount = units.get(name), work[name]
        if layer.kind == "BinaryConv2d":
            amount["binary_3x3" if unit is not None and unit.kernel > 1 else "binary_1x1"] += layer.bops
        elif layer.kind in ("Conv2d", "Linear"):
            amount["real_conv" if layer.kind == "Conv2d" else "real_linear"] += layer.macs
        written = layer.kind == ("Conv2d" if unit is None else "RPReLU")
        read_again = layer.kind == "RSign" and unit is not None and unit.context > 0
        if written or read_again:
            amount["elements"] += math.prod(layer.output)
    return pd.DataFrame.from_dict(work, orient="index").rename_axis("layer")


@dataclass(frozen=True)
class LatencyModel:
    """How long one image takes on one machine, as a sum over the work of the layers; see :func:`latency_model`.

    Attributes:
        machine: processor, instruction set and threads, in words.
        ns: nanoseconds for each unit of WORK, by its name.
        layers: what it was fitted to: index ``layer``, ``measured_ms``, ``estimated_ms``.
        held_out: whole networks that it was not fitted to: index ``network``, ``measured_ms``, ``estimated_ms``,
            ``error`` in percent of the measured time.
    """

    machine: str
    ns: pd.Series
    layers: pd.DataFrame
    held_out: pd.DataFrame

    @property
    def within(self) -> float:
        """Largest error, in percent, on the networks held out."""
        return float(self.held_out.error.abs().max())

    def estimate(self, config: Config, image_size: tuple[int, int] | None = None) -> pd.Series:
        """Milliseconds for each layer, index ``layer``; their sum is the network's. Raises as :func:`latency_work`."""
        return _milliseconds(latency_work(config, image_size), self.ns)


def latency_model(layers: Mapping[str, Any] | None = None, networks: Mapping[str, Any] | None = None) -> LatencyModel:
    """Fit the time of every layer of BCDNet-A by the work it is; check on the networks that were timed as a whole.

    ``time = sum over WORK of ns[work] * amount[work]``, with the ``ns >= 0`` of least squares (Lawson and Hanson, 1974)
    over the timed units, stem, head and what the engine takes between layers, each counted once.

    Args:
        layers, networks: result files of ``python -m benchmarks.layers`` and ``python -m benchmarks.networks``, of the
            same machine; the committed ones if None. What counts are batches of one image on one thread.

    Raises:
        ValueError: the files are not there, or are of two machines.
    """
    layers = benchmark("layers") if layers is None else layers
    networks = benchmark("networks") if networks is None else networks
    isa = networks["isa"]
    if layers["machine"]["cpu"] != networks["machine"]["cpu"] or isa not in layers["isas"]:
        raise ValueError("the timings of layers and of networks are of two machines; run `make bench` on one.")
    kinds = _single(networks)["breakdown"]["kinds"]
    times = {name: row["unit_ms"] for row in layers["isas"][isa]["layers"] for name in row["layers"]}
    times |= {name: kinds[name]["ms"] for name in ("stem", "head")}
    work = latency_work(VARIANTS[_TIMED])
    work = work.loc[[name for name in work.index if name in times]]
    between = pd.DataFrame([{"layers": len(work)}], index=["between layers"], columns=work.columns).fillna(0)
    work = pd.concat([work, between]).rename_axis("layer")
    measured = pd.Series(times | {"between layers": kinds["between layers"]["ms"]}).reindex(work.index)
    amounts = work.to_numpy(np.float64)
    scale = amounts.max(axis=0)  # so that large counts and small ones weigh alike in the arithmetic
    ns = pd.Series(nnls(amounts / scale, 1e6 * measured.to_numpy(np.float64))[0] / scale, work.columns)

    fitted = pd.DataFrame({"measured_ms": measured, "estimated_ms": _milliseconds(work, ns)})
    whole = {name: ms for name, ms in _packed_times(networks).items() if name != _TIMED}
    held_out = pd.DataFrame({"measured_ms": whole}).rename_axis("network")
    held_out["estimated_ms"] = [_milliseconds(latency_work(VARIANTS[name]), ns).sum() for name in whole]
    held_out["error"] = 100 * (held_out.estimated_ms / held_out.measured_ms - 1)
    return LatencyModel(_machine(networks), ns, fitted, held_out)


def _milliseconds(work: pd.DataFrame, ns: pd.Series) -> pd.Series:
    return (work @ ns / 1e6).rename("ms")


def _single(networks: Mapping[str, Any]) -> Mapping[str, Any]:
    """The run of one image on one thread."""
    run: Mapping[str, Any] = next(run for run in networks["runs"] if (run["batch"], run["threads"]) == (1, 1))
    return run


def _packed_times(networks: Mapping[str, Any]) -> dict[str, float]:
    """Median milliseconds of one image on one thread by variant, on the instruction set that users get."""
    return {row["network"]: row["median_ms"] for row in _single(networks)["rows"] if row["runtime"] == "engine"}


def _machine(document: Mapping[str, Any]) -> str:
    return f"{document['machine']['cpu']}, {document['isa']}, 1 thread"


def _totals(cost: NetworkCost) -> dict[str, float]:
    return {
        "bops": cost.bops,
        **{f"flops_{convention}": flops for convention, flops in cost.flops.items()},
        **{f"ops_{convention}": ops for convention, ops in cost.ops.items()},
        "params": cost.params,
        "binary_params": cost.binary_params,
        "megabytes": cost.bits / 8e6,
    }
