"""Paths back to the image: by hand on networks of a few weights, and against the exact receptive field on real ones."""

import itertools
import math

import numpy as np
import pytest
import torch
from nets import TINY

from analysis.receptive_field import branch_receptive_field, exact_receptive_field
from analysis.sampling import reconstruct, stays_inside, token_sources
from analysis.tracing import IMAGE, reconstruction, trace
from bcdnet import create_model
from bcdnet.layers import BinaryMLP
from bcdnet.model import Network


def net(**overrides: object) -> Network:
    """Stem, one conv block and one group of MLPs on a map of 7 x 7 tokens."""
    torch.manual_seed(0)
    fields = {"image_size": 7, "in_channels": 1, "num_classes": 3, "stem_channels": 16, "channels": (16,)}
    plan = {"blocks": (2,), "strides": (1,), "stem_stride": 1, "mlp_groups": 1, "mlps_per_conv": 1}
    return create_model("bcdnet_a", **(fields | plan | overrides))


def test_one_mlp_by_hand() -> None:
    model = net(precision="32/32")
    unit = model.units.mlp1_1
    assert isinstance(unit.op, BinaryMLP)
    # Latent weights of 1, 2 and 4 in size, signs at random, and a batch norm that halves and changes the sign.
    for size, branch in zip((1.0, 2.0, 4.0), unit.op.branches, strict=True):
        weight = branch.get_parameter("weight")
        weight.data = size * torch.randn_like(weight).sign()
    unit.bn.weight.data.fill_(-0.5)
    unit.bn.running_var.fill_(1 - unit.bn.eps)
    found = trace(model, "mlp1_1", 3, 3)
    before = found.maps["conv1_1x1"]
    # From one token to a channel there are: the shortcut, 1; 16 inputs of 0.5 for point; for short and long a quarter
    # of 16 inputs each from four tokens, of 1 and 2. In all 1 + 8 + 16 + 32 = 57.
    expected = np.zeros((7, 7))
    expected[3, 3] = (1 + 8) / 57
    for row, col in ((2, 3), (4, 3), (3, 2), (3, 4)):
        expected[row, col] = 4 / 57
    for row, col in ((0, 3), (6, 3), (3, 0), (3, 6)):
        expected[row, col] = 8 / 57
    np.testing.assert_allclose(before, expected, atol=1e-12)
    assert found.wrapped["conv1_1x1"].sum() == 0
    # At the border the same weights come round it: one short token of four and two long ones of four.
    corner = trace(model, "mlp1_1", 0, 3)
    assert corner.wrapped["conv1_1x1"][6, 3] == pytest.approx(4 / 57)
    assert corner.wrapped["conv1_1x1"].sum() == pytest.approx((4 + 8) / 57)
    table = found.table().set_index("layer")
    assert table.index.tolist() == ["mlp1_1", "conv1_1x1", "conv1_3x3", "stem", IMAGE]
    assert table.tokens["mlp1_1"] == 1 and table.tokens["conv1_1x1"] == 9
    shares = [9 / 57] + [4 / 57] * 4 + [8 / 57] * 4
    assert table.effective["conv1_1x1"] == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares)))


