"""How fast the packed engine is beside the same network in float through torch, ONNX Runtime and OpenVINO.

Every runtime is checked first, on the images that it is then timed with. A float runtime and the engine add in another
order, so that an activation within rounding of its threshold may get the other bit, and one such bit moves the logits
of a network by some per cent. Therefore of the images tried one at least must agree to :data:`EXACT`, which a runtime
that computes anything else does for none, and every one to :data:`FLIPPED`.

Times are medians of rounds in which all take turns, so that a busy moment of the machine hits all alike.
"""

import copy
import importlib
import importlib.metadata
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bcdnet.engine import LayerTrace, PackedUnit, describe_units, pack
from bcdnet.kernels import cores, isas
from bcdnet.layers import BinaryConv2d, ContextEmbedding, RSign
from bcdnet.model import Network, map_sizes
from bcdnet.variants import Config

PEERS = ("torch", "onnxruntime", "openvino")

#: Median relative difference of an image's logits where no bit differs.
EXACT = 1e-4
#: And where some do. Measured on random networks at 224 pixels: one bit makes 0.02 to 0.08.
FLIPPED = 0.25
#: Images that are tried until one agrees to EXACT.
MOST_IMAGES = 16

#: OpenVINO's BinaryConvolution (2026.4) is right only for input channels in multiples of this.
OPENVINO_CHANNELS = 8

#: Pause before each turn in seconds: threads of the runtime before still spin for a while.
PAUSE = 0.003

Run = Callable[[Tensor], Tensor]


class BenchError(ValueError):
    """Something that cannot be timed here; the message is one sentence that says what to do."""


class Disagreement(RuntimeError):
    """A runtime that computes something else, whose time would mean nothing."""


@dataclass(frozen=True)
class Timing:
    """Median, 10th and 90th percentile of ``runs`` calls, in milliseconds."""

    median: float
    p10: float
    p90: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """From single times in seconds."""
        low, middle, high = (1e3 * float(q) for q in np.percentile(seconds, (10, 50, 90)))
        return cls(middle, low, high, len(seconds))


@dataclass(frozen=True)
class Agreement:
    """Median relative differences of logits over the ``images`` compared: the best image's and the worst's."""

    best: float
    worst: float
    images: int


@dataclass(frozen=True)
class Runtime:
    """A compiled network: ``run`` maps float32 images (N, C, H, W) to logits; ``detail`` says what exactly runs."""

    name: str
    detail: str
    run: Run


def require(package: str) -> Any:
    """The module ``package``, which only benchmarks need; BenchError if it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BenchError(f"{package} is not installed: pip install -r requirements-bench.txt") from error


def machine() -> dict[str, Any]:
    """What was measured on: processor, cores, instruction sets, load average over 1, 5 and 15 minutes, versions."""
    versions = {}
    for package in ("torch", "onnxruntime", "openvino", "transformers", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    load = [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "isas": isas(),
        "load": load,
        "python": platform.python_version(),
        "versions": versions,
    }


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class _Threshold(nn.Module):
    """RSign as one comparison: ``x + b >= 0`` exactly where ``x >= -b``."""

    threshold: Tensor
    one: Tensor

    def __init__(self, sign: RSign) -> None:
        super().__init__()
        self.register_buffer("threshold", -sign.bias.detach())
        self.register_buffer("one", torch.ones(()))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """(N, C, H, W), per-image shifts (N, C) -> +-1."""
        threshold = self.threshold if shift is None else shift + self.threshold
        return torch.where(x >= threshold[..., None, None], self.one, -self.one)


def float_network(model: Network) -> Network:
    """The same 1/1 network for runtimes that only know float: weights binarized once and for all, signs as one
    comparison, two heads merged, matrices of context embeddings rounded to float16 as the packed engine stores them.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    _simplify(network)
    if network.fc_dist is not None:
        network.fc.weight.add_(network.fc_dist.weight).div_(2)
        network.fc.bias.add_(network.fc_dist.bias).div_(2)
        network.fc_dist = None
    return network


