"""The benchmarks: what the other runtimes are given is the same network, and a wrong one is noticed."""

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import TINY
from torch import Tensor, nn

import bcdnet
from bcdnet import bench, cli
from bcdnet.bench import BenchError, BinaryShape, Disagreement, OpenVinoBinary
from bcdnet.cost import network_cost
from bcdnet.engine import PackError
from bcdnet.model import Network
from bcdnet.variants import VARIANTS, get_config
from benchmarks import networks, report

ROOT = Path(__file__).resolve().parent.parent
SMALL_RESNET = {"image_size": 64, "num_classes": 10, "width": 1 / 8}
NETS = {
    "bcdnet_a": {**TINY, "mlp_groups": 2},
    "bcdnet_b": {**TINY, "mlp_groups": 2},
    "reactnet_b": TINY,
    "bcdnet_b_18": SMALL_RESNET,
}


def lively(name: str) -> Network:
    return bench.lively_network(get_config(name, **NETS[name]))


def images(model: Network, count: int = 4) -> Tensor:
    config = model.config
    return torch.randn(count, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", NETS)
def test_the_float_network_is_the_same_network(name: str) -> None:
    model = lively(name)
    for unit in (unit for _, unit in model.residual_units() if unit.embedding is not None):
        for linear in (unit.embedding.reduce, unit.embedding.threshold, unit.embedding.offset):
            linear.weight.data = linear.weight.half().float()  # as the packed file holds them
    x = images(model)
    with torch.no_grad():
        # The same operations on the same numbers but for the merged heads: no bit may differ.
        torch.testing.assert_close(bench.float_network(model)(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_float_network_binarizes_nothing_when_it_runs() -> None:
    network = bench.float_network(lively("bcdnet_a"))
    kinds = {type(module).__name__ for module in network.modules()}
    assert not kinds & {"BinaryConv2d", "RSign"}
    assert network.fc_dist is None
    convs = [m for name, m in network.units.named_modules() if isinstance(m, nn.Conv2d)]
    assert convs and all(len(filter_.abs().unique()) == 1 for conv in convs for filter_ in conv.weight)


def test_every_parameter_of_a_lively_network_matters() -> None:
    model = lively("bcdnet_b")
    x = images(model)
    shares = []
    hooks = [
        unit.sign.register_forward_hook(lambda module, inputs, y: shares.append((y > 0).float().mean().item()))
        for _, unit in model.residual_units()
    ]
    with torch.no_grad():
        before = model(x)
        for hook in hooks:
            hook.remove()
        for name, parameter in model.named_parameters():
            held = parameter.data
            parameter.data = held.flip(0) * 1.5 + 0.1
            assert not torch.equal(model(x), before), name
            parameter.data = held
    assert all(0.2 < share < 0.8 for share in shares)


def test_a_lively_network_leaves_chance_alone() -> None:
    state = torch.get_rng_state()
    first, second = lively("bcdnet_a"), lively("bcdnet_a")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def spoil_padding(network: Network) -> None:
    for module in network.units.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.padding_mode = "replicate"
            module._reversed_padding_repeated_twice = [1] * 4


def spoil_thresholds(network: Network) -> None:
    for name, buffer in network.named_buffers():
        if name.endswith("threshold"):
            buffer.zero_()


def spoil_branches(network: Network) -> None:
    for module in network.units.modules():
        if hasattr(module, "kinds"):
            module.kinds = "PLS"


@pytest.mark.parametrize("spoil", [spoil_padding, spoil_thresholds, spoil_branches])
def test_another_network_is_noticed(spoil: Callable[[Network], None]) -> None:
    reference = bench.float_network(lively("bcdnet_a"))
    other = copy.deepcopy(reference)
    spoil(other)
    with torch.no_grad():
        assert bench.verify("a copy", copy.deepcopy(reference), reference, images(reference, 8), 2).best == 0
        with pytest.raises(Disagreement, match="this one does not compute this network"):
            bench.verify("this one", other, reference, images(reference, 8), 2)


def test_a_difference_that_no_bit_explains_is_noticed() -> None:
    reference = bench.float_network(lively("bcdnet_a"))
    with torch.no_grad():
        for wrong in (1.0002, float("nan")):
            with pytest.raises(Disagreement):
                bench.verify("this one", lambda x, wrong=wrong: reference(x) * wrong, reference, images(reference), 1)


def test_differences_are_medians_of_each_image() -> None:
    want = torch.tensor([[1.0, 2.0, -4.0], [1.0, 1.0, 1.0]])
    got = torch.tensor([[1.0, 2.2, -4.04], [1.5, 1.5, 9.0]])
    assert bench.relative_differences(got, want) == pytest.approx([0.01, 0.5], rel=1e-4)
    assert bench.relative_differences(got[:, :2], want) == [float("inf")] * 2


def test_calls_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []

    def call(name: str, cost: float) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            clock[0] += cost

        return run

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda pause: None)
    found = bench.interleave({"fast": call("fast", 0.05), "slow": call("slow", 0.5)}, budget=0, least=3)
    assert order == ["fast"] * 2 + ["slow"] * 2 + (["fast"] * 3 + ["slow"]) * 3
    assert (found["fast"].runs, found["slow"].runs) == (6, 3)
    assert (found["fast"].median, found["slow"].p90) == pytest.approx((50, 500))


@pytest.mark.parametrize("name", [name for name in VARIANTS if "mixer" not in name])
def test_products_add_up_to_the_binary_operations(name: str) -> None:
    config = VARIANTS[name]
    with torch.device("meta"):
        shapes = bench.binary_shapes(Network(config), (160, 192))
    assert sum(shape.macs for shape in shapes.values()) == network_cost(config, (160, 192)).bops


def test_the_document() -> None:
    model = lively("bcdnet_a")
    document = bench.benchmark(model, threads=2, batch=3, budget=0.1)
    assert {"cpu", "isa", "threads", "engine_ms", "against", "layers"} <= set(document)
    assert (document["threads"], document["batch"], document["against"]) == (2, 3, {})
    assert document["engine_ms"] > 0 and document["cpu"]
    assert [layer["name"] for layer in document["layers"]] == ["stem", *(n for n, _ in model.residual_units()), "head"]
    json.dumps(document, allow_nan=False)


def test_torch_takes_part() -> None:
    before = torch.get_num_threads()
    document = bench.benchmark(lively("bcdnet_b"), against=["torch"], budget=0.1, compiled=False)
    assert set(document["against"]) == {"torch"}
    assert document["details"]["torch"]["agreement"]["best"] <= bench.EXACT
    assert document["details"]["torch"]["how"].startswith("eager")
    assert document["speedup"] == pytest.approx(document["against"]["torch"] / document["engine_ms"])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["bcdnet_b"])
def test_onnxruntime_and_openvino_take_part(name: str) -> None:
    for package in ("onnxruntime", "onnxscript", "openvino"):
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-bench.txt)")
    model = lively(name)
    document = bench.benchmark(model, batch=2, against=["onnxruntime", "openvino"], budget=0.1)
    assert set(document["against"]) == {"onnxruntime", "openvino"}
    for detail in document["details"].values():
        assert detail["agreement"]["best"] <= bench.EXACT and detail["runs"]
    shapes = bench.binary_shapes(model, model.config.image_size)
    times = {layer["name"]: layer["openvino_binary_ms"] for layer in document["layers"] if layer["name"] in shapes}
    assert set(times) == set(shapes)
    for layer, shape in shapes.items():
        assert times[layer] is None if shape.inputs % 8 else times[layer] > 0


