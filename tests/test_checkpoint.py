"""Checkpoints come back as they went; whatever else is handed in gets one plain sentence."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import bcdnet
from bcdnet.checkpoint import CheckpointError, inspect, load, save, transfer

TINY = {**nets.TINY, "width": 1 / 16}
SMALLER = {**TINY, "channels": (32, 64), "blocks": (1, 2), "strides": (2, 2), "width": 1 / 8}
CARD = {"title": "Tïny", "classes": ["a", "b"], "metrics": {"top1": 12.5, "n": 8}, "recipe": {"steps": [1, 2]}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of a very small BCDNet-A."""
    torch.manual_seed(0)
    path = tmp_path / "net.safetensors"
    save(bcdnet.create_model("bcdnet_a", **SMALLER, mlp_groups=1), path, CARD)
    return path


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> None:
    """Change tensors or metadata of a checkpoint, unchecked."""
    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    save_file(load_file(path) if tensors is None else tensors, path, {**old, **metadata})


def sentence(action: Callable[..., object], *args: Any, **options: Any) -> str:
    """What an action says when it refuses."""
    with pytest.raises(CheckpointError) as caught:
        action(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("name", ["bcdnet_a", "bcdnet_b", "reactnet_a"])
@pytest.mark.parametrize("precision", ["1/1", "32/1", "32/32"])
def test_round_trip(tmp_path: Path, name: str, precision: str) -> None:
    groups = 0 if name == "reactnet_a" else 2
    model = bcdnet.create_model(name, **TINY, mlp_groups=groups, precision=precision)
    x = torch.randn(4, 1, 28, 28)
    model(x)  # running statistics are no longer their initial values
    path = tmp_path / "net.safetensors"
    bcdnet.save(model, str(path), CARD)
    loaded = bcdnet.load(str(path))
    assert loaded.config == model.config
    assert loaded.card == CARD
    assert not any(module.training for module in loaded.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert torch.equal(loaded(x), model.eval()(x))


def test_a_loaded_network_can_be_trained_on(saved: Path) -> None:
    network = load(saved).train()
    network(torch.randn(2, 1, 28, 28)).sum().backward()
    torch.optim.SGD(network.parameters(), 0.1).step()
    assert torch.equal(load(saved).fc.weight, load_file(saved)["fc.weight"])  # the file is as it was


def test_doubles_are_stored_as_floats(tmp_path: Path) -> None:
    save(bcdnet.create_model("reactnet_a", **TINY).double(), tmp_path / "net.safetensors", {})
    assert load(tmp_path / "net.safetensors").fc.weight.dtype == torch.float32


def test_inspect_reads_the_label_only(saved: Path) -> None:
    found = inspect(saved)
    assert found["card"] == CARD
    assert found["config"] == load(saved).config
    assert found["tensors"]["fc.bias"] == {"dtype": "F32", "shape": [10]}
    assert set(found["tensors"]) == set(load(saved).state_dict())


def test_saving_replaces_whole_files_and_leaves_nothing_behind(saved: Path) -> None:
    before = saved.read_bytes()
    broken = load(saved)
    broken.fc.weight.data[0, 0] = float("nan")
    assert "not finite in fc.weight" in sentence(save, broken, saved, CARD)
    assert "JSON" in sentence(save, load(saved), saved, {"path": Path()})
    assert "JSON" in sentence(save, load(saved), saved, {"top1": float("nan")})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
    save(load(saved), saved, {"title": "new"})
    assert load(saved).card == {"title": "new"}
    assert list(saved.parent.iterdir()) == [saved]
    assert "cannot be written" in sentence(save, load(saved), saved.parent / "no" / "net.safetensors", {})


def test_files_that_are_no_checkpoints(tmp_path: Path, saved: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("hello, this is no checkpoint")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    pickled, old_pickled = tmp_path / "net.pth", tmp_path / "old.pth"
    torch.save({"a": torch.ones(1)}, pickled)
    torch.save({"a": torch.ones(1)}, old_pickled, _use_new_zipfile_serialization=False)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(1)}, foreign)
    for action in (load, inspect):
        assert "is not a safetensors file" in sentence(action, text)
        assert "is not a safetensors file" in sentence(action, empty)
        assert "is a pickle" in sentence(action, pickled)
        assert "is a pickle" in sentence(action, old_pickled)
        assert "not a checkpoint of this project" in sentence(action, foreign)
        assert "is a folder" in sentence(action, tmp_path)
        assert "there is no file" in sentence(action, tmp_path / "nothing")
        assert "there is no file" in sentence(action, text / "below-a-file")
        assert "cannot be read" in sentence(action, "null\0byte")
        assert "more than the 100 that are allowed" in sentence(action, saved, max_bytes=100)


def test_metadata_that_does_not_fit(saved: Path) -> None:
    good = saved.read_bytes()
    for metadata, words in [
        ({"format": "pt"}, "not a checkpoint of this project"),
        ({"version": "2"}, "a newer one: update this program"),
        ({"version": "9" * 5000}, "an unknown one"),
        ({"version": "one"}, "an unknown one"),
        ({"card": "[1]"}, "not a JSON object"),
        ({"card": "{"}, "damaged card"),
        ({"card": "[" * 100_000}, "damaged card"),
        ({"config": "{}"}, "describes no network"),
        ({"config": '{"name": "x", "width": -1}'}, "width must be a positive number"),
        ({"config": '{"name": "x", "blocks": [1, 2, 2, 6, 1000000000]}'}, "more layers than it holds tensors"),
        (
            {"config": '{"name": "x", "mlp_groups": 1, "mlps_per_conv": 1000000000}'},
            "more layers than it holds tensors",
        ),
        ({"config": '{"name": "x", "width": 1e300}'}, "describes no network that can be built"),
    ]:
        saved.write_bytes(good)
        rewrite(saved, **metadata)
        assert words in sentence(load, saved)


def test_tensors_that_do_not_fit(saved: Path) -> None:
    good = load_file(saved)
    weight = good["fc.weight"]
    not_finite = weight.clone()
    not_finite[3, 5] = float("inf")
    without = {key: value for key, value in good.items() if key != "fc_dist.bias"}
    for tensors, words in [
        (without, "lacks fc_dist.bias"),
        ({**good, "extra.weight": weight.clone()}, "holds extra.weight, which the network does not have"),
        ({**without, "extra.weight": weight.clone()}, "lacks fc_dist.bias and holds extra.weight"),
        ({"fc.weight": weight}, "more layers than it holds tensors"),
        (
            {**good, "fc.weight": weight[:5].contiguous()},
            "holds fc.weight as F32 (5, 8); the network needs F32 (10, 8)",
        ),
        ({**good, "fc.weight": weight.double()}, "holds fc.weight as F64"),
        ({**good, "fc.weight": weight.half()}, "holds fc.weight as F16"),
        ({**good, "stem.bn.num_batches_tracked": torch.tensor(1.0)}, "F32 (); the network needs I64 ()"),
        ({**good, "fc.weight": not_finite}, "not finite in fc.weight"),
    ]:
        rewrite(saved, tensors)
        assert words in sentence(load, saved)
    rewrite(saved, good)
    assert load(saved).card == CARD


def test_only_checkpoint_errors_escape_from_damaged_files(saved: Path) -> None:
    good, chance = saved.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(good[:8], "little")
    refused = 0
    for trial in range(300):
        data = bytearray(good)
        if trial % 3 == 0:
            del data[chance.randrange(len(data)) :]
        for _ in range(trial % 3 * 2):  # flips in the header, where they hurt, and every sixth anywhere
            data[chance.randrange(len(data) if trial % 6 == 5 else header)] ^= 1 << chance.randrange(8)
        saved.write_bytes(data)
        try:
            load(saved)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 200


def test_transfer_between_the_training_steps() -> None:
    first = bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=2, precision="32/1")
    second = bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=2, precision="1/1")
    transfer(first, second)
    assert all(torch.equal(second.state_dict()[key], value) for key, value in first.state_dict().items())


