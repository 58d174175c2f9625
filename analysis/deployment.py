"""The deployment twin: one image through the float graph and through the packed engine, layer by layer.

Both compute the same network and add in another order. Where a value comes within float rounding of its threshold the
two may decide for different bits, and one such bit moves what follows, so that far more may differ later on. Therefore
two comparisons are kept apart: *end to end*, each graph on its own values; and *given the same input*, where every
float layer works on the values and the bits that the engine's has, so that nothing but the rounding of this one layer
can turn a bit of the next.

An engine rounds the matrices of context embeddings to float16. A float graph whose matrices are rounded alike
(:func:`with_stored_matrices`) tells what that does from what adding in another order does.
"""

import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcdnet.bench import float_network, interleave, torch_threads
from bcdnet.engine import Engine, LayerTrace, PackError, describe_units, pack
from bcdnet.evaluate import evaluating
from bcdnet.layers import BinaryConv2d, BinaryMLP, ResidualUnit
from bcdnet.model import Network

#: A differing bit is rounding if it lies this close to its threshold, in standard deviations of its layer's distances.
ROUNDING = 1e-5

#: Names of what is timed -> what it is.
RUNTIMES = {
    "simulation": "float simulation",
    "float": "float, weights binarized once",
    "packed": "packed engine",
}


@dataclass(frozen=True)
class Twin:
    """One image through both graphs.

    Attributes:
        layers: one row for the stem, every unit and the head, see :func:`twin`.
        float_logits, packed_logits: float64 (classes,).
        differ_stored: bits that differ, end to end, from a float graph with the engine's rounded matrices; None where
            rounding changes nothing.
    """

    layers: pd.DataFrame
    float_logits: NDArray[np.float64]
    packed_logits: NDArray[np.float64]
    differ_stored: int | None


@dataclass(frozen=True)
class LayerMaps:
    """One layer of both graphs, end to end: outputs float32 (C, H, W); the bits of its input, uint8 (C_in, H_in, W_in),
    1 for +1, None where the layer is real."""

    float_output: NDArray[np.float32]
    packed_output: NDArray[np.float32]
    float_bits: NDArray[np.uint8] | None
    packed_bits: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Latency:
    """Median time of one image on this machine, in milliseconds; ``packed_ms`` is None, and ``why`` a sentence, if the
    network cannot be packed. ``runs`` are those of the float network, ``packed_runs`` those of the engine."""

    float_ms: float
    runs: int
    packed_ms: float | None
    packed_runs: int
    isa: str
    threads: int
    why: str = ""

    @property
    def deployed_ms(self) -> float:
        """As it would be deployed: packed if it can be."""
        return self.float_ms if self.packed_ms is None else self.packed_ms


def twin(model: Network, engine: Engine, x: Tensor) -> Twin:
    """Compare the float graph of a network with its packed engine on one image.

    Args:
        model: the network as it was trained; run in eval mode, left in its own.
        engine: packed from it.
        x: normalised image (1, C, H, W).

    Returns:
        ``layers`` has the columns ``layer``; ``kind`` ("stem", "conv", "mlp", "real" or "head"); ``bits`` of its input,
        0 where it is real; ``differ``, how many of them differ end to end, which is the sum of ``turned`` (turned by
        rounding: they differ given the same input, or no bit of a layer before differs), ``matrices`` (the same, but
        not with the engine's matrices) and ``carried`` (follow from bits that differ before). In standard deviations
        of the layer's distances ``x - threshold``: ``distance`` and ``matrix_distance``, the largest of a bit turned by
        rounding and by the matrices, NaN if none is; ``nearest``, the smallest of any bit; ``rounding``, the largest
        difference of the two graphs given the same input: below ``nearest``, it can turn no bit;
        ``matrix_rounding``, the same with matrices as trained, NaN without embeddings. ``output_difference``,
        ``output_rounding``: largest absolute difference of the layer's output (the head's are the logits) end to end
        and given the same input.

    Raises:
        InputError: more than one image, or one that the network does not take.
    """
    trace = {layer.name: layer for layer in engine.trace(x)}
    stored = with_stored_matrices(model)
    with evaluating(model), torch.no_grad():
        outputs, logits = _record(model, x)
        stored_outputs = outputs if stored is model else _record(stored, x)[0]
        packed_logits = engine(x)
        alike = _given_the_same_input(stored, trace, x)
        trained = alike if stored is model else _given_the_same_input(model, trace, x)
        rows = [_row("stem", "stem", outputs["stem"], trace["stem"], alike.outputs["stem"])]
        before, clean, differ_stored = "stem", True, 0
        stored_units = dict(stored.residual_units())
        for name, unit in model.residual_units():
            row = _row(name, _kind(unit), outputs[name], trace[name], alike.outputs[name])
            if unit.sign is not None:
                margins = _Margins(
                    _engine_margin(trace, before, name),
                    _margin(unit, outputs[before]),
                    _margin(stored_units[name], stored_outputs[before]),
                    alike.margins[name],
                    trained.margins[name],
                )
                counted = _count(_bits(trace[name]), margins, clean)
                row |= counted
                clean = clean and counted["differ"] == 0
                differ_stored += int(((margins.stored >= 0) != _bits(trace[name])).sum())
            rows.append(row)
            before = name
        last = trace[before].output
        assert last is not None
        same = _head(stored, last[None])
    head = {
        "layer": "head",
        "kind": "head",
        "output_difference": float((logits - packed_logits).abs().max()),
        "output_rounding": float((same - packed_logits).abs().max()),
    }
    table = pd.DataFrame([*rows, head], columns=_COLUMNS)
    counts = ["bits", "differ", "turned", "matrices", "carried"]
    table[counts] = table[counts].fillna(0).astype(int)
    if stored is model:
        table["matrix_rounding"] = np.nan
    ours, packed = (values[0].double().numpy() for values in (logits, packed_logits))
    return Twin(table, ours, packed, None if stored is model else differ_stored)