def _simplify(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, RSign):
            setattr(module, name, _Threshold(child))
        elif isinstance(child, BinaryConv2d):
            conv = nn.Conv2d(
                child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding, bias=False
            )
            conv.weight = nn.Parameter(child.effective_weight().detach(), requires_grad=False)
            setattr(module, name, conv)
        else:
            if isinstance(child, ContextEmbedding):
                for linear in (child.reduce, child.threshold, child.offset):
                    linear.weight.copy_(linear.weight.half())
            _simplify(child)


def lively_network(config: Config, seed: int = 0) -> Network:
    """A network with random weights whose every parameter matters, in eval mode.

    Fresh weights have thresholds of zero, unit batch norms and embeddings that do nothing: a runtime could leave them
    out unnoticed. Here thresholds are the medians of what they meet, so that half of the bits are 1, batch norms know
    the statistics of two random images, and the rest is random.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Network(config).train()
        hooks = []
        for _, unit in model.residual_units():
            for parameter in (unit.bn.bias, unit.act.shift_in, unit.act.shift_out):
                parameter.normal_(0, 0.3)
            unit.bn.weight.uniform_(0.5, 1.5)
            unit.act.slope.uniform_(0.25, 1)
            if unit.embedding is not None:
                for linear in (unit.embedding.threshold, unit.embedding.offset):
                    linear.weight.normal_(0, 0.3 / linear.in_features**0.5)
            if unit.sign is not None:
                hooks.append(unit.sign.register_forward_pre_hook(_centre))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # statistics of this one batch
        model(torch.randn(2, config.in_channels, *config.image_size))
        for hook in hooks:
            hook.remove()
    return model.eval()


def _centre(sign: nn.Module, inputs: tuple[Any, ...]) -> None:
    assert isinstance(sign, RSign)
    x, *shift = inputs
    if shift:
        x = x - shift[0][..., None, None]
    sign.bias.copy_(-x.transpose(0, 1).flatten(1).median(1).values)


def export_onnx(network: nn.Module, images: Tensor) -> bytes:
    """The network as an ONNX model for images of this very shape."""
    require("onnxscript")
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)  # it warns of operators of packages that are not there and not needed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(network, (images,), dynamo=True, verbose=False)
    finally:
        noisy.setLevel(level)
    assert program is not None
    return program.model_proto.SerializeToString()


def onnxruntime_runtime(onnx: bytes, threads: int, detail: str = "") -> Runtime:
    """An ONNX model on the CPU of ONNX Runtime, all graph optimizations on."""
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads spin while it runs, which is fastest, but not into the next runtime's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    [image] = session.get_inputs()

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {image.name: images.numpy()})[0])

    return Runtime("onnxruntime", detail or "float32", run)


def openvino_options(threads: int) -> dict[str, Any]:
    """One stream of ``threads`` threads, and float32 also where the processor knows bfloat16."""
    return {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}


@cache
def openvino_core() -> Any:
    """OpenVINO's devices, of which there is one a process."""
    return require("openvino").Core()


def openvino_runtime(onnx: bytes, threads: int, detail: str = "") -> Runtime:
    """An ONNX model on the CPU of OpenVINO, for latency."""
    core = openvino_core()
    request = core.compile_model(core.read_model(onnx), "CPU", openvino_options(threads)).create_infer_request()

    def run(images: Tensor) -> Tensor:
        result = request.infer([images.numpy()], share_inputs=True, share_outputs=True)[0]
        return torch.from_numpy(result).clone()

    return Runtime("openvino", detail or "float32", run)


