"""Whole networks: packed, the same in float, and ResNet-18 and MobileNetV2 in float32 and int8.

At 224 pixels, one image and, for BCDNet-A and the two others, 32 at once, on 1 and 2 threads. Whatever is compared
takes turns in one process. Weights are random, which changes no time; every runtime is checked against torch before it
is timed.

    python -m benchmarks.networks [--quick] [--output FILE]
"""

import argparse
import gc
import importlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bcdnet import kernels
from bcdnet.bench import (
    PEERS,
    Agreement,
    BinaryShape,
    Disagreement,
    Run,
    Runtime,
    Timing,
    binary_shapes,
    export_onnx,
    float_network,
    float_runtimes,
    interleave,
    layer_medians,
    lively_network,
    machine,
    onnxruntime_runtime,
    openvino_runtime,
    random_images,
    relative_differences,
    require,
    seconds,
    torch_threads,
    verify,
)
from bcdnet.cost import network_cost
from bcdnet.engine import pack
from bcdnet.files import write_atomically
from bcdnet.model import Network
from bcdnet.variants import get_config
from benchmarks.layers import product

RESULT = Path(__file__).parent / "results" / "networks.json"
SIZE = (224, 224)
OURS = ("bcdnet_a", "bcdnet_b", "reactnet_a", "bcdnet_a_18")
OTHERS = ("resnet_18", "mobilenet_v2")

#: Median relative difference to torch that a float32 network of smooth layers may have.
SMOOTH = 1e-4
#: Cosine with torch's float32 logits that an int8 network must have at least.
QUANTIZED = 0.9


class Logits(nn.Module):
    """A classifier of transformers as a function from images to logits."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 1000)."""
        return self.classifier(pixel_values=x).logits


