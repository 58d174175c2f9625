"""The packed engine: every layer equal to its reference, the whole to the network it was packed from, and its file."""

import copy
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import TINY
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import bcdnet
from analysis.deployment import with_stored_matrices
from bcdnet import files, kernels
from bcdnet.binarize import weight_scale
from bcdnet.checkpoint import CheckpointError
from bcdnet.data import open_dataset
from bcdnet.engine import HALF, PackError, build_plan, fold
from bcdnet.kernels import reference
from bcdnet.model import InputError, Network
from benchmarks.agreement import (
    CLASSES,
    FULL,
    FULL_SIZES,
    LOGITS,
    TOLERANCE,
    compare,
    follow,
    images_of,
    random_images,
    random_network,
    relative,
    shipped,
    traced_bits,
)

COMPILED = kernels.isas()[:-1]

#: Real products (stem, head, projected shortcuts, real 1x1) are added in another order than PyTorch adds them: largest
#: difference, in standard deviations of the layer's output.
REAL = 5e-6

RESNET = {"image_size": 32, "in_channels": 3, "num_classes": 7, "width": 3 / 32, "blocks": (2, 2, 1, 2)}
ODD = {**TINY, "width": 3 / 32}  # 3, 6, 12, 24, 48, 96 channels: none but the last fills its words
NARROW = {**TINY, "width": 1, "stem_channels": 1, "channels": (2, 4), "blocks": (1, 3), "strides": (2, 1)}
# Every block halves the map and keeps its channels, so that one averaged shortcut follows another.
AVERAGES = {"width": 1, "channels": (64, 64, 64, 64), "blocks": (1, 1, 1, 1)}
COLOUR = {"image_size": (56, 40), "in_channels": 3, "stem_stride": 2}
# Id -> variant, overrides, image sizes
NETWORKS: dict[str, tuple[str, dict[str, Any], list[tuple[int, int]]]] = {
    "a": ("bcdnet_a", {**TINY, "mlp_groups": 2}, [(28, 28), (4, 4)]),
    "a-odd": ("bcdnet_a", {**ODD, "mlp_groups": 2}, [(28, 28), (4, 36)]),
    "a-quarters-of-72": ("bcdnet_a", {**TINY, "width": 9 / 32, "mlp_groups": 2}, [(12, 8)]),
    "a-five-channels": ("bcdnet_a", {**TINY, "width": 5 / 32, "mlp_groups": 1, "heads": 1}, [(28, 28)]),
    "a-one-channel-a-quarter": ("bcdnet_a", {**NARROW, "mlp_groups": 2}, [(28, 28), (2, 6)]),
    "a-one-channel-stem": ("bcdnet_a", {**TINY, "width": 1 / 32, "mlp_groups": 1}, [(20, 12)]),
    "a-pss": ("bcdnet_a", {**TINY, "mlp_groups": 2, "branches": "PSS"}, [(28, 28)]),
    "a-pll": ("bcdnet_a", {**ODD, "mlp_groups": 2, "branches": "PLL"}, [(28, 20)]),
    "a-lsp-2": ("bcdnet_a", {**ODD, "mlp_groups": 2, "branches": "LSP", "long_range": 2}, [(28, 28)]),
    "a-one-branch": ("bcdnet_a", {**TINY, "mlp_groups": 1, "mlps_per_conv": 1, "branches": "S"}, [(28, 28)]),
    "a-nine-branches": ("bcdnet_a", {**ODD, "mlp_groups": 1, "branches": "PSLLSPPLS", "long_range": 9}, [(16, 16)]),
    "a-point-only": ("bcdnet_a", {**ODD, "mlp_groups": 2, "branches": "P"}, [(28, 28)]),
    "a-colour": ("bcdnet_a", {**ODD, **COLOUR, "mlp_groups": 2}, [(56, 40), (31, 47)]),
    "b": ("bcdnet_b", {**TINY, "mlp_groups": 2}, [(28, 28), (4, 8)]),
    "b-odd": ("bcdnet_b", {**ODD, "mlp_groups": 2, "embedding_ratio": 3}, [(28, 28), (4, 4)]),
    "b-all-mlp": ("bcdnet_b", {**ODD, "mlp_groups": 2, "embedding_ratio": 200}, [(28, 28)]),
    "reactnet_a": ("reactnet_a", TINY, [(28, 28), (8, 20)]),
    "reactnet_a-odd": ("reactnet_a", {**ODD, "heads": 2}, [(28, 28)]),
    "reactnet_b": ("reactnet_b", {**TINY, "width": 3 / 8}, [(28, 28), (4, 8)]),
    "reactnet_b-odd": ("reactnet_b", {**TINY, "width": 5 / 32, "doubling_groups": 5, "embedding_ratio": 4}, [(28, 28)]),
    "reactnet_c": ("reactnet_c", ODD, [(28, 28)]),
    "reactnet_c-mlp": ("reactnet_c", {**ODD, "mlp_groups": 2}, [(12, 12)]),
    "18": ("reactnet_18", RESNET, [(32, 32), (64, 32)]),
    "18-even": ("reactnet_18", {**RESNET, "width": 1 / 2, "blocks": (1, 1, 1, 1)}, [(32, 32)]),
    "18-no-pool": ("reactnet_18", {**RESNET, "stem_pool": False, "strides": (1, 2, 1, 1)}, [(36, 52), (32, 32)]),
    "18-same-width": ("reactnet_18", {**RESNET, "channels": (64, 64, 128, 128)}, [(32, 32)]),
    "18-averages-in-a-row": ("reactnet_18", {**RESNET, **AVERAGES}, [(32, 32), (64, 32)]),
    "a18": ("bcdnet_a_18", {**RESNET, "mlp_stages": (3, 4), "blocks": (1, 1, 3, 2)}, [(32, 32), (64, 96)]),
    "a18-all": ("bcdnet_a_18", {**RESNET, "width": 1 / 8, "mlp_stages": (1, 2, 3, 4), "mlps_per_conv": 1}, [(32, 32)]),
    "b18": ("bcdnet_b_18", {**RESNET, "mlp_stages": (4,)}, [(32, 32), (32, 64)]),
}  # fmt: skip