def torch_runtime(network: nn.Module, images: Tensor, compiled: bool = True) -> Runtime:
    """The fastest of torch's ways that work here: as it is, channels last, and compiled if ``compiled``.

    Threads are those of ``torch.set_num_threads``, now and when it runs.
    """

    def last(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    network = network.eval()
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ways: dict[str, Run] = {"eager": network, "eager, channels last": lambda x: other(last(x))}
    if compiled:
        torch._dynamo.reset()
        ways["compiled"] = torch.compile(network)

    def without_gradients(way: Run) -> Run:
        def run(x: Tensor) -> Tensor:
            with torch.no_grad():
                return way(x)

        return run

    times: dict[str, float] = {}
    notes = []
    for name, way in ways.items():
        ways[name] = run = without_gradients(way)
        try:
            run(images)
        except Exception as error:  # most often: no C++ compiler
            if name != "compiled":
                raise
            notes.append(f"torch.compile failed with {type(error).__name__}")
            continue
        times[name] = float(np.median([seconds(lambda run=run: run(images)) for _ in range(3)]))  # type: ignore[misc]
    best = min(times, key=lambda name: times[name])
    return Runtime("torch", "; ".join([best, *notes]), ways[best])


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleave(calls: Mapping[str, Callable[[], object]], budget: float = 10.0, least: int = 5) -> dict[str, Timing]:
    """Time calls in turns.

    A turn is a pause, one call that is not counted (it brings weights back into the caches), and a few that are. A call
    above 0.2 s has no such first one: to it caches do not matter.

    Args:
        calls: what to time, by name; each has run before.
        budget: seconds to spend on all, of which about half are counted.
        least: rounds, however long they take.
    """
    expected = {name: min(seconds(call), seconds(call)) for name, call in calls.items()}
    bursts = {name: int(np.clip(0.1 / one, 1, 20)) for name, one in expected.items()}
    one_round = sum(one * (bursts[name] + (one < 0.2)) + PAUSE for name, one in expected.items())
    rounds = int(np.clip(budget / one_round, least, 50))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE)
            if expected[name] < 0.2:
                call()
            times[name] += [seconds(call) for _ in range(bursts[name])]
    return {name: Timing.of(found) for name, found in times.items()}


