"""The kernels alone: billions of binary multiply-accumulates a second, beside OpenVINO's BinaryConvolution.

For every instruction set of this machine a process of its own, with OpenVINO held to the same set; every product of
BCDNet-A at 224 pixels on one core, and how the cost goes with channels, map, batch and threads. Each result is compared
with the reference, exactly, before it is timed.

    python -m benchmarks.layers [--quick] [--output FILE]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bcdnet import kernels
from bcdnet.bench import (
    BinaryShape,
    Disagreement,
    OpenVinoBinary,
    binary_shapes,
    expected_sums,
    interleave,
    lively_network,
    machine,
    torch_threads,
)
from bcdnet.engine import pack
from bcdnet.files import write_atomically
from bcdnet.kernels import reference
from bcdnet.variants import get_config

RESULT = Path(__file__).parent / "results" / "layers.json"
SIZE = (224, 224)

#: The two products that every network of the family spends most of its time in.
REQUIRED = {
    "3x3 512->512 at 14x14": BinaryShape(512, 512, 3, 1, 14, 14),
    "1x1 1024->1024 at 7x7": BinaryShape(1024, 1024, 1, 1, 7, 7),
}
#: What OpenVINO's environment variable ONEDNN_MAX_CPU_ISA calls our instruction sets.
ONEDNN = {"avx512": "DEFAULT", "avx2": "AVX2"}
BRANCHES = {1: "", 3: "PSL"}


def product(shape: BinaryShape, threads: int) -> kernels.Product:
    """The shape's random weights, ready for the instruction set in force."""
    weights = shape.weights()  # (branches, outputs, inputs, k, k)
    taps = weights.reshape(shape.branches, shape.outputs, shape.inputs, -1).transpose(0, 1, 3, 2)
    packed = torch.from_numpy(np.packbits(taps, axis=-1, bitorder="little"))
    branches = BRANCHES[shape.branches]
    return kernels.Product(
        packed[:, :, 0] if branches else packed[0], shape.inputs, shape.stride, branches, threads=threads
    )


def measure(
    shape: BinaryShape,
    batch: int = 1,
    threads: int = 1,
    openvino: bool = True,
    unit: Callable[[], float] | None = None,
    budget: float = 0.6,
) -> dict[str, Any]:
    """Verify and time one product: bits to whole numbers by our kernel, signs to sums by OpenVINO's.

    Args:
        shape: the product.
        batch, threads: images at once, and cores.
        openvino: time its BinaryConvolution too.
        unit: runs an engine that has the product in it, and returns the seconds its whole unit took.
        budget: seconds to spend on timing.

    Returns:
        The shape, ``macs`` for the batch; medians in milliseconds: ``kernel_ms`` (bits in, integers out), ``op_ms``
        (float map in: packing included), ``unit_ms`` (in the engine: bits in; batch norm, shortcut, RPReLU and the next
        unit's bits included), and OpenVINO's kernel, whose time comes from its profile, and op; ``gmacs`` a second for
        each.
    """
    x = torch.randn(batch, shape.inputs, shape.height, shape.width, generator=torch.Generator().manual_seed(2))
    zeros = torch.zeros(shape.inputs)
    bits, ours = kernels.pack_signs(x, zeros), product(shape, threads)
    branches = BRANCHES[shape.branches]
    if branches:
        want = reference.binary_mlp(bits, ours.weight, branches, shape.inputs)
    else:
        want = reference.binary_conv2d(bits, ours.weight, shape.inputs, shape.stride)
    out = torch.empty_like(want)
    if not torch.equal(ours(bits, out), want):
        raise Disagreement(f"the {ours.isa} kernel gives wrong sums for {shape}.")
    calls: dict[str, Any] = {
        "kernel": lambda: ours(bits, out),
        "op": lambda: ours(kernels.pack_signs(x, zeros), out),
    }
    profiled: list[float] = []
    units: list[float] = []
    if unit is not None:
        calls["unit"] = lambda: units.append(unit())
    if openvino:
        theirs = OpenVinoBinary(shape, batch, threads)
        if not all(map(torch.equal, theirs(x), expected_sums(shape, x))):
            raise Disagreement(f"OpenVINO's BinaryConvolution gives wrong sums for {shape}.")

        def profile() -> None:
            theirs(x)
            profiled.append(theirs.kernel_seconds())

        profile()
        calls |= {"openvino_op": lambda: theirs(x), "openvino_profile": profile}
    times = {name: timing.median for name, timing in interleave(calls, budget, least=6).items()}
    if units:
        times["unit"] = 1e3 * float(np.median(units))
    if openvino:
        del times["openvino_profile"]
        times["openvino_kernel"] = 1e3 * float(np.median(profiled))
    macs = batch * shape.macs
    row: dict[str, Any] = {"shape": asdict(shape), "batch": batch, "threads": threads, "macs": macs}
    row |= {f"{name}_ms": ms for name, ms in times.items()}
    row["gmacs"] = {name: macs / ms / 1e6 for name, ms in times.items()}
    return row