def check_layers(engine: bcdnet.Engine, images: Tensor) -> int:
    """Hold every layer of the engine against its reference on the very input it had; returns the bits compared."""
    plan = build_plan(reference.Plan(), engine.config, engine.parameters())
    return sum(check_image(engine, plan, image[None]) for image in images)


def check_image(engine: bcdnet.Engine, plan: reference.Plan, x: Tensor) -> int:
    """:func:`check_layers` for one image and the reference's network."""
    rows = engine.trace(x)
    assert [row.name for row in rows] == ["stem", *(name for name, _ in plan.units), "head"]
    before, compared = rows[0].output, 0
    assert before is not None
    close(before, plan.first(x)[0])
    for index, row in enumerate(rows[1:-1]):
        unit = plan.units[index][1]
        step = plan.step(index, before[None])
        assert row.output is not None
        if step.bits is None:
            assert row.bits is None and row.thresholds is None
        else:
            assert step.thresholds is not None and row.bits is not None and row.thresholds is not None
            assert torch.equal(row.thresholds, step.thresholds.reshape(-1)), row.name
            assert torch.equal(row.bits, step.bits[0].byte()), row.name
            assert torch.equal(row.bits.bool(), before >= row.thresholds[:, None, None]), row.name
            compared += row.bits.numel()
        if "real_weight" in unit or "shortcut_weight" in unit:
            close(row.output, step.output[0])
        else:
            assert torch.equal(row.output, step.output[0]), row.name
        before = row.output
    logits = plan.last(before[None])
    # Two logits may be as good as equal and have no spread to speak of: theirs is their size.
    close(engine(x), logits, logits.square().mean().sqrt() if logits.numel() == 2 else None)
    return compared


def close(found: Tensor, expected: Tensor, spread: Tensor | None = None) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= REAL * (expected.std(correction=0) if spread is None else spread)


