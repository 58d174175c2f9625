"""The ledger of branches by hand, branches taken away, and shifts without wrap-round."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import bcdnet
from analysis.binarization import CHUNK
from analysis.branches import (
    EVERYWHERE,
    UPTO,
    Ledger,
    branch_means,
    branch_shares,
    knockout,
    knockout_passes,
    ledger,
    ledger_entry,
    ledger_layers,
    shares_passes,
    switch_effect,
    switched_off,
    switches,
    term_rows,
    wrap_effect,
    zero_padded,
)
from bcdnet.evaluate import evaluating
from bcdnet.model import Network

CHECKPOINTS = Path(__file__).resolve().parents[2] / "assets" / "checkpoints"
X = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
NEAR = {"rtol": 0, "atol": 1e-4}  # the stem's batch norm has an epsilon


def net(name: str = "bcdnet_a", **overrides: object) -> Network:
    """4-channel stem, 3x3 and 1x1 unit, one MLP, one pointwise unit, on 4x4 tokens; random statistics everywhere."""
    fields: dict = {"image_size": 4, "in_channels": 1, "num_classes": 3, "stem_channels": 4, "channels": (4,)}
    plan = {"blocks": (2,), "strides": (1,), "stem_stride": 1, "mlp_groups": 1, "mlps_per_conv": 1}
    torch.manual_seed(0)
    model = bcdnet.create_model(name, **{**fields, **plan, **overrides}).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer, unit in model.residual_units():
            assert layer and unit.bn.running_mean is not None and unit.bn.running_var is not None
            for tensor in (unit.bn.weight, unit.bn.bias, unit.bn.running_mean, unit.act.shift_in, unit.act.shift_out):
                tensor.normal_(generator=generator)
            unit.bn.running_var.uniform_(0.1, 3, generator=generator)
            if unit.embedding is not None:
                for parameter in unit.embedding.parameters():
                    parameter.normal_(generator=generator)
    return model


def by_hand(branches: str = "PSL") -> Network:
    """The map reaches the MLP as it is and leaves it for the head; logits are the mean of channel 0, and 4.

    The MLP's batch norm multiplies by 1.5 and adds -1.25; its RPReLU has the shifts 0.75 and 1 and the slope 0.5.
    Point weights are 1, short ones 0.5, long ones 2 with a minus in the channels that come from the sides.
    """
    model = net(branches=branches)
    with torch.no_grad():
        model.stem.conv.weight.zero_()
        model.stem.conv.weight[:, 0, 1, 1] = 1
        for _, unit in model.residual_units():
            for parameter in (unit.bn.weight, unit.bn.bias, unit.act.shift_in, unit.act.shift_out):
                parameter.zero_()
            unit.act.slope.fill_(1)
        unit = model.units.mlp1_1
        unit.bn.weight.fill_(3)
        unit.bn.running_var.fill_(4 - unit.bn.eps)
        unit.bn.running_mean.fill_(1)
        unit.bn.bias.fill_(0.25)
        unit.act.shift_in.fill_(0.75)
        unit.act.slope.fill_(0.5)
        unit.act.shift_out.fill_(1)
        for kind, branch in zip(branches, unit.op.branches, strict=True):
            branch.weight.fill_({"P": 1, "S": 0.5, "L": 2}[kind])
            if kind == "L":
                branch.weight[:, 2:] *= -1
        for head in (model.fc, model.fc_dist):
            head.weight.zero_()
            head.weight[0, 0] = 1
            head.bias.copy_(torch.tensor([0.0, 4, -100]))
    return model


def halves(columns: int = 2) -> Tensor:
    """-1 in the first columns, 1 in the others."""
    x = torch.ones(1, 1, 4, 4)
    x[..., :columns] = -1
    return x


def test_a_ledger_by_hand():
    found = ledger(by_hand(), halves(), "mlp1_1")
    assert list(found.terms) == ["point", "short", "long", "bias", "shortcut"] and found.upto == "shortcut"
    # Left, every token reads four -1 itself; its neighbours are three -1 and one +1, through a half; and so on.
    left = {"point": -6, "short": -1.5, "long": -12, "bias": -1.25, "shortcut": -1}
    right = {name: value if name == "bias" else -value for name, value in left.items()}
    for name, term in found.terms.items():
        assert term.shape == (4, 4, 4)
        np.testing.assert_allclose(term[..., :2], left[name], **NEAR)
        np.testing.assert_allclose(term[..., 2:], right[name], **NEAR)
    np.testing.assert_allclose(found.total[:, 1], [[-21.75, -21.75, 19.25, 19.25]] * 4, **NEAR)
    assert found.residual < 1e-6


def test_how_far_a_ledger_goes():
    model = by_hand()
    norm, whole = ledger(model, halves(), "mlp1_1", "norm"), ledger(model, halves(), "mlp1_1", "activation")
    assert list(norm.terms) == ["point", "short", "long", "bias"]
    np.testing.assert_allclose(norm.total[0, 0], [-20.75, -20.75, 18.25, 18.25], **NEAR)
    # 0.5 (-21.75 + 0.75) + 1 and (19.25 + 0.75) + 1
    np.testing.assert_allclose(whole.total[0, 0], [-9.5, -9.5, 21, 21], **NEAR)
    np.testing.assert_allclose(whole.terms["activation"][0, 0], [12.25, 12.25, 1.75, 1.75], **NEAR)
    assert 0 < whole.residual < 1e-6  # the float32 network's own output, not the sum over again


def test_sources_by_hand():
    terms = ledger(by_hand(), halves(), "mlp1_1", sources=True).terms
    assert list(terms) == [
        "point",
        *("short (-1, +0)", "short (+1, +0)", "short (+0, -1)", "short (+0, +1)"),
        *("long (-2, +0)", "long (+2, +0)", "long (+0, -2)", "long (+0, +2)"),
        "bias",
        "shortcut",
    ]
    # One channel a quarter, 0.75 each: up and down a column is alike, to the left the first column reads the last.
    np.testing.assert_allclose(terms["short (-1, +0)"][0, 0], [-0.75, -0.75, 0.75, 0.75], **NEAR)
    np.testing.assert_allclose(terms["short (+0, -1)"][0, 0], [0.75, -0.75, -0.75, 0.75], **NEAR)
    np.testing.assert_allclose(terms["short (+0, +1)"][0, 0], [-0.75, 0.75, 0.75, -0.75], **NEAR)
    np.testing.assert_allclose(terms["long (+0, +2)"][0, 0], [-3, -3, 3, 3], **NEAR)


def test_the_taps_of_a_convolution_by_hand():
    model = by_hand()
    unit = model.units.conv1_3x3
    with torch.no_grad():
        unit.op.weight.fill_(1)
        unit.bn.weight.fill_(1)
        unit.bn.running_mean.zero_()
        unit.bn.running_var.fill_(1 - unit.bn.eps)
    terms = ledger(model, halves(), "conv1_3x3", "norm", sources=True).terms
    assert len(terms) == 10
    np.testing.assert_allclose(terms["conv (+0, +0)"][0, 1], [-4, -4, 4, 4], **NEAR)
    np.testing.assert_allclose(terms["conv (-1, +1)"][0], [[0] * 4, *[[-4, 4, 4, 0]] * 3], **NEAR)
    plain = ledger(model, halves(), "conv1_3x3", "norm").terms
    assert list(plain) == ["conv", "bias"]
    np.testing.assert_allclose(plain["conv"][0, 1], [-24, -12, 12, 24], **NEAR)
    assert list(ledger(model, halves(), "conv1_1x1", "norm", sources=True).terms) == ["conv", "bias"]


NETS: dict[str, tuple[str, dict]] = {
    "a": ("bcdnet_a", {}),
    "b": ("bcdnet_b", {}),
    "doubled": ("bcdnet_a", {"branches": "PLL"}),
    "real": ("bcdnet_a", {"precision": "32/32"}),
    "reactnet": ("reactnet_a", {"mlp_groups": 0}),
    "grouped": (
        "reactnet_b",
        {"stem_channels": 8, "channels": (8, 16), "blocks": (1, 1), "strides": (1, 2), "mlp_groups": 0},
    ),
    "resnet": ("bcdnet_a_18", {"width": 1 / 16, "image_size": 64, "in_channels": 1, "num_classes": 3}),
    "mixer": ("mlp_mixer_s", {"width": 1 / 64, "image_size": 64, "in_channels": 1, "num_classes": 3}),
}


def network(kind: str) -> Network:
    name, changes = NETS[kind]
    if kind in ("resnet", "mixer"):
        torch.manual_seed(0)
        return bcdnet.create_model(name, **changes).eval()
    return net(name, **changes)


@pytest.mark.parametrize("kind", NETS)
def test_the_terms_of_every_layer_add_up_to_what_the_network_computed(kind):
    model = network(kind)
    side = model.config.image_size[0]
    x = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(torch.randn(8, 1, side, side, generator=torch.Generator().manual_seed(2)))
    for layer in ledger_layers(model):
        for upto in UPTO:
            whole = ledger(model, x, layer, upto)
            parts = ledger(model, x, layer, upto, sources=True)
            assert whole.residual <= 1e-5 and parts.residual <= 1e-5
            for name, term in whole.terms.items():
                same = [part for label, part in parts.terms.items() if label == name or label.startswith(f"{name} (")]
                np.testing.assert_allclose(np.sum(same, axis=0), term, atol=1e-9)
    if kind == "b":
        assert np.abs(ledger(model, x, "conv1_3x3").terms["context"]).max() > 0.1
    if kind == "doubled":
        assert list(ledger(model, x, "mlp1_1").terms)[:3] == ["point", "long", "long 2"]


@pytest.mark.parametrize("path", sorted(CHECKPOINTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_the_ledger_of_every_shipped_model_closes(path):
    model = bcdnet.load(path)
    x = torch.randn(1, model.config.in_channels, *model.config.image_size, generator=torch.Generator().manual_seed(0))
    mlps = [layer for layer in ledger_layers(model) if layer.startswith("mlp") and not layer.endswith("point")]
    assert len(mlps) == model.config.mlp_groups * model.config.mlps_per_conv
    for layer in mlps or ledger_layers(model)[-2:]:
        assert ledger(model, x, layer).residual <= 1e-5


def test_the_residual_tells_what_is_missing():
    terms = {"a": np.full((1, 1, 2), 1.0), "b": np.array([[[2.0, -5]]])}
    assert Ledger("l", "norm", terms, np.array([[[3.0, -4]]])).residual == 0
    assert Ledger("l", "norm", terms, np.array([[[3.5, -5]]])).residual == 0.2  # the larger error, 1, of 5
    assert Ledger("l", "norm", {"a": np.ones((1, 1, 1))}, np.zeros((1, 1, 1))).residual == 1


def test_one_token_of_a_ledger():
    found = ledger(by_hand(), halves(), "mlp1_1")
    table = found.token(2, 3)
    assert list(table) == ["channel", "point", "short", "long", "bias", "shortcut", "total"] and len(table) == 4
    np.testing.assert_allclose(table.iloc[3], [3, 6, 1.5, 12, -1.25, 1, 19.25], **NEAR)
    with pytest.raises(ValueError, match="4x4 tokens; row 4, column 0"):
        found.token(4, 0)


def test_one_channel_of_a_ledger_and_an_entry():
    model, x = by_hand(), halves()
    found = ledger(model, x, "mlp1_1")
    maps = found.channel(2)
    assert list(maps) == ["point", "short", "long", "bias", "shortcut", "total"]
    np.testing.assert_allclose(maps["total"][0], [-21.75, -21.75, 19.25, 19.25], **NEAR)
    entry = ledger_entry(model, x, "mlp1_1", 1, 0, 2)
    assert entry.residual == found.residual and entry.token.equals(found.token(1, 0))
    assert all(np.array_equal(entry.channel[name], map) for name, map in maps.items())
    with pytest.raises(ValueError, match="channels 0 to 3, not 4"):
        found.channel(4)


def test_rows_of_maps():
    def names(layer: str, sources: bool = False, kind: str = "b") -> list[list[str]]:
        maps = ledger(net(f"bcdnet_{kind}"), X, layer, "activation", sources).channel(0)
        return [list(row) for row in term_rows(maps)]

    rest = ["bias", "shortcut", "activation", "total"]
    assert names("mlp1_1") == [["point", "short", "long"], rest]
    assert names("conv1_3x3") == [["conv", "context", *rest]]
    *split, last = names("mlp1_1", True)
    assert [len(row) for row in split] == [4, 4] and last == ["point", *rest]
    taps = names("conv1_3x3", True, "a")
    assert taps[0] == ["conv (-1, -1)", "conv (-1, +0)", "conv (-1, +1)"] and [len(row) for row in taps] == [3, 3, 3, 4]


def test_shares_by_hand():
    model = by_hand()
    shares = branch_shares(model, halves()).set_index(["layer", "term"]).loc["mlp1_1"]
    assert list(shares.index) == ["point", "short", "long", "bias", "shortcut"] and (shares.n == 1).all()
    np.testing.assert_allclose(shares.magnitude, [6, 1.5, 12, 1.25, 1], **NEAR)
    np.testing.assert_allclose(shares.magnitude_share, np.array([6, 1.5, 12, 1.25, 1]) / 21.75, **NEAR)
    # All but the bias change sign together, so each has its part of the sum's amplitude.
    np.testing.assert_allclose(shares.variance_share, np.array([6, 1.5, 12, 0, 1]) / 20.5, **NEAR)
    # A map without change has no variance to share.
    assert branch_shares(model, torch.ones(1, 1, 4, 4)).variance_share.isna().all()


def test_shares_do_not_depend_on_the_chunks():
    model, seen = net("bcdnet_b"), []
    x = torch.randn(CHUNK + 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    shares = branch_shares(model, x, lambda *at: seen.append(at))
    assert seen == [(CHUNK, CHUNK + 3), (CHUNK + 3, CHUNK + 3)] and shares_passes(len(x)) == 2 * len(x)
    terms = [ledger(model, image[None], "conv1_1x1").terms for image in x]
    expected = {name: np.mean([np.abs(t[name]).mean() for t in terms]) for name in terms[0]}
    found = shares[shares.layer == "conv1_1x1"].set_index("term")
    assert found.magnitude.to_dict() == pytest.approx(expected, rel=1e-5)
    whole = np.stack([sum(t.values()) for t in terms])
    conv = np.stack([t["conv"] for t in terms])
    over = (0, 2, 3)
    covariance = (conv * whole).mean(over) - conv.mean(over) * whole.mean(over)
    assert found.variance_share["conv"] == pytest.approx(covariance.sum() / whole.var(over).sum(), rel=1e-4)
    sums = shares.groupby("layer")[["magnitude_share", "variance_share"]].sum()
    np.testing.assert_allclose(sums, 1)


def test_switches_name_every_branch_once():
    assert switches(net(branches="PSS")) == [
        ("conv1_3x3", "conv"),
        ("conv1_1x1", "conv"),
        *(("mlp1_1", name) for name in ("point", "short", "short 2")),
        ("mlp1_point", "conv"),
        (EVERYWHERE, "conv"),
    ]


@torch.no_grad()
def test_a_branch_switched_off_by_hand():
    model, x = by_hand(), halves()
    effect = switch_effect(model, x, [("mlp1_1", "long")])
    assert list(effect) == ["index", "before", "after", "change", "p_before", "p_after"]
    # Channel 0 is -9.5 and 21; without the 12, 0.5 (-9.75 + 0.75) + 1 and 7.25 + 0.75 + 1.
    np.testing.assert_allclose(effect.before, [5.75, 4, -100], **NEAR)
    np.testing.assert_allclose(effect.after, [2.75, 4, -100], **NEAR)
    np.testing.assert_allclose(effect.change, [-3, 0, 0], **NEAR)
    assert effect.p_after[0] == pytest.approx(1 / (1 + np.exp(1.25)), abs=1e-4)
    with switched_off(model, [("mlp1_1", "point"), (EVERYWHERE, "conv"), ("mlp1_1", "shortcut")]):
        assert model(x)[0, 0] == pytest.approx((0.5 * (-14.75 + 0.75) + 1 + 12.25 + 0.75 + 1) / 2, abs=1e-4)
    assert model(x)[0, 0] == pytest.approx(5.75, abs=1e-4)


def test_the_mean_stands_in_by_hand():
    model, x = by_hand(), halves(1)  # the point branch is -4 in one column and 4 in three
    means = branch_means(model, torch.cat([x, halves(2)]))
    np.testing.assert_allclose(means["mlp1_1", "point"], [1] * 4, **NEAR)
    np.testing.assert_allclose(means["mlp1_1", "shortcut"], [0.25] * 4, **NEAR)
    effect = switch_effect(model, halves(), [("mlp1_1", "point")], reference=x)
    # 1.5 * 2 in place of -6 and 6: 0.5 (-12.75 + 0.75) + 1 and 16.25 + 0.75 + 1
    assert effect.after[0] == pytest.approx((-5 + 18) / 2, abs=1e-4)


def test_knocking_out_by_hand():
    model = by_hand()
    images = torch.cat([halves(), -torch.ones(1, 1, 4, 4)])  # of classes 0 and 1 as it stands
    off = [[("mlp1_1", "long")], [("mlp1_1", "short"), (EVERYWHERE, "conv")]]
    found = knockout(model, images, [0, 1], off)
    assert (found.top1, found.n, found.replaced) == (100, 2, "zero") and found.low < 100 == found.high
    first, second = found.table.to_dict("records")
    assert (first["name"], first["layer"], first["branch"]) == ("mlp1_1 long", "mlp1_1", "long")
    assert (second["name"], second["layer"]) == ("mlp1_1 short + everywhere conv", "")
    assert [first[name] for name in ("changed", "top1", "difference", "broken", "mended")] == [1, 50, -50, 1, 0]
    assert first["p"] == 1 and first["low"] < 50 < first["high"]
    assert [second[name] for name in ("changed", "top1", "difference", "p")] == [0, 100, 0, 1]
    wrong = knockout(model, images, [1, 1], off[:1]).table.iloc[0]
    assert (wrong.broken, wrong.mended, wrong.difference) == (0, 1, 50)
    unknown = knockout(model, images, sets=off)
    assert "top1" not in unknown.table and np.isnan(unknown.top1) and unknown.table.changed.tolist() == [1, 0]


def test_many_mended_and_broken_are_tested_in_pairs():
    found = knockout(by_hand(), halves().expand(6, 1, 4, 4), [0] * 6, [[("mlp1_1", "long")]]).table.iloc[0]
    assert found.broken == 6 and found.p == pytest.approx(2 / 2**6)


def test_a_knockout_with_means_takes_them_over_its_own_images():
    model = net()
    x = torch.randn(CHUNK + 2, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    seen = []
    found = knockout(model, x, replace="mean", progress=lambda *at: seen.append(at))
    total = knockout_passes(model, len(x))
    assert total == len(x) * 8 and seen[-1] == (total, total) and len(seen) == 16
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    means = branch_means(model, x)
    for row, switch in zip(found.table.itertuples(), switches(model), strict=True):
        with torch.no_grad(), switched_off(model, [switch], means):
            after = model(x).argmax(1)
        assert row.changed == int((after != model(x).argmax(1)).sum()) and (row.layer, row.branch) == switch


@torch.no_grad()
def test_zero_padding_by_hand():
    model, x = by_hand(), halves()
    seen: dict[str, Tensor] = {}
    unit = model.units.mlp1_1
    for name, branch in zip(("point", "short", "long"), unit.op.branches, strict=True):
        branch.register_forward_hook(lambda m, given, out, name=name: seen.__setitem__(name, out[0, 0]))
    with zero_padded(model):
        model(x)
    np.testing.assert_allclose(seen["point"], [[-4, -4, 4, 4]] * 4)
    # In the corner only the token below and the one to the right are left, through a half.
    np.testing.assert_allclose(seen["short"][0], [-1, -0.5, 0.5, 1])
    np.testing.assert_allclose(seen["short"][1], [-1.5, -1, 1, 1.5])
    # Two rows or columns away, one of the two ways to the same token is outside: half is left.
    np.testing.assert_allclose(seen["long"], [[-4, -4, 4, 4]] * 4)
    model(x)
    np.testing.assert_allclose(seen["long"], [[-8, -8, 8, 8]] * 4)


def test_the_effect_of_wrapping():
    model = by_hand()
    effect = wrap_effect(model, halves())
    assert effect.before[0] == pytest.approx(5.75, abs=1e-4) and effect.after[0] < 5
    nothing = wrap_effect(net("reactnet_a", mlp_groups=0), X)
    assert (nothing.change == 0).all()


WRONG: list[tuple[Callable[[Network], object], str]] = [
    (lambda model: ledger(model, X, "fc"), "no layer 'fc' with a ledger; its layers are conv1_3x3, "),
    (lambda model: ledger(model, X, "mlp1_1", "bn"), "upto is norm, shortcut or activation, not 'bn'"),
    (lambda model: ledger(model, X.expand(2, 1, 4, 4), "mlp1_1"), "give one image"),
    (lambda model: wrap_effect(model, X[:0]), "give one image"),
    (lambda model: switch_effect(model, X, [("mlp1_1", "conv")]), "it has point, short, long, shortcut"),
    (lambda model: switch_effect(model, X, [("fc", "conv")]), "there is no such layer"),
    (lambda model: knockout(model, X, [0, 1]), "2 labels for 1 images"),
    (lambda model: knockout(model, X, [0], replace="median"), "replace is zero or mean"),
    (lambda model: knockout(model, X[:0]), "at least one"),
    (lambda model: branch_shares(model, X[:0]), "at least one"),
]


@pytest.mark.parametrize(("ask", "message"), WRONG)
def test_what_cannot_be_asked(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(net())


def stop(done: int, total: int) -> None:
    raise InterruptedError


ASKED: list[Callable[[Network, Tensor], object]] = [
    lambda model, x: ledger(model, x, "mlp1_1", "activation"),
    lambda model, x: branch_shares(model, x),
    lambda model, x: branch_shares(model, x, stop),
    lambda model, x: branch_means(model, x, stop),
    lambda model, x: switch_effect(model, x, switches(model), x),
    lambda model, x: knockout(model, x, [0]),
    lambda model, x: knockout(model, x, [0], replace="mean", progress=stop),
    lambda model, x: wrap_effect(model, x),
]


@pytest.mark.parametrize("ask", ASKED)
def test_the_model_is_left_as_it_was_also_after_an_error(ask):
    model = net("bcdnet_b").train()
    model.units.mlp1_1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    for x in (X, X.double(), torch.zeros(1, 3, 4, 4)):
        try:
            ask(model, x)
        except (InterruptedError, ValueError):
            continue
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "check_input", stop)
        with pytest.raises((InterruptedError, TypeError)):
            ask(model, X)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and torch.is_grad_enabled()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("context", [lambda m: switched_off(m, switches(m)), zero_padded])
def test_contexts_leave_no_trace(context):
    model = net()
    with torch.no_grad(), evaluating(model):
        before = model(X)
        with pytest.raises(InterruptedError), context(model):
            assert not torch.equal(model(X), before)
            stop(0, 0)
        assert torch.equal(model(X), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match="no such layer"), switched_off(model, [("mlp1_1", "long"), ("x", "y")]):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_effects_come_back_as_tables_of_numbers():
    for table in (wrap_effect(net(), X), switch_effect(net(), X, [])):
        assert table.dtypes.map(pd.api.types.is_numeric_dtype).all()
        assert table.p_after.sum() == pytest.approx(1)