@pytest.mark.parametrize(
    "shape",
    [
        BinaryShape(64, 32, 3, 1, 8, 8),
        BinaryShape(72, 33, 3, 2, 6, 10),
        BinaryShape(128, 64, 1, 1, 1, 7, branches=3),
        BinaryShape(8, 5, 3, 1, 5, 5),
    ],
)
def test_openvinos_binary_convolution_is_exact(shape: BinaryShape) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed (requirements-bench.txt)")
    x = torch.randn(2, shape.inputs, shape.height, shape.width, generator=torch.Generator().manual_seed(0))
    binary = OpenVinoBinary(shape, batch=2)
    got, want = binary(x), bench.expected_sums(shape, x)
    assert len(got) == shape.branches and all(map(torch.equal, got, want))
    assert binary.kernel_seconds() >= 0


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Model name, size, batch, threads and peers that a command line leads to."""

    def invoke(*arguments: object) -> list[Any]:
        found: list[Any] = []

        def benchmark(model: Network, *others: Any, progress: Any) -> dict[str, Any]:
            found.extend([model.config.name, *others])
            return {"layers": []}

        monkeypatch.setattr(bench, "benchmark", benchmark)
        with pytest.raises(SystemExit) as exit_:
            cli.main(["bench", *map(str, arguments), "--json"])
        assert exit_.value.code == 0
        return found

    return invoke


def test_the_command_takes_peers_in_any_form(called: Callable[..., list[Any]], checkpoints: Path) -> None:
    checkpoint = checkpoints / "a_bcdnet.safetensors"
    assert called(checkpoint) == ["bcdnet_a", None, 1, 1, []]
    everything = ["bcdnet_a", (56, 56), 4, 2, ["torch", "onnxruntime", "openvino"]]
    options = ("--image-size", 56, "--batch", 4, "--threads", 2)
    assert called(checkpoint, *options, "--against", "torch", "onnxruntime", "openvino") == everything
    assert called("--against", "torch", "onnxruntime", "openvino", checkpoint, *options) == everything
    assert called(checkpoint, *options, "--against", "torch,onnxruntime", "--against", "openvino") == everything


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["bench", *map(str, arguments)])
    captured = capsys.readouterr()
    assert exit_.value.code == 2 and captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith("bcdnet: ") and "Traceback" not in captured.err
    return last


def test_bad_usage(capsys: pytest.CaptureFixture[str], checkpoints: Path) -> None:
    good = checkpoints / "a_bcdnet.safetensors"
    for arguments, words in [
        ((), "Missing argument"),
        ((good, "bcdnet_a"), "name one checkpoint or variant"),
        (("--against", "torch", "openvino"), "name one checkpoint or variant, not none"),
        (("bcdnet_aa",), "did you mean 'bcdnet_a'"),
        (("none.safetensors",), "no file none.safetensors"),
        ((good, "--against", "tensorrt"), "no runtime 'tensorrt'; use torch, onnxruntime, openvino"),
        ((good, "--batch", 0), "--batch"),
        ((good, "--threads", 0), "--threads"),
        ((good, "--image-size", 31), "use sides that are multiples of 4"),
        ((checkpoints / "twin.safetensors",), "only 1/1 networks"),
    ]:
        assert words in complaint(capsys, *arguments)


def test_a_missing_runtime_is_named(capsys: pytest.CaptureFixture[str], monkeypatch, checkpoints: Path) -> None:
    there = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return there(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    sentence = complaint(capsys, checkpoints / "a_bcdnet.safetensors", "--against", "onnxruntime")
    assert "onnxruntime is not installed: pip install -r requirements-bench.txt" in sentence


def test_numbers_that_make_no_sense_are_refused() -> None:
    model = lively("bcdnet_a")
    with pytest.raises(BenchError, match="at least 1"):
        bench.benchmark(model, batch=0)
    with pytest.raises(BenchError, match="no runtime 'tvm'"):
        bench.benchmark(model, against=["tvm"])
    with pytest.raises(PackError):
        bench.benchmark(bcdnet.create_model("bcdnet_a", precision="32/1", **NETS["bcdnet_a"]))


def test_bench_requirements_are_pinned_and_free_of_cuda() -> None:
    lines = (ROOT / "requirements-bench.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", "-r "))]
    assert "-r requirements.txt" in lines
    assert all(line.count("==") == 1 for line in pins)
    assert {"onnx", "onnxruntime", "onnxscript", "openvino", "transformers"} <= {line.split("==")[0] for line in pins}
    assert not [line for line in pins if line.startswith(("nvidia", "cuda", "triton", "torch"))]


def test_ratios_take_the_fastest_runtime() -> None:
    def row(network: str, format_: str, runtime: str, ms: float) -> dict[str, Any]:
        return {"network": network, "format": format_, "runtime": runtime, "median_ms": ms}

    rows = [
        row("bcdnet_a", "packed", "engine", 5.0),
        row("bcdnet_a", "packed", "engine on avx2", 8.0),
        row("bcdnet_a", "float", "torch", 150.0),
        row("bcdnet_a", "float", "openvino", 80.0),
        row("resnet_18", "fp32", "onnxruntime", 25.0),
        row("resnet_18", "fp32", "openvino", 20.0),
    ]
    found = networks.ratios(rows)
    assert set(found) == {"bcdnet_a against float", "bcdnet_a against resnet_18 fp32"}
    expected = {"packed_ms": 5.0, "fastest": "openvino", "fastest_ms": 80.0, "ratio": 16.0}
    assert found["bcdnet_a against float"] == expected
    assert found["bcdnet_a against resnet_18 fp32"]["ratio"] == 4.0


def test_the_breakdown_accounts_for_everything() -> None:
    config = get_config("bcdnet_a", num_classes=10, width=1 / 8)
    ceiling = {"binary_gmacs": 1.0, "float32_gmacs": 0.5}
    found = networks.breakdown(bench.lively_network(config), 1, ceiling)
    cost = network_cost(config, (224, 224))
    assert found["floor_ms"] == pytest.approx((cost.bops + 2 * cost.flops["conv_fc"]) / 1e6)
    assert sum(kind["ms"] for kind in found["kinds"].values()) == pytest.approx(found["whole_ms"])
    conv = network_cost(config, (224, 224)).layers[0]
    assert found["kinds"]["stem"]["floor_ms"] == pytest.approx(conv.macs / 0.5 / 1e6)


def test_a_page_is_filled_where_it_says() -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb <!-- y -->\n<!-- /y -->\n"
    once = report.fill(page, {"x": r"new \1", "y": "more"})
    assert once == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb <!-- y -->\nmore\n<!-- /y -->\n"
    assert report.fill(once, {"x": r"new \1", "y": "more"}) == once
    with pytest.raises(ValueError, match="0 places for 'z'"):
        report.fill(page, {"z": ""})


def test_the_page_shows_the_results_that_are_shipped() -> None:
    found = {
        name: json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("networks", "layers", "agreement", "training")
    }
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    blocks = report.network_tables(found["networks"]) | report.layer_tables(found["layers"])
    blocks |= report.agreement_tables(found["agreement"]) | report.training_tables(found["training"])
    assert report.fill(page, blocks) == page, "run `python -m benchmarks.report`"
    assert report.draw(found["networks"], found["layers"]).startswith(b"<?xml")