# Each layer against its reference


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("case", NETWORKS)
def test_every_layer_is_its_reference_bit_for_bit(case: str, isa: str, threads: int) -> None:
    variant, changes, sizes = NETWORKS[case]
    model = random_network(variant, **changes)
    with kernels.use_isa(isa):
        engine = bcdnet.pack(model, threads)
    assert (engine.isa, engine.threads) == (isa, threads)
    for size in [*sizes, sizes[0]]:  # and the first size again, in memory that another has used
        assert check_layers(engine, random_images(model, size)) > 0
    x = random_images(model, sizes[0], 5)
    assert torch.equal(engine(x), torch.cat([engine(image[None]) for image in x]))


def test_all_variants_that_can_be_packed_are_tested() -> None:
    packable = set(bcdnet.list_models()) - {"mlp_mixer_s", "resnet_mixer_18"}
    assert {variant for variant, *_ in NETWORKS.values()} == packable


@pytest.mark.parametrize("case", ["a-odd", "b-odd", "reactnet_b", "b18"])
def test_the_reference_engine_traces_itself(case: str) -> None:
    variant, changes, sizes = NETWORKS[case]
    model = random_network(variant, **changes)
    with kernels.use_isa("reference"):
        engine = bcdnet.pack(model)
    assert engine.isa == "reference"
    assert check_layers(engine, random_images(model, sizes[0])) > 0


def test_zeros_binarize_to_plus_one() -> None:
    """Exact zeros everywhere: in latent weights, and activations that meet their thresholds."""
    model = bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=1).eval()
    for parameter in model.units.parameters():
        parameter.data.zero_()
    for _, unit in model.residual_units():
        unit.bn.weight.data.fill_(1)
    for isa in kernels.isas():
        with kernels.use_isa(isa):
            rows = bcdnet.pack(model).trace(torch.zeros(1, 1, 28, 28))
        assert all(row.bits is None or bool(row.bits.all()) for row in rows)


# The whole against the float graph


@pytest.mark.parametrize("case", NETWORKS)
def test_the_float_graph_has_the_same_bits_but_at_thresholds(case: str) -> None:
    variant, changes, sizes = NETWORKS[case]
    model = random_network(variant, **changes)
    for size in sizes:
        found = compare(model, [random_images(model, size, 20)])
        assert found.farthest <= TOLERANCE
        assert found.median_logits_followed <= LOGITS
        assert found.median_logits <= LOGITS
        assert found.differing <= 2e-6 * found.bits + 1


@pytest.mark.parametrize("case", NETWORKS)
def test_in_double_precision_no_bit_differs(case: str) -> None:
    variant, changes, sizes = NETWORKS[case]
    model = random_network(variant, **changes)
    check_double(model, random_images(model, sizes[0], 3))


def check_double(model: Network, x: Tensor) -> None:
    """The float64 graph against the reference in float64: the same bits in every layer, the same logits."""
    plan = build_plan(reference.Plan(torch.float64), model.config, fold(model))
    bits: dict[str, Tensor] = {}
    with torch.no_grad():
        map_ = plan.first(x.double())
        for index, (name, _) in enumerate(plan.units):
            step = plan.step(index, map_)
            map_ = step.output
            if step.bits is not None:
                bits[name] = step.bits
        logits = plan.last(map_)
    found = follow(copy.deepcopy(with_stored_matrices(model)).double(), x, bits)
    assert found.logits.dtype == torch.float64
    assert set(found.layers) == set(bits) != set()
    assert sum(layer.differing for layer in found.layers.values()) == 0
    assert (logits - found.logits).abs().max() <= 1e-9 * found.logits.std(correction=0)