def test_a_branch_alone_is_followed_in_the_first_step_only() -> None:
    model = net()
    for branch in ("point", "short", "long", "shortcut"):
        found = trace(model, "mlp1_1", 1, 2, branch)
        assert np.array_equal(found.maps[IMAGE] > 0, branch_receptive_field(model, "mlp1_1", branch, 1, 2))
    sources = token_sources(model, "mlp1_1", 1, 2)
    long = sources[sources.branch == "long"]
    expected = np.zeros((7, 7))
    np.add.at(expected, (long.row, long.col), long.weight / long.weight.sum())
    # Batch norms that were never trained scale all channels alike, so the first step is that of the weights' shares.
    np.testing.assert_allclose(trace(model, "mlp1_1", 1, 2, "long").maps["conv1_1x1"], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("bcdnet_a", {**TINY, "mlp_groups": 2}),
        ("reactnet_a", TINY),
        ("bcdnet_a_18", {"width": 1 / 8, "image_size": 64}),
        ("mlp_mixer_s", {"width": 1 / 8, "image_size": 32}),
    ],
)
def test_what_is_reached_is_the_exact_receptive_field(name: str, overrides: dict) -> None:
    torch.manual_seed(1)
    try:
        model = create_model(name, **overrides)
    except ValueError:
        model = create_model(name)
    layers = [layer for layer, _ in model.units.named_children()]
    for layer, (row, col) in itertools.product([layers[0], layers[-1], layers[len(layers) // 2]], [(0, 0), (1, 2)]):
        try:
            found = trace(model, layer, row, col)
        except ValueError:  # a map of one token
            continue
        assert np.array_equal(found.maps[IMAGE] > 0, exact_receptive_field(model, layer, row, col))
        plain = found.maps[IMAGE] - found.wrapped[IMAGE]
        assert np.array_equal(plain > 1e-15, exact_receptive_field(model, layer, row, col, wrap=False))
        assert all(abs(weights.sum() - 1) < 1e-9 for weights in found.maps.values())


def test_brute_force_on_a_small_network() -> None:
    # With magnitudes for weights and nothing else the network is linear: change one pixel and see what the token does.
    model = net(precision="32/32")
    found = trace(model, "mlp1_1", 0, 5)
    for parameter in model.parameters():
        parameter.data.abs_()
    linear = torch.zeros(7, 7, dtype=torch.float64)
    from analysis.tracing import _chain, _unit

    for row, col in itertools.product(range(7), range(7)):
        x = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
        x[0, 0, row, col] = 1
        x = _chain(model.stem, x)
        for _, unit in model.residual_units():
            x = _unit(unit, x)
            if unit is model.units.mlp1_1:
                break
        linear[row, col] = x[0, :, 0, 5].sum()
    np.testing.assert_allclose(found.maps[IMAGE], (linear / linear.sum()).detach().numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere", 0, 0), "no layer 'nowhere'"),
        (("mlp1_1", 7, 0), "7x7 tokens"),
        (("mlp1_1", 0, 0, "conv"), "it has point, short, long, shortcut"),
        (("stem", 0, 0, "point"), "no branches to follow"),
    ],
)
def test_bad_questions_get_one_sentence(arguments: tuple, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        trace(net(), *arguments)


def test_the_network_is_left_as_it_was() -> None:
    model = net().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    trace(model, "mlp1_1", 0, 0)
    reconstruction(model, torch.zeros(1, 1, 7, 7), "mlp1_1", "short")
    with pytest.raises(ValueError):
        reconstruction(model, torch.zeros(2, 1, 7, 7), "mlp1_1", "short")
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("branch", "steps"), [("point", 0), ("short", 1), ("long", 3)])
def test_reconstruction_starts_at_the_map_and_ends_at_what_is_multiplied(branch: str, steps: int) -> None:
    model, x = net(), torch.randn(1, 1, 7, 7)
    found = reconstruction(model, x, "mlp1_1", branch)
    assert found.frames.shape == (steps + 1, 4, 7, 7)
    seen: list[torch.Tensor] = []
    op = model.units.mlp1_1.op
    handle = op.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    bits = seen[0][0].double().numpy()
    assert set(np.unique(bits)) <= {-1.0, 1.0}
    np.testing.assert_allclose(found.frames[0], bits.reshape(4, 4, 7, 7).mean(1), atol=1e-12)
    rebuilt = reconstruct(bits, branch)
    np.testing.assert_allclose(found.frames[-1], rebuilt.reshape(4, 4, 7, 7).mean(1), atol=1e-12)


def test_what_stays_inside_by_hand() -> None:
    up, down, left, right = stays_inside("S", 2, 3)
    assert up.tolist() == [[False] * 3, [True] * 3] and down.tolist() == [[True] * 3, [False] * 3]
    assert left.tolist() == [[False, True, True]] * 2 and right.tolist() == [[True, True, False]] * 2
    assert stays_inside("P", 2, 3).all()