def random_images(config: Config, image_size: tuple[int, int], batch: int) -> Tensor:
    """As many random images as a check may need, whole batches: float32 (n * batch, C, H, W)."""
    generator = torch.Generator().manual_seed(1)
    count = -(-MOST_IMAGES // batch) * batch
    return torch.randn(count, config.in_channels, *image_size, generator=generator)


def verify(name: str, run: Run, reference: Run, images: Tensor, batch: int) -> Agreement:
    """Compare logits image by image, batch by batch, until three images are compared and one agrees to EXACT.

    Raises:
        Disagreement: none does, or one differs by more than FLIPPED.
    """
    found: list[float] = []
    for part in images.split(batch):
        found += relative_differences(run(part), reference(part))
        if len(found) >= 3 and min(found) <= EXACT:
            break
    best, worst = min(found), max(found)
    if not (best <= EXACT and worst <= FLIPPED):
        raise Disagreement(
            f"{name} does not compute this network: over {len(found)} images the median relative difference of its "
            f"logits is {best:.1e} at best and {worst:.1e} at worst; allowed are {EXACT:.0e} and {FLIPPED:.0e}."
        )
    return Agreement(best, worst, len(found))


def relative_differences(got: Tensor, want: Tensor) -> list[float]:
    """Median over the logits of ``|got - want| / |want|``, for each image; infinite where one is not finite."""
    if got.shape != want.shape or not torch.isfinite(got).all():
        return [float("inf")] * len(want)
    tiny = torch.finfo(want.dtype).tiny
    return ((got - want).abs() / want.abs().clamp_min(tiny)).median(1).values.tolist()


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use ``threads`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def float_runtimes(
    network: nn.Module, images: Tensor, threads: int, names: Sequence[str], compiled: bool = True
) -> list[Runtime]:
    """The same float network through each of the runtimes ``names``, for images of this shape."""
    for name in names:
        if name not in PEERS:
            raise BenchError(f"there is no runtime {name!r}; use {', '.join(PEERS)}.")
        require(name)
    onnx = export_onnx(network, images) if {"onnxruntime", "openvino"} & set(names) else b""
    made: list[Runtime] = []
    for name in names:
        if name == "torch":
            made.append(torch_runtime(network, images, compiled))
        else:
            made.append({"onnxruntime": onnxruntime_runtime, "openvino": openvino_runtime}[name](onnx, threads))
    return made


def benchmark(
    model: Network,
    image_size: tuple[int, int] | None = None,
    batch: int = 1,
    threads: int = 1,
    against: Sequence[str] = (),
    budget: float = 20.0,
    compiled: bool = True,
    progress: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Time the packed engine of a 1/1 network and, in turns with it, the same network in float.

    Args:
        model: the network.
        image_size: (height, width) in pixels; the network's own if None.
        batch: images at once.
        threads: that every runtime may use.
        against: of :data:`PEERS`.
        budget: seconds to spend on timing; making the runtimes comes on top.
        compiled: try torch.compile, which takes some tens of seconds.
        progress: is told what is being done.

    Returns:
        The document of ``bcdnet bench``: ``engine_ms`` and ``against`` are medians in milliseconds for the whole batch,
        ``layers`` medians of the engine's layers for one image; with OpenVINO also what its BinaryConvolution takes
        for the same products, None where it cannot.

    Raises:
        BenchError: an unknown or missing runtime, or numbers that make no sense.
        Disagreement: a runtime that computes something else.
        PackError, InputError: a network, or a size, that the engine does not take.
    """
    if batch < 1 or threads < 1:
        raise BenchError(f"batch and threads must be at least 1, not {batch} and {threads}.")
    config = model.config
    size = config.image_size if image_size is None else image_size
    map_sizes(config, size)
    engine = pack(model, threads)
    reference = float_network(model)
    with torch_threads(threads), torch.no_grad():
        images = random_images(config, size, batch)
        first = images[:batch].contiguous()
        runtimes = [Runtime("engine", engine.isa, engine)]
        if against:
            progress(f"making {', '.join(against)}")
            runtimes += float_runtimes(reference, first, threads, list(dict.fromkeys(against)), compiled)
        progress("checking that all compute the same")
        verified = {r.name: asdict(verify(r.name, r.run, reference, images, batch)) for r in runtimes}
        progress("timing")
        calls = {r.name: (lambda run=r.run: run(first)) for r in runtimes}
        timings = interleave(calls, budget)
        layers = time_layers(engine.trace, first[:1], budget / 10)
        if "openvino" in against:
            progress("timing OpenVINO's BinaryConvolution, layer by layer")
            shapes = binary_shapes(model, size)
            times = {shape: time_openvino_binary(shape, threads) for shape in set(shapes.values())}
            for row in layers:
                if row["name"] in shapes:
                    row["openvino_binary_ms"] = times[shapes[row["name"]]]
    peers = {name: timing.median for name, timing in timings.items() if name != "engine"}
    return {
        **machine(),
        "isa": engine.isa,
        "threads": threads,
        "network": config.name,
        "image_size": list(size),
        "batch": batch,
        "engine_ms": timings["engine"].median,
        "against": peers,
        "speedup": min(peers.values()) / timings["engine"].median if peers else None,
        "details": {
            r.name: {"how": r.detail, **asdict(timings[r.name]), "agreement": verified[r.name]} for r in runtimes
        },
        "layers": layers,
    }


def time_layers(trace: Callable[..., list[LayerTrace]], image: Tensor, budget: float) -> list[dict[str, Any]]:
    """Median milliseconds of every layer of an engine, ``[{"name", "ms"}]``, for one image (1, C, H, W)."""
    one = max(seconds(lambda: trace(image, values=False)), 1e-6)
    return layer_medians([trace(image, values=False) for _ in range(int(np.clip(budget / one, 5, 300)))])


def layer_medians(traces: Sequence[list[LayerTrace]]) -> list[dict[str, Any]]:
    """Median milliseconds of every layer over several traces of an engine, ``[{"name", "ms"}]``."""
    times = 1e3 * np.median([[layer.seconds for layer in trace] for trace in traces], axis=0)
    return [{"name": layer.name, "ms": float(ms)} for layer, ms in zip(traces[0], times, strict=True)]


@dataclass(frozen=True)
class BinaryShape:
    """A binary product: kernel x kernel taps of ``inputs`` channels, for each of ``branches`` sums (3 in a BiMLP), on
    ``height`` x ``width`` input tokens."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    height: int
    width: int
    branches: int = 1

    @property
    def macs(self) -> int:
        """Binary multiply-accumulates for one image, taps outside of the map counted as the paper does."""
        outputs = -(-self.height // self.stride) * -(-self.width // self.stride) * self.outputs
        return outputs * self.inputs * self.kernel**2 * self.branches

    def weights(self, seed: int = 0) -> np.ndarray:
        """Random bits, uint8 0/1 of shape (branches, outputs, inputs, kernel, kernel)."""
        shape = (self.branches, self.outputs, self.inputs, self.kernel, self.kernel)
        return np.random.default_rng(seed).integers(0, 2, shape, np.uint8)


def binary_shapes(model: Network, image_size: tuple[int, int]) -> dict[str, BinaryShape]:
    """The product of every binary unit of a network, by the unit's name."""
    sizes = map_sizes(model.config, image_size)
    shapes, (height, width) = {}, sizes["stem"]
    unit: PackedUnit
    for unit in describe_units(model):
        if not unit.groups:
            branches = max(1, len(unit.branches))
            shapes[unit.name] = BinaryShape(
                unit.inputs, unit.outputs, unit.kernel, unit.stride, height, width, branches
            )
        height, width = sizes[unit.name]
    return shapes


class OpenVinoBinary:
    """OpenVINO's BinaryConvolution over the sign of a float map, as its CPU plugin runs it; one for each branch.

    Called with float32 (N, inputs, H, W), returns the float32 sums (N, outputs, H', W') of each branch. The tokens that
    the S and L branches of an MLP sample are left out, so that its time is rather too short.
    """

    def __init__(self, shape: BinaryShape, batch: int = 1, threads: int = 1) -> None:
        ov, core = require("openvino"), openvino_core()
        op = importlib.import_module("openvino.opset13")
        zero, one = np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
        image = op.parameter([batch, shape.inputs, shape.height, shape.width], np.float32)
        # 1 where x > 0: the plugin makes bits of two levels, 0 and 1, and of no other two.
        signs = op.fake_quantize(image, op.constant(zero), op.constant(zero), op.constant(zero), op.constant(one), 2)
        pad, stride = [shape.kernel // 2] * 2, [shape.stride] * 2
        sums, held = [], []  # a constant does not keep its array alive
        for weights in shape.weights():
            held.append(np.packbits(weights, bitorder="little"))
            bits = ov.op.Constant(ov.Tensor(held[-1], ov.Shape(weights.shape), ov.Type.u1))
            sums.append(op.binary_convolution(signs, bits, stride, pad, pad, [1, 1], "xnor-popcount", 0.0))
        options = openvino_options(threads) | {"PERF_COUNT": True}
        compiled = core.compile_model(ov.Model(sums, [image]), "CPU", options)
        self._request = compiled.create_infer_request()

    def __call__(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        results = self._request.infer([x.numpy()], share_inputs=True, share_outputs=True)
        return [torch.from_numpy(results[i]) for i in range(len(results))]

    def kernel_seconds(self) -> float:
        """What the convolutions alone took in the last call, without making bits and changing layouts."""
        nodes = [n for n in self._request.profiling_info if n.node_type == "BinaryConvolution"]
        return sum(node.real_time.total_seconds() for node in nodes)


def expected_sums(shape: BinaryShape, x: Tensor) -> list[Tensor]:
    """What :class:`OpenVinoBinary` must return, by torch; zero padding counts for nothing."""
    signs = torch.where(x > 0, 1.0, -1.0)
    weights = torch.from_numpy(shape.weights()).float().mul_(2).sub_(1)
    return [nn.functional.conv2d(signs, w, stride=shape.stride, padding=shape.kernel // 2) for w in weights]


def time_openvino_binary(shape: BinaryShape, threads: int, runs: int = 30) -> float | None:
    """Median milliseconds of OpenVINO's binary convolution for one image, float map in, float sums out, once its sums
    are right; None where it cannot compute them: where the input channels are no multiple of 8.
    """
    if shape.inputs % OPENVINO_CHANNELS:
        return None
    x = torch.randn(1, shape.inputs, shape.height, shape.width, generator=torch.Generator().manual_seed(2))
    binary = OpenVinoBinary(shape, 1, threads)
    if not all(map(torch.equal, binary(x), expected_sums(shape, x))):
        raise Disagreement(f"OpenVINO's BinaryConvolution gives wrong sums for {shape}.")
    return Timing.of([seconds(lambda: binary(x)) for _ in range(runs)]).median
