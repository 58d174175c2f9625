"""Files with the published names, made from networks whose answers are known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bcdnet
from bcdnet.checkpoint import CheckpointError
from bcdnet.published import KeyMismatch, import_published, published_names
from bcdnet.variants import Config, ConfigError, get_config

SMALL: dict[str, Any] = {"width": 1 / 16, "num_classes": 10}
STEPS = [("bcdnet_a", 1), ("bcdnet_a", 2), ("reactnet_a", 1), ("reactnet_a", 2), ("reactnet_18", 2)]
PRECISION = {1: "32/1", 2: "1/1"}


def random_model(name: str, step: int, **changes: Any) -> bcdnet.Network:
    """A network in float64 in which every tensor is random, so that no two can be swapped unseen."""
    torch.manual_seed(0)
    model = bcdnet.create_model(name, precision=PRECISION[step], **{**SMALL, **changes}).double().eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            # Values that float32 holds exactly, because that is how a file stores them.
            tensor.copy_((torch.rand_like(tensor) + 0.5 if "running_var" in key else torch.randn_like(tensor)).float())
        else:
            tensor.fill_(7)
    return model


def published_state(model: bcdnet.Network, step: int, prefix: str = "module.") -> dict[str, Tensor]:
    """The network's tensors under the published names and in the published shapes."""
    state = {}
    for key, parts in published_names(model.config, step).items():
        tensor = model.state_dict()[key]
        shares = tensor.chunk(len(parts)) if tensor.ndim else [tensor] * len(parts)
        for part, share in zip(parts, shares, strict=True):
            state[prefix + part.name] = (share.float() if share.is_floating_point() else share).reshape(part.shape)
    return state


