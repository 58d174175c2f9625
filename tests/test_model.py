"""Every network builds, runs and learns; the variants relate to each other as the paper says."""

from typing import Any

import nets
import pytest
import torch
from torch import Tensor

from bcdnet import Network, create_model, list_models
from bcdnet.layers import BinaryConv2d, BinaryMLP, ContextEmbedding
from bcdnet.model import InputError, map_sizes
from bcdnet.variants import get_config

TINY = {**nets.TINY, "width": 1 / 16}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(name: str, **changes: Any) -> Network:
    """Any variant, made small: 32x32 pixels (64x64 where one token would be left to mix), a few channels."""
    common = {"image_size": 32, "in_channels": 3, "num_classes": 5, "width": 1 / 8, "long_range": "half"}
    if name == "mlp_mixer_s":
        common |= {"width": 1 / 32, "blocks": (2,)}
    if name == "resnet_mixer_18":
        common |= {"image_size": 64}
    return create_model(name, **common, **changes)


def binary_modules(model: Network) -> list[BinaryConv2d]:
    return [module for module in model.modules() if isinstance(module, BinaryConv2d)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list_models())
def test_every_model_runs_forward_and_backward(name: str, dtype: torch.dtype) -> None:
    model = small(name).to(dtype)
    logits = model(torch.randn(2, 3, *model.config.image_size, dtype=dtype))
    assert logits.shape == (2, 5)
    assert logits.dtype == dtype
    logits.square().sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert all(m.weight.grad.abs().sum() > 0 for m in binary_modules(model))


@pytest.mark.parametrize("name", [name for name in list_models() if "mixer" not in name])
def test_other_sizes_and_aspect_ratios(name: str) -> None:
    model = small(name).eval()
    for height, width in ((32, 64), (96, 32), (64, 64)):
        assert model(torch.randn(1, 3, height, width)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("bcdnet_a", (1, 3, 33, 32), "use sides that are multiples of 32"),
        ("bcdnet_a", (1, 3, 32, 50), "use sides that are multiples of 32"),
        ("reactnet_18", (1, 3, 40, 32), "use sides that are multiples of 32"),
        ("mlp_mixer_s", (1, 3, 64, 64), "belong to one image size, here 32x32"),
        ("resnet_mixer_18", (1, 3, 64, 32), "belong to one image size, here 64x64"),
        ("bcdnet_a", (1, 1, 32, 32), "(N, 3, H, W)"),
        ("bcdnet_a", (3, 32, 32), "(N, 3, H, W)"),
    ],
)
def test_inputs_that_do_not_fit_get_one_sentence(name: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError) as caught:
        small(name)(torch.zeros(shape))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["reactnet_a", "reactnet_b", "bcdnet_a", "bcdnet_b", "reactnet_18", "bcdnet_a_18", "bcdnet_b_18"]
)
def test_map_sizes_are_those_of_the_forward_pass(name: str) -> None:
    model, seen = small(name).eval(), {}
    for key, module in [("stem", model.stem), *model.units.named_children()]:
        module.register_forward_hook(lambda m, args, output, key=key: seen.update({key: tuple(output.shape[2:])}))
    model(torch.zeros(1, 3, 64, 32))
    assert map_sizes(model.config, (64, 32)) == seen


def test_units_of_bcdnet_a() -> None:
    config = get_config("bcdnet_a")
    with torch.device("meta"):
        model = create_model("bcdnet_a")
    names = list(dict(model.units.named_children()))
    assert len(names) == 2 * 10 + 3 * 4
    assert names[:2] == ["conv1_3x3", "conv1_1x1"]
    assert names[-4:] == ["mlp3_1", "mlp3_2", "mlp3_3", "mlp3_point"]
    assert [name for name, _ in model.residual_units()] == names
    assert map_sizes(config)["conv1_1x1"] == (112, 112)
    assert map_sizes(config)["mlp1_1"] == (7, 7)
    assert isinstance(model.units.mlp1_point.op, BinaryConv2d)