def test_following_sees_what_is_wrong() -> None:
    """The comparison itself: one wrong bit is found, counted and far from its threshold, and hooks are gone after."""
    model = random_network("bcdnet_b", **TINY, mlp_groups=2)
    x = random_images(model, (28, 28), 3)
    bits = traced_bits(bcdnet.pack(model), x)
    wrong = {name: value.clone() for name, value in bits.items()}
    wrong["conv2_1x1"][1, 3, 5, 7] ^= 1
    before, after = follow(with_stored_matrices(model), x, bits), follow(with_stored_matrices(model), x, wrong)
    assert sum(layer.differing for layer in before.layers.values()) == 0
    # The first that differs is that bit, and it moves what comes after.
    assert next((name, layer.differing) for name, layer in after.layers.items() if layer.differing) == ("conv2_1x1", 1)
    assert after.layers["conv2_1x1"].farthest > 1e-3
    assert after.images.tolist() == [False, True, False]
    assert not any(module._forward_hooks for module in model.modules())
    # Rounding the embeddings alone turns bits that are no rounding of float32.
    assert max(layer.farthest for layer in follow(model, x, bits).layers.values()) > 1e-5


def test_heads_scales_and_signs_fold_as_written() -> None:
    model = random_network("bcdnet_a", **TINY, mlp_groups=1)
    tensors = fold(model)
    assert model.fc_dist is not None
    assert torch.equal(tensors["head.weight"], (model.fc.weight.double() + model.fc_dist.weight.double()) / 2)
    unit = model.units.get_submodule("conv2_3x3")
    gain = unit.bn.weight.double() / (unit.bn.running_var.double() + unit.bn.eps).sqrt()
    expected = gain * weight_scale(unit.op.weight.double()).flatten()
    torch.testing.assert_close(tensors["conv2_3x3.scale"][0], expected, rtol=1e-15, atol=0)
    assert torch.equal(tensors["conv2_3x3.threshold"], -unit.sign.bias.double())


# Full size