@pytest.mark.parametrize("place", ["model", "state_dict"])
@pytest.mark.parametrize(("name", "step"), STEPS)
def test_import_gives_the_same_logits(tmp_path: Path, name: str, step: int, place: str) -> None:
    model = random_model(name, step)
    path = tmp_path / "net.pth.tar"
    prefix = "module." if place == "model" else ""
    torch.save({place: published_state(model, step, prefix), "epoch": 3, "optimizer": {"state": {}}}, path)
    imported, report = import_published(path, name, PRECISION[step], **SMALL)
    assert set(report.loaded) == set(model.state_dict())
    assert report.missing == report.unexpected == ()
    assert not imported.training
    assert imported.config == model.config
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(imported.double()(x), model(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("step", [1, 2])
def test_bcdnet_a_has_the_published_378_entries(step: int) -> None:
    names = published_names(get_config("bcdnet_a"), step)
    shapes = {part.name: part.shape for parts in names.values() for part in parts}
    assert sum(map(len, names.values())) == len(shapes) == 378
    assert shapes["feature.0.conv1.weight"] == (32, 3, 3, 3)
    assert shapes["feature.0.bn1.num_batches_tracked"] == ()
    assert shapes["feature.1.move11.bias"] == (1, 32, 1, 1)
    assert shapes["feature.1.binary_3x3.weight"] == (32, 32, 3, 3)
    assert shapes["feature.1.binary_pw_down2.weight"] == (32, 32, 1, 1)
    assert shapes["feature.1.bn2_2.running_var"] == (32,)
    assert shapes["feature.1.move22.bias"] == (1, 64, 1, 1)
    assert shapes["feature.1.prelu2.weight"] == (64,)
    assert shapes["feature.10.binary_pw_down1.weight"] == (512, 512, 1, 1)
    assert shapes["feature.9.binary_pw.weight"] == (512, 512, 1, 1)
    assert shapes["mlp_layer.2.mlp_layer.2.binary_conv2.weight"] == (1024, 1024, 1, 1)
    assert shapes["mlp_layer.2.mlp_layer.3.move0.bias"] == (1, 1024, 1, 1)
    assert "mlp_layer.2.mlp_layer.3.binary_conv1.weight" not in shapes
    assert shapes["fc_dist.weight"] == (1000, 1024)


def parts(config: Config, step: int, key: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(part.name, part.shape) for part in published_names(config, step)[key]]


def test_names_of_each_family_by_hand() -> None:
    bcdnet_a, react, r18 = (get_config(name) for name in ("bcdnet_a", "reactnet_a", "reactnet_18"))
    assert parts(bcdnet_a, 2, "units.mlp2_1.op.branches.0.weight") == [
        ("mlp_layer.1.mlp_layer.0.binary_conv.weight", (1024, 1024, 1, 1))
    ]
    for branch, conv in enumerate(["binary_conv", "binary_conv1", "binary_conv2"]):
        [(name, _)] = parts(bcdnet_a, 2, f"units.mlp1_3.op.branches.{branch}.weight")
        assert name == f"mlp_layer.0.mlp_layer.2.{conv}.weight"
    assert parts(bcdnet_a, 2, "units.mlp3_point.op.weight")[0][0] == "mlp_layer.2.mlp_layer.3.binary_conv.weight"
    assert parts(react, 1, "units.conv2_3x3.op.weight") == [("feature.2.binary_3x3.weight", (64, 64, 3, 3))]
    assert parts(react, 2, "units.conv2_3x3.op.weight") == [("feature.2.binary_3x3.weights", (64 * 64 * 9, 1))]
    assert parts(react, 2, "units.conv2_1x1.op.weight") == [
        ("feature.2.binary_pw_down1.weights", (64 * 64, 1)),
        ("feature.2.binary_pw_down2.weights", (64 * 64, 1)),
    ]
    assert parts(react, 2, "units.conv3_1x1.op.weight") == [("feature.3.binary_pw.weights", (128 * 128, 1))]
    assert parts(react, 2, "stem.conv.weight") == [("feature.0.conv1.weight", (32, 3, 3, 3))]
    for ours, theirs in [
        ("sign.bias", "move21.bias"),
        ("act.shift_in", "move22.bias"),
        ("act.shift_out", "move23.bias"),
    ]:
        assert parts(react, 1, f"units.conv3_1x1.{ours}") == [(f"feature.3.{theirs}", (1, 128, 1, 1))]
    assert parts(r18, 2, "units.stage2_unit1.op.weight") == [("layer2.0.binary_conv.weight", (128, 64, 3, 3))]
    assert parts(r18, 2, "units.stage2_unit1.shortcut.1.weight") == [("layer2.0.downsample.1.weight", (128, 64, 1, 1))]
    assert parts(r18, 2, "units.stage2_unit1.shortcut.2.bias") == [("layer2.0.downsample.2.bias", (128,))]
    assert parts(r18, 2, "units.stage4_unit4.act.slope") == [("layer4.3.prelu.weight", (512,))]
    assert parts(r18, 2, "stem.conv.weight") == [("conv1.weight", (64, 3, 7, 7))]
    assert not any("fc_dist" in key for key in published_names(r18, 2))


def test_a_full_size_file_imports(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    shapes = [part for parts in published_names(get_config("reactnet_a"), 2).values() for part in parts]
    zero, one = torch.tensor(0), torch.tensor([0.5])
    state = {
        f"module.{part.name}": one.expand(part.shape) if part.shape else zero for part in shapes
    }  # expanded: the file stays small
    torch.save({"state_dict": state, "best_top1_acc": torch.tensor(69.4)}, path)
    model, _ = import_published(path, "reactnet_a")
    assert sum(p.numel() for p in model.parameters()) == 29_343_592
    assert model.units.conv13_1x1.op.weight.shape == (1024, 1024, 1, 1)


def refused(path: Path, content: Any, name: str = "bcdnet_a", precision: str = "1/1") -> str:
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        import_published(path, name, precision, **SMALL)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_missing_and_unexpected_name_is_reported(tmp_path: Path) -> None:
    state = published_state(random_model("bcdnet_a", 2), 2)
    gone = ["module.feature.4.bn1.bias", "module.mlp_layer.0.mlp_layer.1.binary_conv2.weight", "module.fc.bias"]
    for key in gone:
        del state[key]
    state["module.feature.4.extra"] = torch.ones(1)
    torch.save({"model": state}, tmp_path / "net.pth")
    with pytest.raises(KeyMismatch, match=r"lacks fc.bias, feature.4.bn1.bias, mlp.* holds feature.4.extra") as caught:
        import_published(tmp_path / "net.pth", "bcdnet_a", **SMALL)
    report = caught.value.report
    assert [f"module.{key}" for key in report.missing] == sorted(gone)
    assert report.unexpected == ("feature.4.extra",)
    assert "units.conv4_3x3.bn.bias" not in report.loaded
    assert "units.conv4_3x3.bn.weight" in report.loaded


def test_one_half_of_a_doubling_unit_is_not_enough(tmp_path: Path) -> None:
    state = published_state(random_model("bcdnet_a", 2), 2)
    del state["module.feature.2.bn2_2.weight"]
    assert "lacks feature.2.bn2_2.weight" in refused(tmp_path / "net.pth", {"model": state})


def test_the_wrong_step_or_variant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    react = published_state(random_model("reactnet_a", 2), 2)
    assert "feature.1.binary_3x3.weight" in refused(path, {"state_dict": react}, "reactnet_a", "32/1")
    assert "lacks fc_dist.bias, fc_dist.weight" in refused(path, {"state_dict": react}, "bcdnet_a")


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    path, state = tmp_path / "net.pth", published_state(random_model("bcdnet_a", 2), 2)
    key = "module.feature.3.move12.bias"
    assert "feature.3.move12.bias in the shape (8,); the network needs (1, 8, 1, 1)" in refused(
        path, {"model": {**state, key: state[key].flatten()}}
    )
    assert "needs real numbers" in refused(path, {"model": {**state, key: state[key].int()}})
    assert "needs real numbers" in refused(path, {"model": {**state, key: state[key].to_sparse()}})
    assert "not finite in feature.3.move12.bias" in refused(path, {"model": {**state, key: state[key] * float("inf")}})
    assert "no table of tensors" in refused(path, {"model": {**state, key: 3}})
    assert "no table of tensors" in refused(path, [1, 2])


class Intruder:
    """An object whose unpickling would run code."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_the_file_never_runs(tmp_path: Path, zipped: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "net.pth"
    state = published_state(random_model("bcdnet_a", 2), 2)
    torch.save({"model": state, "hook": Intruder(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="holds code or objects beside its tensors") as caught:
        import_published(path, "bcdnet_a", **SMALL)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    text, cut = tmp_path / "text.pth", tmp_path / "cut.pth"
    text.write_text("hello")
    torch.save({"model": {"a": torch.ones(1000)}}, cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    for path, words in [
        (text, "cut off or damaged"),
        (cut, "cut off or damaged"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.pth", "there is no file"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            import_published(path, "bcdnet_a")
    with pytest.raises(CheckpointError, match="more than the 10 that are allowed"):
        import_published(cut, "bcdnet_a", max_bytes=10)


def test_only_networks_with_published_names(tmp_path: Path) -> None:
    for name, changes in [("bcdnet_b", {}), ("bcdnet_a", {"branches": "PSS"}), ("reactnet_b", {})]:
        with pytest.raises(ConfigError, match="published names are known for reactnet_a, bcdnet_a, reactnet_18 only"):
            import_published(tmp_path, name, **changes)
    with pytest.raises(ConfigError, match="not '32/32'"):
        import_published(tmp_path, "bcdnet_a", "32/32")