@dataclass(frozen=True)
class _Margins:
    """``x - threshold`` of one layer, float64 (C, H, W): of the engine; end to end, of the float graph and of the one
    with the engine's matrices; given the same input, with the engine's matrices and as trained."""

    engine: Tensor
    own: Tensor
    stored: Tensor
    same: Tensor
    trained: Tensor


def _count(bits: Tensor, margins: _Margins, clean: bool) -> dict[str, float]:
    """A layer's columns of :func:`twin` that are about bits; ``clean`` if no bit of a layer before differs."""
    spread = float(margins.same.std(correction=0)) or 1.0
    differ, turned = (margins.own >= 0) != bits, (margins.same >= 0) != bits
    matrices = ((margins.trained >= 0) != bits) & ~turned
    # While no bit before differed there is none to follow from: small differences of several layers have added up.
    added = differ & ~turned & ~matrices if clean else torch.zeros_like(differ)
    by_rounding = added & ((margins.stored >= 0) != bits)
    by_matrices = added & ~by_rounding
    return {
        "bits": bits.numel(),
        "differ": int(differ.sum()),
        "turned": int((differ & turned | by_rounding).sum()),
        "matrices": int((differ & matrices | by_matrices).sum()),
        "carried": int((differ & ~turned & ~matrices & ~added).sum()),
        "distance": _largest(margins.same[turned], margins.own[by_rounding]) / spread,
        "matrix_distance": _largest(margins.trained[matrices], margins.own[by_matrices]) / spread,
        "nearest": float(margins.same.abs().min()) / spread,
        "rounding": float((margins.same - margins.engine).abs().max()) / spread,
        "matrix_rounding": float((margins.trained - margins.engine).abs().max()) / spread,
    }


_COLUMNS = [
    *("layer", "kind", "bits", "differ", "turned", "matrices", "carried"),
    *("distance", "matrix_distance", "nearest", "rounding", "matrix_rounding", "output_difference", "output_rounding"),
]


def layer_maps(model: Network, engine: Engine, x: Tensor, layer: str) -> LayerMaps:
    """The maps of one layer, "stem" or a unit, in both graphs, end to end.

    Raises:
        ValueError: there is no such layer.
        InputError: as for :func:`twin`.
    """
    names = ["stem", *(name for name, _ in model.residual_units())]
    if layer not in names:
        raise ValueError(f"there is no layer {layer!r}; use one of {', '.join(names)}.")
    trace = {step.name: step for step in engine.trace(x)}
    unit = dict(model.residual_units()).get(layer)
    with evaluating(model), torch.no_grad():
        outputs, _ = _record(model, x)
        bits = packed_bits = None
        if unit is not None and unit.sign is not None:
            bits = (_margin(unit, outputs[names[names.index(layer) - 1]]) >= 0).byte().numpy()
            packed_bits = _bits(trace[layer]).byte().numpy()
    packed = trace[layer].output
    assert packed is not None
    return LayerMaps(outputs[layer][0].numpy(), packed.numpy(), bits, packed_bits)


def with_stored_matrices(model: Network) -> Network:
    """The float graph with the matrices of its context embeddings rounded as an engine stores them.

    The network itself if it has none, or if they hold such values already, as those of this project's training do.
    """
    rounded = copy.deepcopy(model).eval()
    rounded.round_embeddings()
    same = zip(model.parameters(), rounded.parameters(), strict=True)
    return model if all(torch.equal(before, after) for before, after in same) else rounded