@pytest.fixture(scope="module", params=FULL)
def full(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A full-size network with 1000 classes, random wherever it can be."""
    yield random_network(request.param)


#: Largest packed file, in MiB.
SIZES = {"bcdnet_a": 10.0, "bcdnet_b": 13.5, "reactnet_a": 8.0}


@pytest.mark.parametrize("size", FULL_SIZES, ids=str)
def test_full_size(full: Network, size: tuple[int, int]) -> None:
    x = random_images(full, size)
    exact = with_stored_matrices(full)
    for isa in COMPILED or kernels.isas():
        with kernels.use_isa(isa):
            engine = bcdnet.pack(full)
        # 1.1 to 5.1 million bits.
        assert check_layers(engine, x) > 1e6
        found = follow(exact, x, traced_bits(engine, x))
        assert max(layer.farthest for layer in found.layers.values()) <= TOLERANCE
        assert sum(layer.differing for layer in found.layers.values()) <= 10
        assert relative(engine(x), found.logits).median() <= LOGITS
    check_double(full, x)


def test_full_size_file(full: Network, tmp_path: Path) -> None:
    engine = bcdnet.pack(full)
    path = tmp_path / "full.safetensors"
    engine.save(path)
    if limit := SIZES.get(full.config.name):
        assert path.stat().st_size <= limit * 2**20
    x = random_images(full, FULL_SIZES[-1])
    assert torch.equal(bcdnet.load_engine(path)(x), engine(x))


def test_published_counts(full: Network) -> None:
    binary = {"bcdnet_a": 43_981_824, "bcdnet_b": 43_981_824}  # spec of the published checkpoint
    engine = bcdnet.pack(full, 1)
    latent = [m.weight.numel() for m in full.units.modules() if type(m).__name__ == "BinaryConv2d"]
    assert engine.binary_params == sum(latent) == binary.get(full.config.name, sum(latent))
    bits = sum(t.numel() for t in engine.parameters().values() if t.dtype == torch.uint8) * 8
    assert bits == engine.binary_params  # all channels are multiples of 8
    assert engine.real_params == sum(t.numel() for t in engine.parameters().values() if t.dtype != torch.uint8)


# The shipped checkpoints


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_shipped_bits(path: Path) -> None:
    """200 of the test images; `python -m benchmarks.agreement` takes all 10,000."""
    model = bcdnet.load(path)
    found = compare(model, images_of(model, 200))
    assert (found.images, found.complaints()) == (200, [])
    assert found.differing <= 10


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_shipped_layers(path: Path) -> None:
    """Eight images, bit for bit on every instruction set, and in double precision."""
    model = bcdnet.load(path)
    x = next(images_of(model, 8))
    for isa in COMPILED or kernels.isas():
        with kernels.use_isa(isa):
            engine = bcdnet.pack(model, 1)
        assert check_layers(engine, x) > 8 * 40_000
    check_double(model, x)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_shipped_answers(path: Path) -> None:
    """The classes and logits of all test images."""
    model = bcdnet.load(path)
    engine = bcdnet.pack(model)
    with torch.no_grad():
        pairs = [(engine(x), model(x)) for x in images_of(model)]
    ours, floats = (torch.cat(logits) for logits in zip(*pairs, strict=True))
    assert len(ours) == len(open_dataset(model.card["dataset"]))
    assert (ours.argmax(1) != floats.argmax(1)).sum() <= CLASSES * len(ours)
    assert relative(ours, floats).median() <= LOGITS


def test_all_binary_checkpoints_are_compared() -> None:
    folder = files.assets_dir() / "checkpoints"
    every = {path.stem for path in folder.glob("*.json")}
    real = {name for name in every if name.endswith(("_twin", "_step1"))}
    assert {path.stem for path in shipped()} == every - real and len(every - real) == len(every) - 3


# The packed file

CARD = {"title": "Tïny", "classes": list("abcdefghij"), "metrics": {"top1": 12.5, "n": 8}}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """The packed file of a small BCDNet-B."""
    model = random_network("bcdnet_b", **ODD, mlp_groups=1)
    model.card = CARD
    path = tmp_path / "packed.safetensors"
    bcdnet.pack(model).save(path)
    return path


@pytest.mark.parametrize("case", ["a-odd", "b-odd", "reactnet_b", "18", "b18"])
def test_round_trip(case: str, tmp_path: Path) -> None:
    variant, changes, sizes = NETWORKS[case]
    model = random_network(variant, **changes)
    model.card = CARD
    before = {key: value.clone() for key, value in model.state_dict().items()}
    engine = bcdnet.pack(model, 2)
    path = tmp_path / "packed.safetensors"
    engine.save(str(path))
    loaded = bcdnet.load_engine(str(path), 1)
    assert (loaded.config, loaded.card, loaded.threads, loaded.isa) == (model.config, CARD, 1, engine.isa)
    x = random_images(model, sizes[0], 4)
    assert torch.equal(loaded(x), engine(x))
    a, b = engine.parameters(), loaded.parameters()
    assert a.keys() == b.keys()
    assert all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)
    types = {key: tensor.dtype for key, tensor in b.items()}
    assert {key.split(".")[-1] for key, dtype in types.items() if dtype == torch.float16} <= set(HALF)
    assert {key.split(".")[-1] for key, dtype in types.items() if dtype == torch.uint8} == {"weight"}
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    # The engine holds its own copy: neither a new file nor a changed network can reach it.
    expected = engine(x)
    path.write_bytes(b"x" * path.stat().st_size)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(loaded(x), expected) and torch.equal(engine(x), expected)


def rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **metadata: str) -> None:
    """Change tensors or metadata of a file, unchecked."""
    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    save_file(load_file(path) if tensors is None else tensors, path, {**old, **metadata})


def sentence(error: type[Exception], action: Callable[..., object], *args: Any, **options: Any) -> str:
    """What an action says when it refuses."""
    with pytest.raises(error) as caught:
        action(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and message.count(". ") == 0
    return message


def test_files_that_are_not_packed_networks(tmp_path: Path, packed: Path) -> None:
    def refuse(path: Any, **options: Any) -> str:
        return sentence(CheckpointError, bcdnet.load_engine, path, **options)

    checkpoint = tmp_path / "net.safetensors"
    bcdnet.save(bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=1), checkpoint, {})
    foreign, text, pickled = tmp_path / "foreign.safetensors", tmp_path / "text", tmp_path / "net.pth"
    save_file({"a": torch.ones(1)}, foreign)
    text.write_text("hello, this is no network")
    torch.save({"a": torch.ones(1)}, pickled)
    assert "a checkpoint of a trained network, which `bcdnet pack` turns into a packed one" in refuse(checkpoint)
    packed_as_checkpoint = sentence(CheckpointError, bcdnet.load, packed)
    assert "a packed network, which only the packed engine runs" in packed_as_checkpoint
    assert "not a packed network of this project" in refuse(foreign)
    assert "is not a safetensors file, or it is cut off or damaged" in refuse(text)
    assert "is a pickle" in refuse(pickled)
    assert "there is no file" in refuse(tmp_path / "nothing")
    assert "is a folder" in refuse(tmp_path)
    assert "more than the 100 that are allowed" in refuse(packed, max_bytes=100)
    good = packed.read_bytes()
    for length in (0, 7, 8, 100, len(good) // 2, len(good) - 1):
        packed.write_bytes(good[:length])
        assert "is not a safetensors file, or it is cut off or damaged" in refuse(packed)
    packed.write_bytes(good)
    for metadata, words in [
        ({"format": "bcdnet-checkpoint"}, "a checkpoint of a trained network"),
        ({"format": "other"}, "not a packed network of this project"),
        ({"version": "2"}, "a newer one: update this program"),
        ({"version": "x"}, "an unknown one"),
        ({"card": "{"}, "damaged card"),
        ({"card": "[]"}, "not a JSON object"),
        ({"config": "{}"}, "describes no network"),
    ]:
        packed.write_bytes(good)
        rewrite(packed, **metadata)
        assert words in refuse(packed)


def test_tensors_that_do_not_fit(packed: Path) -> None:
    good = load_file(packed)
    name = "conv2_3x3"
    bits, scale, matrix = (good[f"{name}.{part}"] for part in ("weight", "scale", "dynamic"))
    for changed, words in [
        ({f"{name}.scale": None}, f"lacks {name}.scale"),
        ({"extra": scale.clone()}, "holds extra, which the network does not have"),
        ({f"{name}.weight": bits[:-1].contiguous()}, f"holds {name}.weight as U8"),
        ({f"{name}.weight": bits.to(torch.int64)}, f"holds {name}.weight as I64"),
        ({f"{name}.scale": scale.double()}, f"holds {name}.scale as F64"),
        ({f"{name}.dynamic": matrix.float()}, f"holds {name}.dynamic as F32"),
        ({f"{name}.scale": scale * float("nan")}, f"not finite in {name}.scale"),
        ({f"{name}.dynamic": matrix + float("inf")}, f"not finite in {name}.dynamic"),
        ({"head.bias": good["head.bias"][:9].contiguous()}, "holds head.bias as F32 (9,); the network needs F32 (10,)"),
    ]:
        rewrite(packed, {key: value for key, value in {**good, **changed}.items() if value is not None})
        assert words in sentence(CheckpointError, bcdnet.load_engine, packed)
    rewrite(packed, good)
    assert bcdnet.load_engine(packed).card == CARD


def test_networks_that_cannot_be_packed(packed: Path) -> None:
    for precision in ("32/1", "32/32", "1/32"):
        model = bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=1, precision=precision)
        assert f"only 1/1 networks can be packed, and this one is {precision}" in sentence(
            PackError, bcdnet.pack, model
        )
        config = model.config.to_json()
        rewrite(packed, config=config)  # a file that claims to be one
        assert "only 1/1 networks" in sentence(PackError, bcdnet.load_engine, packed)
    mixers = [
        bcdnet.create_model("mlp_mixer_s", width=1 / 16, image_size=64, blocks=(1,)),
        bcdnet.create_model("resnet_mixer_18", width=1 / 16, image_size=64),
    ]
    for model in mixers:
        assert "use the float engine for MLP-Mixers" in sentence(PackError, bcdnet.pack, model)
    broken = random_network("bcdnet_b", **TINY, mlp_groups=1)
    broken.fc.weight.data[0, 0] = float("nan")
    assert "not finite in head.weight" in sentence(CheckpointError, bcdnet.pack, broken)
    for threads in (0, -1, 2000):
        assert "threads must be 1 to 1,024" in sentence(
            kernels.KernelError, bcdnet.pack, random_network("bcdnet_a", **TINY, mlp_groups=1), threads
        )


def test_a_failed_save_leaves_what_was_there(packed: Path) -> None:
    before = packed.read_bytes()
    engine = bcdnet.load_engine(packed)
    assert "cannot be written" in sentence(CheckpointError, engine.save, packed.parent / "no" / "file")
    engine.card["top1"] = float("nan")
    assert "JSON" in sentence(CheckpointError, engine.save, packed)
    assert packed.read_bytes() == before and list(packed.parent.iterdir()) == [packed]


# Inputs and callers


@pytest.mark.parametrize("isa", kernels.isas())
def test_inputs_that_do_not_fit(isa: str) -> None:
    with kernels.use_isa(isa):
        engine = bcdnet.pack(random_network("bcdnet_a", **TINY, mlp_groups=1), 1)
    x = torch.zeros(2, 1, 28, 28)
    bad = x.clone()
    bad[1, 0, 27, 27] = float("nan")
    infinite = x.clone()
    infinite[0, 0, 0, 0] = -float("inf")
    for call in (engine, lambda x: engine.trace(x[:1] if isinstance(x, Tensor) and x.ndim == 4 else x)):
        for wrong, words in [
            (x[0], "float32 images of shape (N, 1, H, W), not torch.float32 (1, 28, 28)"),
            (x.double(), "not torch.float64 (2, 1, 28, 28)" if call is engine else "not torch.float64 (1, 1, 28, 28)"),
            (x.byte(), "not torch.uint8"),
            (x.half(), "not torch.float16"),
            (x.expand(-1, 3, -1, -1), "(N, 1, H, W), not torch.float32"),
            (x.numpy(), "not ndarray"),
            (None, "not NoneType"),
            (x[..., :27], "use sides that are multiples of 4"),
            (x[:, :, :0], "empty"),
            (bad.flip(0), "values that are not finite"),
            (infinite, "values that are not finite"),
        ]:
            assert words in sentence(InputError, call, wrong)
    assert "a trace takes one image, not 2" in sentence(InputError, engine.trace, x)
    assert "a trace takes one image, not 0" in sentence(InputError, engine.trace, x[:0])
    nothing = engine(x[:0])
    assert nothing.shape == (0, 10) and nothing.dtype == torch.float32
    assert torch.isfinite(engine(x)).all()  # and it still works


@pytest.mark.parametrize("isa", kernels.isas())
def test_views_and_gradients(isa: str) -> None:
    model = random_network("bcdnet_b", **TINY, mlp_groups=1)
    with kernels.use_isa(isa):
        engine = bcdnet.pack(model, 2)
    x = random_images(model, (28, 28), 6)
    logits = engine(x)
    assert not logits.requires_grad
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    for view in (x.clone().requires_grad_(), strided, x.to(memory_format=torch.channels_last)):
        # PyTorch, which the reference runs on, may add in another order where the memory lies otherwise.
        assert (engine(view) - logits).abs().max() <= (1e-5 * logits.std() if isa == "reference" else 0)
    assert torch.equal(engine(torch.cat([x, x])[::2]), torch.cat([logits, logits])[::2])
    again = logits.clone()
    engine(x.flip(0))
    assert torch.equal(logits, again)  # a result is the caller's own


@pytest.mark.parametrize("isa", kernels.isas())
def test_a_trace_may_leave_out_values(isa: str) -> None:
    model = random_network("bcdnet_b", **TINY, mlp_groups=1)
    with kernels.use_isa(isa):
        engine = bcdnet.pack(model, 1)
    x = random_images(model, (28, 28))
    rows, brief = engine.trace(x), engine.trace(x, values=False)
    assert [row.name for row in brief] == [row.name for row in rows]
    assert all(row.output is None and row.bits is None and row.thresholds is None for row in brief)
    assert all(row.seconds > 0 for row in [*rows, *brief])
    assert rows[-1].output is None and rows[0].bits is None
    assert all(row.bits is not None and set(row.bits.unique().tolist()) == {0, 1} for row in rows[1:-1])


def test_an_engine_keeps_its_instruction_set() -> None:
    model = random_network("bcdnet_a", **ODD, mlp_groups=1)
    x = random_images(model, (28, 28))
    engines = []
    for isa in kernels.isas():
        with kernels.use_isa(isa):
            engines.append(bcdnet.pack(model))
    assert [engine.isa for engine in engines] == kernels.isas()
    # Real products are added in another order, so logits may differ by rounding, and here no bit is at its threshold.
    for engine in engines[1:]:
        assert (engine(x) - engines[0](x)).abs().max() <= 1e-5 * engines[0](x).std()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("isa", COMPILED)
def test_eight_callers_get_the_serial_results(isa: str, threads: int) -> None:
    """Different sizes and batches at once, traces among them, again and again."""
    model = random_network("bcdnet_b", **ODD, mlp_groups=2)
    with kernels.use_isa(isa):
        engine = bcdnet.pack(model, threads)
    inputs = [
        random_images(model, size, n, seed)
        for seed, (size, n) in enumerate([((28, 28), 1), ((4, 4), 7), ((28, 12), 3), ((56, 56), 1), ((28, 28), 4)])
    ]
    expected = [engine(x) for x in inputs]
    bits = traced_bits(engine, inputs[0])
    start = threading.Barrier(8)

    def call(caller: int) -> list[str]:
        wrong = []
        start.wait()
        for turn in range(40):
            which = (caller + turn) % len(inputs)
            if not torch.equal(engine(inputs[which]), expected[which]):
                wrong.append(f"caller {caller}, turn {turn}: other logits")
            if turn % 8 == caller:
                found = traced_bits(engine, inputs[0])
                wrong += [
                    f"caller {caller}: other bits in {name}" for name in bits if not found[name].equal(bits[name])
                ]
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert [complaint for wrong in pool.map(call, range(8)) for complaint in wrong] == []


@pytest.mark.parametrize("isa", COMPILED)
def test_averages_in_a_row_do_not_meet(isa: str) -> None:
    """Where one averaged shortcut follows another, no thread may write over averages that another has yet to read."""
    model = random_network("reactnet_18", **{**RESNET, **AVERAGES})
    x = random_images(model, (512, 512))
    with kernels.use_isa("reference"):
        expected = bcdnet.pack(model)(x)
    with kernels.use_isa(isa):
        alone, *others = (bcdnet.pack(model, threads) for threads in (1, 2, 3))
    logits = alone(x)
    close(logits, expected)
    for engine in others:
        assert sum(not torch.equal(engine(x), logits) for _ in range(40)) == 0


def in_child(action: Callable[[], bytes]) -> bytes:
    """What an action gives in a forked child process, which an alarm ends after half a minute."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)
            os.write(writing, action())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return found


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("isa", COMPILED)
def test_a_forked_child_computes_the_same(isa: str) -> None:
    """An engine's threads stay with the parent: the child goes on without them, and gives the engine up in peace."""
    model = random_network("bcdnet_b", **TINY, mlp_groups=1)
    x = random_images(model, (28, 28), 3)
    with kernels.use_isa(isa):
        engines = [bcdnet.pack(model, 2)]
    logits = engines[0](x)

    def compute() -> bytes:
        found = engines[0](x).numpy().tobytes()
        engines.clear()
        return found

    assert in_child(compute) == logits.numpy().tobytes()
    assert torch.equal(engines[0](x), logits)  # and the parent's threads still work


def test_engines_come_and_go_while_others_work() -> None:
    model = random_network("bcdnet_a", **TINY, mlp_groups=1)
    x = random_images(model, (28, 28), 2)
    expected = bcdnet.pack(model, 2)(x)

    def live(_: int) -> bool:
        return torch.equal(bcdnet.pack(model, 2)(x), expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(live, range(40)))