def other_network(name: str) -> nn.Module:
    """ResNet-18 or MobileNetV2 for 1000 classes as transformers defines them, random weights, in eval mode.

    Batch norms know the statistics of two random images, so that no activation vanishes or grows without bound.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = require("transformers")
    torch.manual_seed(0)
    if name == "resnet_18":
        sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
        config = transformers.ResNetConfig(embedding_size=64, num_labels=1000, **sizes)
        network = Logits(transformers.ResNetForImageClassification(config))
    else:
        # Padding in the convolutions, as published for torch: TensorFlow's asymmetric one costs operators of its own.
        config = transformers.MobileNetV2Config(num_labels=1000, tf_padding=False)
        network = Logits(transformers.MobileNetV2ForImageClassification(config))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(2, 3, *SIZE))
    return network.eval().requires_grad_(False)


def quantize(onnx: bytes, batches: Iterable[Tensor]) -> bytes:
    """A model in int8 by static quantization: weights per output channel, activations calibrated on ``batches``."""
    require("onnxruntime")
    q = importlib.import_module("onnxruntime.quantization")
    shape_inference = importlib.import_module("onnxruntime.quantization.shape_inference")

    class Calibration(q.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self, name: str) -> None:
            self.feeds = iter({name: batch.numpy()} for batch in batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        source, folded, result = (Path(folder) / f"{name}.onnx" for name in ("source", "folded", "result"))
        source.write_bytes(onnx)
        shape_inference.quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        name = require("onnx").load(folded).graph.input[0].name
        q.quantize_static(
            str(folded),
            str(result),
            Calibration(name),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )
        return result.read_bytes()


def check_smooth(name: str, run: Run, reference: Run, images: Tensor) -> dict[str, float]:
    """Compare a float32 network with torch; Disagreement if the median relative difference exceeds SMOOTH."""
    worst = max(relative_differences(run(images), reference(images)))
    if not worst <= SMOOTH:
        raise Disagreement(f"{name} differs from torch by {worst:.1e}, more than {SMOOTH:.0e}.")
    return {"worst": worst}


def check_quantized(name: str, run: Run, reference: Run, images: Tensor) -> dict[str, float]:
    """Compare an int8 network with torch in float32; Disagreement if a cosine of logits is below QUANTIZED."""
    cosine = float(torch.cosine_similarity(run(images), reference(images)).min())
    if not cosine >= QUANTIZED:
        raise Disagreement(f"{name} in int8 has logits of cosine {cosine:.3f} with float32, less than {QUANTIZED}.")
    return {"cosine": cosine}


class Entry:
    """One thing to time: a network in a format through a runtime."""

    def __init__(self, network: str, format_: str, runtime: Runtime, agreement: Mapping[str, float]) -> None:
        self.network, self.format, self.runtime, self.agreement = network, format_, runtime, agreement

    def row(self, timing: Timing, batch: int, threads: int) -> dict[str, Any]:
        """As the result file has it; times are for the whole batch."""
        facts: dict[str, Any] = {"network": self.network, "format": self.format, "runtime": self.runtime.name}
        facts |= {"detail": self.runtime.detail, "batch": batch, "threads": threads, "agreement": self.agreement}
        return facts | {f"{key}_ms" if key != "runs" else key: value for key, value in asdict(timing).items()}


class Study:
    """Networks are made once; runtimes for each batch and number of threads."""

    def __init__(self, compiled: Iterable[str]) -> None:
        self.compiled = set(compiled)
        self.ours: dict[str, Network] = {}
        self.exported: dict[tuple[str, str, int], bytes] = {}
        self.others: dict[str, nn.Module] = {}

    def our_network(self, name: str) -> Network:
        """One of OURS."""
        if name not in self.ours:
            self.ours[name] = lively_network(get_config(name))
        return self.ours[name]

    def our_entries(self, name: str, batch: int, threads: int) -> list[Entry]:
        """The packed engine and the float runtimes of one of OURS, verified."""
        model = self.our_network(name)
        reference, engine = float_network(model), pack(model, threads)
        images = random_images(model.config, SIZE, batch)
        runtimes = [Runtime("engine", engine.isa, engine)]
        if name == OURS[0]:
            runtimes += self.other_sets(model, threads, engine.isa)
        runtimes += float_runtimes(reference, images[:batch], threads, PEERS, name in self.compiled)
        entries = []
        for runtime in runtimes:
            agreement: Agreement = verify(f"{runtime.name} with {name}", runtime.run, reference, images, batch)
            kind = "packed" if runtime.name.startswith("engine") else "float"
            entries.append(Entry(name, kind, runtime, asdict(agreement)))
        return entries

    def other_sets(self, model: Network, threads: int, best: str) -> list[Runtime]:
        """The packed engine on the compiled instruction sets that are not the ``best``."""
        found = []
        for isa in kernels.isas():
            if isa not in (best, kernels.REFERENCE):
                with kernels.use_isa(isa):
                    found.append(Runtime(f"engine on {isa}", isa, pack(model, threads)))
        return found

    def other_entries(self, name: str, batch: int, threads: int) -> list[Entry]:
        """ResNet-18 or MobileNetV2 in float32 and int8 through ONNX Runtime and OpenVINO, verified."""
        if name not in self.others:
            self.others[name] = other_network(name)
        network = self.others[name]
        images = torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(1))
        key = (name, "fp32", batch)
        if key not in self.exported:
            self.exported[key] = export_onnx(network, images)
            calibration = torch.randn(max(batch, 8), 3, *SIZE, generator=torch.Generator().manual_seed(3))
            self.exported[name, "int8", batch] = quantize(self.exported[key], calibration.split(batch))
        entries = []
        checks: dict[str, Callable[..., dict[str, float]]] = {"fp32": check_smooth, "int8": check_quantized}
        for format_, check in checks.items():
            onnx = self.exported[name, format_, batch]
            for make in (onnxruntime_runtime, openvino_runtime):
                runtime = make(onnx, threads, "int8" if format_ == "int8" else "")
                agreement = check(f"{runtime.name} with {name}", runtime.run, network, images)
                entries.append(Entry(name, format_, runtime, agreement))
        return entries


def time_entries(entries: Sequence[Entry], batch: int, threads: int, budget: float) -> list[dict[str, Any]]:
    """Time what is given, in turns."""
    images = torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    calls = {
        f"{entry.network} {entry.format} {entry.runtime.name}": (lambda run=entry.runtime.run: run(images))
        for entry in entries
    }
    timings = interleave(calls, budget)
    return [entry.row(timing, batch, threads) for entry, timing in zip(entries, timings.values(), strict=True)]


def packed(rows: Iterable[Mapping[str, Any]], network: str) -> Mapping[str, Any]:
    """The row of the engine on the instruction set that users get."""
    return next(r for r in rows if (r["network"], r["runtime"]) == (network, "engine"))


def fastest(rows: Iterable[Mapping[str, Any]], network: str, format_: str) -> Mapping[str, Any]:
    """The row of the runtime with the least median."""
    return min((r for r in rows if (r["network"], r["format"]) == (network, format_)), key=lambda row: row["median_ms"])


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many times faster the packed networks are than the fastest of the same in float, and bcdnet_a than others.

    ``rows`` are of one batch and number of threads; at least one of OURS is there.
    """
    there = {(row["network"], row["format"]) for row in rows}
    found: dict[str, Any] = {}
    for name in OURS:
        if (name, "packed") in there:
            ours, theirs = packed(rows, name), fastest(rows, name, "float")
            found[f"{name} against float"] = {
                "packed_ms": ours["median_ms"],
                "fastest": theirs["runtime"],
                "fastest_ms": theirs["median_ms"],
                "ratio": theirs["median_ms"] / ours["median_ms"],
            }
    for name in OTHERS:
        for format_ in ("fp32", "int8"):
            if (name, format_) in there:
                ours, theirs = packed(rows, "bcdnet_a"), fastest(rows, name, format_)
                found[f"bcdnet_a against {name} {format_}"] = {
                    "packed_ms": ours["median_ms"],
                    "fastest": theirs["runtime"],
                    "fastest_ms": theirs["median_ms"],
                    "ratio": theirs["median_ms"] / ours["median_ms"],
                }
    return found