def test_transfer_from_a_to_b_leaves_the_embeddings_alone() -> None:
    a = bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=2).eval()
    b = bcdnet.create_model("bcdnet_b", **TINY, mlp_groups=2).eval()
    embeddings = {key: value.clone() for key, value in b.state_dict().items() if ".embedding." in key}
    transfer(a, b)
    assert len(embeddings) == 6 * 2 * 5  # 7 blocks, 2 of them MLPs: 5 pairs of units, 6 tensors each
    assert all(torch.equal(b.state_dict()[key], value) for key, value in embeddings.items())
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(b(x), a(x), rtol=0, atol=1e-6)


def test_transfer_drops_nothing_silently() -> None:
    a = bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=2)
    b = bcdnet.create_model("bcdnet_b", **TINY, mlp_groups=2)
    react = bcdnet.create_model("reactnet_a", **TINY)
    wide = bcdnet.create_model("bcdnet_a", **{**TINY, "num_classes": 7}, mlp_groups=2)
    before = {key: value.clone() for key, value in a.state_dict().items()}
    assert "conv1_1x1.embedding.offset.bias" in sentence(transfer, b, a)
    message = sentence(transfer, react, a)
    assert "lacks fc_dist.bias" in message
    assert "holds units.conv6_1x1.act.shift_in" in message
    assert "holds fc.weight in the shape (7, 64)" in sentence(transfer, wide, a)
    assert all(torch.equal(a.state_dict()[key], value) for key, value in before.items())