def test_published_parameter_counts_of_bcdnet_a() -> None:
    with torch.device("meta"):
        model = create_model("bcdnet_a")
    assert sum(p.numel() for p in model.parameters()) == 46_146_384
    assert sum(m.weight.numel() for m in binary_modules(model)) == 43_981_824


def test_resnet_family_replaces_the_stride_1_convolutions_of_its_stages() -> None:
    with torch.device("meta"):
        model = create_model("bcdnet_a_18")
    kinds = [type(unit.op).__name__ for _, unit in model.residual_units()]
    assert kinds == ["BinaryConv2d"] * 13 + ["BinaryMLP"] * 9


def test_embeddings_sit_in_the_convolution_stage_only() -> None:
    model = create_model("bcdnet_b", **TINY, mlp_groups=2)
    with_embedding = [name for name, unit in model.residual_units() if unit.embedding is not None]
    assert with_embedding == [name for name, _ in model.residual_units() if name.startswith("conv")]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("a_name", "b_name"), [("bcdnet_a", "bcdnet_b"), ("bcdnet_a_18", "bcdnet_b_18")])
def test_bcdnet_b_starts_as_bcdnet_a(a_name: str, b_name: str, training: bool) -> None:
    a, b = small(a_name), small(b_name)
    missing, unexpected = b.load_state_dict(a.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert all(".embedding." in key for key in missing)
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(b.train(training)(x), a.train(training)(x), rtol=0, atol=1e-6)
    for module in b.modules():
        if isinstance(module, ContextEmbedding):
            torch.nn.init.normal_(module.threshold.bias)
    assert (b(x) - a(x)).abs().max() > 1e-3  # once they have learned, embeddings do matter


def test_logits_are_the_mean_of_both_heads() -> None:
    model = create_model("bcdnet_a", **TINY, mlp_groups=2).double().eval()
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    labels, distilled = model.head_logits(x)
    assert distilled is not None
    assert not torch.equal(labels, distilled)
    torch.testing.assert_close(model(x), (labels + distilled) / 2, rtol=0, atol=1e-12)
    merged = (model.fc.weight + model.fc_dist.weight) / 2, (model.fc.bias + model.fc_dist.bias) / 2
    torch.testing.assert_close(model(x), model.features(x) @ merged[0].T + merged[1], rtol=0, atol=1e-12)
    assert create_model("reactnet_a", **TINY).head_logits(x.float())[1] is None


@pytest.mark.parametrize(
    ("precision", "binary_weights", "binary_inputs"),
    [("32/32", False, False), ("32/1", False, True), ("1/1", True, True), ("1/32", True, False)],
)
def test_precision_is_that_of_weights_and_inputs(precision: str, binary_weights: bool, binary_inputs: bool) -> None:
    model = create_model("bcdnet_a", **TINY, mlp_groups=2, precision=precision).eval()
    inputs: list[Tensor] = []
    for module in binary_modules(model):
        module.register_forward_hook(lambda m, args, output: inputs.append(args[0]))
    model(torch.randn(2, 1, 28, 28))
    assert all(set(x.unique().tolist()) <= {-1.0, 1.0} for x in inputs) == binary_inputs
    magnitudes = [m.effective_weight().detach().abs().flatten(1) for m in binary_modules(model)]
    assert all((m.amax(1) == m.amin(1)).all() for m in magnitudes) == binary_weights


def test_ablations_change_what_the_mlps_read() -> None:
    states, outputs = None, {}
    x = torch.randn(2, 1, 28, 28)
    for branches, long_range in (("PSL", "half"), ("PSS", "half"), ("PLL", "half"), ("PSL", 2)):
        model = create_model("bcdnet_a", **TINY, mlp_groups=2, branches=branches, long_range=long_range).eval()
        states = states or model.state_dict()
        model.load_state_dict(states)
        outputs[branches, long_range] = model(x)
        assert all(m.kinds == branches for m in model.modules() if isinstance(m, BinaryMLP))
    results = list(outputs.values())
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(results) for b in results[:i])