def ceilings() -> dict[str, float]:
    """What one core does at best, in billions of multiply-accumulates a second: binary by our kernel on products that
    are large and regular, float32 by torch's matrix product."""
    best = 0.0
    for shape in (
        BinaryShape(512, 512, 3, 1, 14, 14),
        BinaryShape(1024, 1024, 3, 1, 14, 14),
        BinaryShape(1024, 1024, 1, 1, 28, 28),
    ):
        multiply = product(shape, 1)
        bits = kernels.pack_signs(torch.randn(1, shape.inputs, shape.height, shape.width), torch.zeros(shape.inputs))
        best = max(best, shape.macs / _quickest(multiply, bits) / 1e9)
    with torch_threads(1):
        a, b = torch.randn(768, 768), torch.randn(768, 768)
        real = 768**3 / _quickest(torch.mm, a, b) / 1e9
    return {"binary_gmacs": best, "float32_gmacs": real}


def _quickest(call: Callable[..., object], *operands: object) -> float:
    return min(seconds(lambda: call(*operands)) for _ in range(30))


def breakdown(model: Network, threads: int, ceiling: Mapping[str, float]) -> dict[str, Any]:
    """Where the engine's time for one image goes, beside the floor: every operation at the ceiling on every core.

    Returns:
        ``whole_ms``, ``floor_ms``, and for each kind of layer its milliseconds and its own floor; "between layers" is
        what the whole takes beyond its layers.
    """
    config = model.config
    engine = pack(model, threads)
    image = torch.randn(1, config.in_channels, *SIZE, generator=torch.Generator().manual_seed(1))
    shapes = binary_shapes(model, SIZE)
    binary: dict[str, int] = defaultdict(int)
    real: dict[str, int] = defaultdict(int)
    for cost in network_cost(config, SIZE).layers:
        name = cost.name.removeprefix("units.").split(".")[0]
        kind = _kind("head" if name in ("fc", "fc_dist") else name, shapes)
        binary[kind] += cost.bops
        real[kind] += cost.macs
    traces = []
    calls = {"whole": lambda: engine(image), "traced": lambda: traces.append(engine.trace(image, values=False))}
    whole_ms = interleave(calls, budget=4)["whole"].median
    times: dict[str, float] = defaultdict(float)
    for layer in layer_medians(traces):
        times[_kind(layer["name"], shapes)] += layer["ms"]
    rows = {}
    for kind, ms in times.items():
        floor = binary[kind] / ceiling["binary_gmacs"] + real[kind] / ceiling["float32_gmacs"]
        rows[kind] = {"ms": ms, "floor_ms": floor / threads / 1e6}
    rows["between layers"] = {"ms": whole_ms - sum(times.values()), "floor_ms": 0.0}
    floor_ms = sum(row["floor_ms"] for row in rows.values())
    return {"network": config.name, "threads": threads, "whole_ms": whole_ms, "floor_ms": floor_ms, "kinds": rows}


def _kind(layer: str, shapes: Mapping[str, BinaryShape]) -> str:
    if layer not in shapes:
        return layer if layer in ("stem", "head") else "real units"
    shape = shapes[layer]
    if shape.branches > 1:
        return "binary MLP"
    return f"binary {shape.kernel}x{shape.kernel}" + (" stride 2" if shape.stride == 2 else "")


def main() -> None:
    """Time everything; write the result file."""
    parser = argparse.ArgumentParser(description="Time whole networks, packed and not.")
    parser.add_argument("--quick", action="store_true", help="bcdnet_a and the other two, batch 1, no torch.compile")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file to write")
    arguments = parser.parse_args()
    cores = machine()["cores"] or 1
    batches = (1,) if arguments.quick else (1, 32)
    ours = OURS[:1] if arguments.quick else OURS
    study = Study(() if arguments.quick else ("bcdnet_a",))
    document: dict[str, Any] = {"machine": machine(), "quick": arguments.quick, "isa": kernels.active(), "runs": []}
    document["ceilings"] = ceilings()
    for threads in sorted({1, min(2, cores)}):
        for batch in batches:
            rows: list[dict[str, Any]] = []
            with torch_threads(threads), torch.no_grad():
                # A large batch tells how the engine scales, for which one network serves.
                for name in ours if batch == 1 else ours[:1]:
                    print(f"batch {batch}, threads {threads}: {name}", file=sys.stderr)
                    entries = study.our_entries(name, batch, threads)
                    if name == "bcdnet_a":
                        entries += [entry for other in OTHERS for entry in study.other_entries(other, batch, threads)]
                    rows += time_entries(entries, batch, threads, 10 if arguments.quick else 15)
                    del entries
                    gc.collect()
                run: dict[str, Any] = {"batch": batch, "threads": threads, "load": machine()["load"]}
                run |= {"rows": rows, "ratios": ratios(rows)}
                if batch == 1:
                    run["breakdown"] = breakdown(study.our_network("bcdnet_a"), threads, document["ceilings"])
            document["runs"].append(run)
            # After each part, because the whole takes long.
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(arguments.output, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    for run in document["runs"]:
        print(f"batch {run['batch']}, {run['threads']} thread(s)")
        for name, ratio in run["ratios"].items():
            print(f"  {name}: {ratio['packed_ms']:.2f} ms, {ratio['ratio']:.1f} times ({ratio['fastest']})")


if __name__ == "__main__":
    main()