def packable(model: Network) -> str:
    """Why a network cannot be packed, in one sentence; empty if it can."""
    try:
        describe_units(model)
    except PackError as error:
        return str(error)
    return ""


def packed_file(engine: Engine) -> bytes:
    """The packed file, as :meth:`bcdnet.engine.Engine.save` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.safetensors"
        engine.save(path)
        return path.read_bytes()


def file_parts(model: Network, engine: Engine, checkpoint_bytes: int, packed_bytes: int) -> pd.DataFrame:
    """What the checkpoint and the packed file of a network hold.

    Args:
        model: the network; engine: packed from it.
        checkpoint_bytes, packed_bytes: sizes of the two files.

    Returns:
        Columns ``file`` ("checkpoint" or "packed"), ``part`` ("binary" weights, "real" numbers at 32 bits, "half": at
        16, "rest": names, configuration, card), ``bytes``.
    """
    state = {name: tensor.nbytes for name, tensor in model.state_dict().items()}
    latent = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, BinaryConv2d)}
    binary = sum(size for name, size in state.items() if name in latent)
    rows = [("checkpoint", "binary", binary), ("checkpoint", "real", sum(state.values()) - binary)]
    rows.append(("checkpoint", "rest", checkpoint_bytes - sum(state.values())))
    held = dict.fromkeys(("binary", "real", "half"), 0)
    for tensor in engine.parameters().values():
        held[{torch.uint8: "binary", torch.float16: "half"}.get(tensor.dtype, "real")] += tensor.nbytes
    rows += [("packed", part, size) for part, size in held.items()]
    rows.append(("packed", "rest", packed_bytes - sum(held.values())))
    return pd.DataFrame(rows, columns=["file", "part", "bytes"])


def layer_times(model: Network, engine: Engine, x: Tensor, budget: float = 0.4) -> pd.DataFrame:
    """Time of every layer of both graphs for one image, in turns.

    The float network's weights are binarized once, before (:func:`bcdnet.bench.float_network`), and it runs on the
    engine's number of threads. Reading the clock after each layer costs it less than a microsecond.

    Args:
        model: the network, left as it is; engine: packed from it.
        x: normalised image (1, C, H, W).
        budget: seconds to spend; five rounds at least.

    Returns:
        Columns ``layer`` (stem, units, head), ``float_ms``, ``packed_ms`` (medians); ``attrs["runs"]`` says of how many
        rounds.
    """
    network = float_network(model)
    names = ["stem", *(name for name, _ in network.residual_units()), "head"]
    floats: list[NDArray[np.float64]] = []
    packed: list[list[float]] = []
    with torch_threads(engine.threads), torch.no_grad(), _clocked(network) as marks:
        for _ in range(2):  # the first calls make room in memory
            network(x)
            engine.trace(x, values=False)
        start = time.perf_counter()
        while len(floats) < 5 or (time.perf_counter() - start < budget and len(floats) < 200):
            marks.clear()
            network(x)
            floats.append(np.diff(marks))
            packed.append([layer.seconds for layer in engine.trace(x, values=False)])
    table = pd.DataFrame(
        {"layer": names, "float_ms": 1e3 * np.median(floats, axis=0), "packed_ms": 1e3 * np.median(packed, axis=0)}
    )
    table.attrs["runs"] = len(floats)
    return table


def latency(model: Network, x: Tensor, threads: int = 1, budget: float = 0.3) -> Latency:
    """Time one network for the images ``x``, in float and, where it can be, packed, in turns.

    Args:
        model: any network, left as it is.
        x: normalised images (N, C, H, W).
        threads: for both.
        budget: seconds to spend; five rounds at least.
    """
    why = packable(model)
    network = copy.deepcopy(model).eval() if why else float_network(model)
    calls = {"float": lambda: network(x)}
    engine = None if why else pack(model, threads)
    if engine is not None:
        calls["packed"] = lambda: engine(x)
    with torch_threads(threads), torch.no_grad():
        for call in calls.values():
            call()
        times = interleave(calls, budget)
    packed = times.get("packed")
    return Latency(
        times["float"].median,
        times["float"].runs,
        None if packed is None else packed.median,
        0 if packed is None else packed.runs,
        "" if engine is None else engine.isa,
        threads,
        why,
    )


def speed(model: Network, x: Tensor, threads: int, budget: float = 2.0) -> pd.DataFrame:
    """Time a 1/1 network in three ways, in turns, on a number of threads.

    Args:
        model: the network, left as it is.
        x: normalised images (N, C, H, W), all at once.
        threads: for all three.
        budget: seconds to spend; five rounds at least.

    Returns:
        A row for each of :data:`RUNTIMES`: ``threads``, ``runtime``, ``median``, ``p10``, ``p90`` (milliseconds),
        ``runs``, ``times_faster`` (than "float": below 1, slower).

    Raises:
        PackError: the network cannot be packed.
    """
    simulation, network, engine = copy.deepcopy(model).eval(), float_network(model), pack(model, threads)
    calls = {"simulation": lambda: simulation(x), "float": lambda: network(x), "packed": lambda: engine(x)}
    with torch_threads(threads), torch.no_grad():
        for call in calls.values():
            call()
        times = interleave(calls, budget)
    table = pd.DataFrame([{"threads": threads, "runtime": name, **asdict(timing)} for name, timing in times.items()])
    return table.assign(times_faster=times["float"].median / table["median"])


def thread_counts(cores: int) -> list[int]:
    """Numbers of threads worth trying: each up to four, then powers of two, and all cores."""
    return [n for n in range(1, cores + 1) if n <= 4 or n & (n - 1) == 0 or n == cores]


@dataclass(frozen=True)
class _SameInput:
    outputs: dict[str, Tensor]
    margins: dict[str, Tensor]


def _given_the_same_input(model: Network, trace: dict[str, LayerTrace], x: Tensor) -> _SameInput:
    """Outputs (1, C, H, W) of every float layer on the engine's input and bits, and the distances of the bits that the
    next layer makes of them, float64 (C, H, W)."""
    seen = _SameInput({"stem": model.stem(x)}, {})
    before = "stem"
    for name, unit in model.residual_units():
        if unit.sign is not None:
            seen.margins[name] = _margin(unit, seen.outputs[before])
        given = trace[before].output
        assert given is not None
        with _engine_bits(unit, trace[name]):
            seen.outputs[name] = unit(given[None])
        before = name
    return seen


def _margin(unit: ResidualUnit, x: Tensor) -> Tensor:
    """``x - threshold`` of a unit's sign in double precision, (1, C, H, W) -> (C, H, W): >= 0 where the bit is 1.

    The threshold itself is the float graph's, rounded as there, so that the sign is that of its own sum.
    """
    assert unit.sign is not None
    shift = unit.sign.bias[None]
    if unit.embedding is not None:
        shift = shift - unit.embedding(x)[0]
    return (x.double() + shift.double()[..., None, None])[0]


def _engine_margin(trace: dict[str, LayerTrace], before: str, name: str) -> Tensor:
    given, thresholds = trace[before].output, trace[name].thresholds
    assert given is not None and thresholds is not None
    return given.double() - thresholds.double()[:, None, None]


def _largest(*distances: Tensor) -> float:
    found = torch.cat(distances)
    return float(found.abs().max()) if len(found) else np.nan


def _bits(layer: LayerTrace) -> Tensor:
    assert layer.bits is not None
    return layer.bits.bool()


def _row(name: str, kind: str, output: Tensor, traced: LayerTrace, same: Tensor) -> dict[str, str | int | float]:
    assert traced.output is not None
    return {
        "layer": name,
        "kind": kind,
        "output_difference": float((output[0] - traced.output).abs().max()),
        "output_rounding": float((same[0] - traced.output).abs().max()),
    }


def _kind(unit: ResidualUnit) -> str:
    return "real" if unit.sign is None else "mlp" if isinstance(unit.op, BinaryMLP) else "conv"


def _head(model: Network, x: Tensor) -> Tensor:
    features = model.pool(x).flatten(1)
    logits = model.fc(features)
    return logits if model.fc_dist is None else (logits + model.fc_dist(features)) / 2


def _record(model: Network, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs (1, C, H, W) of the stem and every unit in one forward pass, and the logits."""
    with _hooked_outputs(model) as outputs:
        logits = model(x)
    return outputs, logits


@contextmanager
def _hooked_outputs(model: Network) -> Iterator[dict[str, Tensor]]:
    outputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: outputs.__setitem__(name, output))
        for name, module in [("stem", model.stem), *model.residual_units()]
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _engine_bits(unit: ResidualUnit, layer: LayerTrace) -> Iterator[None]:
    """Let a float unit work on the engine's bits, not on those that its own sign decides for."""
    if unit.sign is None:
        yield
        return
    signs = _bits(layer).float().mul(2).sub(1)[None]
    handle = unit.sign.register_forward_hook(lambda *_: signs)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _clocked(model: Network) -> Iterator[list[float]]:
    """The time at the start of a forward pass, after the stem, after each unit and at the end."""
    marks: list[float] = []

    def note(*_: object) -> None:
        marks.append(time.perf_counter())

    modules: Sequence[torch.nn.Module] = [model.stem, *(unit for _, unit in model.residual_units()), model]
    handles = [model.register_forward_pre_hook(note), *(module.register_forward_hook(note) for module in modules)]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()