def study(quick: bool, sweeps: bool, openvino: bool) -> dict[str, Any]:
    """All of it on the instruction set in force."""
    network = lively_network(get_config("bcdnet_a"))
    engine, image = pack(network, threads=1), torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    named: dict[BinaryShape, list[str]] = {}
    for name, shape in binary_shapes(network, SIZE).items():
        named.setdefault(shape, []).append(name)

    def unit_seconds(names: list[str]) -> float:
        return float(np.mean([row.seconds for row in engine.trace(image, values=False) if row.name in names]))

    shapes = list(REQUIRED.values()) if quick else list(named)
    rows = []
    for shape in shapes:
        print(f"{kernels.active()}: {shape}", file=sys.stderr)
        rows.append({"layers": named[shape]} | measure(shape, 1, 1, openvino, partial(unit_seconds, named[shape])))
    document: dict[str, Any] = {"layers": rows, "required": {}}
    for name, shape in REQUIRED.items():
        document["required"][name] = rows[shapes.index(shape)]["gmacs"]
    if openvino:
        document["geometric_mean_ratio"] = {
            name: float(np.exp(np.mean([np.log(row["gmacs"][ours] / row["gmacs"][theirs]) for row in rows])))
            for name, ours, theirs in (
                ("kernel", "kernel", "openvino_kernel"),
                ("op", "op", "openvino_op"),
                ("bits", "kernel", "openvino_op"),
                ("unit", "unit", "openvino_op"),
            )
        }
    if sweeps:
        document["sweeps"] = {}
        for name, shape, batch, threads in sweep():
            row = measure(shape, batch, threads, openvino)
            document["sweeps"].setdefault(name, []).append(row)
    found = [*rows, *(row for sweep_ in document.get("sweeps", {}).values() for row in sweep_ if row["threads"] == 1)]
    document["peak_gmacs"] = max(row["gmacs"]["kernel"] for row in found)
    document["load"] = machine()["load"]
    return document


def sweep() -> Iterator[tuple[str, BinaryShape, int, int]]:
    """(what changes, shape, batch, threads), one thing at a time from 3x3 512->512 at 14x14."""
    start = next(iter(REQUIRED.values()))
    for channels in (64, 128, 256, 512, 1024):
        yield "channels", replace(start, inputs=channels, outputs=channels), 1, 1
    for side in (7, 14, 28, 56):
        yield "map", replace(start, height=side, width=side), 1, 1
    for batch in (1, 2, 4, 8, 16, 32):
        yield "batch", start, batch, 1
    for threads in range(1, (machine()["cores"] or 1) + 1):
        yield "threads", start, 1, threads


def main() -> None:
    """Run a process for each instruction set; write what they found."""
    parser = argparse.ArgumentParser(description="Time the binary kernels, one instruction set after another.")
    parser.add_argument("--quick", action="store_true", help="two products only, no sweeps")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file to write")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    isas = [isa for isa in kernels.isas() if isa != kernels.REFERENCE]
    if arguments.child:
        active = kernels.active()
        with torch_threads(1):
            found = study(arguments.quick, active == isas[0] and not arguments.quick, active in ONEDNN)
        json.dump(found, sys.stdout)
        return
    if not isas:
        raise SystemExit(kernels.describe())
    document: dict[str, Any] = {"machine": machine(), "quick": arguments.quick, "isas": {}}
    for isa in isas:
        environment = os.environ | {"BCDNET_ISA": isa}
        if isa in ONEDNN:
            environment["ONEDNN_MAX_CPU_ISA"] = ONEDNN[isa]
        command = [sys.executable, "-m", "benchmarks.layers", "--child", *(["--quick"] if arguments.quick else [])]
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
        if run.returncode:
            raise SystemExit(f"The study of {isa} failed.")
        document["isas"][isa] = json.loads(run.stdout)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.output, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    for isa, found in document["isas"].items():
        print(isa, found["required"], found.get("geometric_mean_ratio", ""))


if __name__ == "__main__":
    main()
