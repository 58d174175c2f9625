"""Single bits: margins, thresholds left out, flips and entropies by hand."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import analysis.figures.bits as figures
from analysis.binarization import CHUNK
from analysis.bits import (
    ORDERS,
    DynamicBits,
    Margins,
    compare_errors,
    compare_orders,
    dynamic_bits,
    dynamic_layers,
    dynamic_passes,
    errors_by_block,
    fewest_flips,
    flip_layers,
    flip_passes,
    flip_summary,
    information,
    layer_margins,
    margin_distances,
    margin_summary,
    margins,
    token_margins,
)
from bcdnet import create_model
from bcdnet.model import Network

X = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)


def net(name: str = "bcdnet_a", **overrides: object) -> Network:
    """4-channel stem, 3x3 and 1x1 unit, one MLP, one pointwise unit, on 4x4 tokens."""
    fields = {"image_size": 4, "in_channels": 1, "num_classes": 3, "stem_channels": 4, "channels": (4,)}
    plan = {"blocks": (2,), "strides": (1,), "stem_stride": 1, "mlp_groups": 1, "mlps_per_conv": 1}
    torch.manual_seed(0)
    return create_model(name, **fields, **plan, **overrides).eval()


@torch.no_grad()
def stem_weights(model: Network, centre: list[float], bias: list[float]) -> None:
    """Make the stem's channels ``centre * x + bias``, up to the batch norm's epsilon."""
    model.stem.conv.weight.zero_()
    model.stem.conv.weight[:, 0, 1, 1] = torch.tensor(centre)
    model.stem.bn.bias.copy_(torch.tensor(bias))


def halves() -> Tensor:
    """-1 on the left half, 1 on the right."""
    x = torch.ones(1, 1, 4, 4)
    x[..., :2] = -1
    return x


@pytest.mark.parametrize("precision", ["1/1", "32/32"])
def test_margins_by_hand(precision):
    model = net(precision=precision)
    stem_weights(model, [1, 2, 0, 0], [0, 0, 0.25, -3])
    with torch.no_grad():
        model.units.conv1_3x3.sign.bias[0] = 0.5
    found = margins(model, halves())
    assert list(found) == ["conv1_3x3", "conv1_1x1", "mlp1_1", "mlp1_point"]
    first = found["conv1_3x3"]
    near = {"rtol": 0, "atol": 1e-4}
    np.testing.assert_allclose(first.value[:, 0, 0], [-0.5, -2, 0.25, -3], **near)
    np.testing.assert_allclose(first.value[:, 3, 3], [1.5, 2, 0.25, -3], **near)
    np.testing.assert_allclose(first.spread, [1, 2, 0, 0], **near)
    np.testing.assert_allclose(first.relative[:2, 0, 0], [-0.5, -1], **near)
    assert np.isnan(first.relative[2:]).all()
    row = margin_summary(found, eps=0.75, quantiles=(0, 0.5, 1)).set_index("layer").loc["conv1_3x3"]
    assert (row.bits, row.near, row.constant) == (64, 0.25, 0.5)  # 8 of the 32 bits with a spread are at 0.5
    np.testing.assert_allclose(row[["q00", "q50", "q100"]].astype(float), [0.5, 1, 1.5], **near)
    row = margin_summary(found, eps=0.75, relative=False).set_index("layer").loc["conv1_3x3"]
    assert row.near == 24 / 64  # 8 bits at 0.5 and 16 at 0.25


def test_token_margins_by_hand():
    value = np.array([[[3.0, -1]], [[-2, 4]], [[0.5, 0.5]]])  # (3, 1, 2)
    spread = np.array([2.0, 4, 0])
    found = Margins("a", value, spread, value / np.array([2, 4, np.nan])[:, None, None])
    for show, relative, shown, which in (
        ("nearest", False, [0.5, 0.5], [2, 2]),
        ("nearest", True, [-0.5, -0.5], [1, 0]),
        ("mean", False, [5.5 / 3, 5.5 / 3], [-1, -1]),
        ("mean", True, [1, 0.75], [-1, -1]),
        (1, False, [-2, 4], [1, 1]),
        (2, True, [np.nan, np.nan], [2, 2]),
    ):
        tokens = token_margins(found, show, relative)
        np.testing.assert_allclose(tokens.value, [shown])
        assert tokens.channel.tolist() == [which] and (tokens.show, tokens.relative) == (show, relative)
    nothing = Margins("a", value, 0 * spread, np.nan * value)
    assert np.isnan(token_margins(nothing, "mean").value).all() and np.isnan(token_margins(nothing).value).all()
    for wrong in (3, -1, "far"):
        with pytest.raises(ValueError, match="the channels 0 to 2, 'nearest' and 'mean', not"):
            token_margins(found, wrong)


def test_margins_of_a_layer_and_their_distances_are_those_of_the_network():
    model = net("bcdnet_b")
    whole = margins(model, X)
    one = layer_margins(model, X, "mlp1_1", 2, relative=False)
    np.testing.assert_array_equal(one.value, whole["mlp1_1"].value[2])
    with pytest.raises(ValueError, match="no sign in layer 'fc'; choose one of conv1_3x3"):
        layer_margins(model, X, "fc")
    expected = margin_summary(whole, eps=0.5, relative=False)
    pd.testing.assert_frame_equal(margin_distances(model, X, 0.5, relative=False), expected)


def test_margins_of_constant_channels_have_no_relative_distance():
    model = net()
    stem_weights(model, [0, 0, 0, 0], [0.1, 0.3, 1, 1])
    row = margin_summary({"conv1_3x3": margins(model, X)["conv1_3x3"]}).iloc[0]
    assert row.constant == 1 and np.isnan(row.near) and np.isnan(row.q50)


def test_margins_agree_with_the_bits_of_the_network():
    model = net("bcdnet_b")
    with torch.no_grad():
        model.units.conv1_1x1.embedding.threshold.weight.normal_(generator=torch.Generator().manual_seed(1))
    bits = {}
    handles = [
        unit.sign.register_forward_hook(lambda m, a, out, layer=layer: bits.__setitem__(layer, out[0].numpy()))
        for layer, unit in model.residual_units()
    ]
    with torch.no_grad():
        model(X)
    for handle in handles:
        handle.remove()
    for layer, found in margins(model, X).items():
        np.testing.assert_array_equal(np.where(found.value >= 0, 1, -1), bits[layer])


def contextual() -> Network:
    """BCDNet-B whose first unit has the dynamic thresholds (2, 3, 0, -4) and the inputs (1, 2, 3, 2)."""
    model = net("bcdnet_b")
    stem_weights(model, [0, 0, 0, 0], [1, 2, 3, 2])
    unit = model.units.conv1_3x3
    with torch.no_grad():
        unit.sign.bias[3] = -3
        unit.embedding.reduce.weight.fill_(0.5)  # half the sum of the four channel means: 4
        unit.embedding.threshold.weight.copy_(torch.tensor([[0.5], [0.75], [0], [-1]]))
    return model


def test_dynamic_thresholds_left_out_by_hand():
    model, seen = contextual(), []
    assert dynamic_layers(model) == ["conv1_3x3", "conv1_1x1"]
    found = dynamic_bits(model, X, lambda *at: seen.append(at))
    assert seen == [(k, 4) for k in (1, 2, 3, 4)] and dynamic_passes(model) == 4
    rows = found.layers.set_index("layer")
    first = rows.loc["conv1_3x3"]
    # With the context - - + +, without + + + -.
    assert first[["bits", "changed", "to_plus", "to_minus"]].tolist() == [64, 48, 32, 16]
    assert first.share == first.share_all == 0.75
    assert found.maps["conv1_3x3"][:, 1, 2].tolist() == [1, 1, 0, -1]
    second = rows.loc["conv1_1x1"]  # its embedding adds nothing, so on the same input nothing differs
    assert second.changed == second.logit_change == 0 and not found.maps["conv1_1x1"].any()
    with torch.no_grad():
        logits = model(X)[0].numpy()
        model.units.conv1_3x3.embedding.threshold.weight.zero_()
        static = model(X)[0].numpy()
    np.testing.assert_array_equal(found.logits, logits)
    np.testing.assert_array_equal(found.static_logits, static)
    assert first.logit_change == np.abs(static - logits).max() > 0


def test_dynamic_bits_end_to_end_hold_what_earlier_layers_changed():
    model = contextual()
    with torch.no_grad():
        model.units.conv1_3x3.op.weight.copy_(torch.ones(4, 4, 3, 3))
        model.units.conv1_1x1.sign.bias.fill_(-4.0)
    rows = dynamic_bits(model, X).layers.set_index("layer")
    # Sums of the four bits over nine (six, four) tokens: 0 with the context, 18 (12, 8) without, so what follows,
    # the inputs 1, 2, 3 and 2 plus that, less 4, turns from negative to positive everywhere.
    assert rows.changed["conv1_1x1"] == 0 and rows.share_all["conv1_1x1"] == 1


def test_networks_without_embeddings_say_so():
    assert dynamic_layers(net()) == []
    with pytest.raises(ValueError, match="no context embedding"):
        dynamic_bits(net(), X)


@torch.no_grad()
def voting() -> Network:
    """Every bit of mlp1_point is +1, with margins 1, 2, 3 and 0.5 by channel.

    Over 16 tokens the logit of class 0 is 1 + mean(b0 + b1 + b2 - b3) = 3; class 1 has 2.6875; class 2 has 4.5 less
    the logit of class 0. So each flip of channels 0 to 2 takes 1/8 from class 0, each of channel 3 adds 1/8.
    """
    model = net()
    stem_weights(model, [0, 0, 0, 0], [1, 2, 3, 0.5])
    for _, unit in model.residual_units():
        unit.act.slope.fill_(1)
        for weight in unit.op.parameters():
            weight.zero_()  # a scale of 0: the unit passes on its input
    model.units.mlp1_point.op.weight[0] = torch.tensor([1.0, 1, 1, -1])[:, None, None]
    for head in (model.fc, model.fc_dist):
        head.weight.zero_()
        head.weight[0, 0], head.weight[2, 0] = 1, -1
        head.bias.copy_(torch.tensor([0, 2.6875, 4.5]))
    return model


@pytest.mark.parametrize("order", ORDERS)
def test_fewest_flips_by_hand(order):
    model = voting()
    assert flip_layers(model)[-1] == "mlp1_point"
    flips = fewest_flips(model, X, "mlp1_point", order)
    assert (flips.found, flips.k, flips.before, flips.after, flips.total) == (True, 3, 0, 1, 64)
    assert flips.irreducible and flips.forwards <= 200
    assert flips.bits.channel.max() <= 2 and not flips.bits.duplicated().any() and (flips.bits.before == 1).all()
    assert flips.bits.margin.tolist() == pytest.approx([(1, 2, 3)[c] for c in flips.bits.channel])
    assert flips.logits == pytest.approx([2.625, 2.6875, 1.875], abs=1e-4)
    # By margin, all 16 bits of channel 3 come first and raise the gap; 16 + 3 of channels 0 and 1 make up for it.
    expected = {"gradient": 3, "margin": 35}
    assert flips.prefix == expected.get(order, flips.prefix) >= 3


def test_the_flips_found_change_the_class_in_a_pass_of_their_own():
    model = voting()
    flips = fewest_flips(model, X, "mlp1_point", "random", seed=3)
    signs = torch.ones(1, 4, 4, 4)
    signs[0, flips.bits.channel, flips.bits.row, flips.bits.col] = -1
    handle = model.units.mlp1_point.sign.register_forward_hook(lambda m, a, out: out * signs)
    with torch.no_grad():
        logits = model(X)[0]
    handle.remove()
    assert int(logits.argmax()) == flips.after == 1
    np.testing.assert_array_equal(logits.double().numpy(), flips.logits)


def test_flips_towards_a_class():
    flips = fewest_flips(voting(), X, "mlp1_point", towards=2)
    # Class 2 has 1.5 + k/8, which passes class 1's 2.6875 at the tenth flip.
    assert (flips.k, flips.after, flips.prefix) == (10, 2, 10)
    with pytest.raises(ValueError, match="from 0 to 2 other than 0"):
        fewest_flips(voting(), X, "mlp1_point", towards=0)


def test_a_budget_is_kept_and_a_search_without_result_says_so():
    seen = []
    flips = fewest_flips(voting(), X, "mlp1_point", "margin", budget=4, progress=lambda *at: seen.append(at))
    assert not flips.found and flips.k is None and flips.bits.empty and flips.before == flips.after == 0
    assert flips.forwards == 4 and seen[-1] == (4, 4) and flips.trace.flipped.tolist() == [1, 2]
    # Two flips of channel 3 in the gap: 0.3125 + 1/8, + 2/8.
    assert flips.trace.gap.tolist() == pytest.approx([0.4375, 0.5625], abs=1e-4)
    cut = fewest_flips(voting(), X, "mlp1_point", "margin", budget=12)
    assert cut.found and cut.forwards == 12 and not cut.irreducible and cut.after == 1
    model = voting()
    with torch.no_grad():
        model.units.mlp1_point.op.weight.zero_()  # no bit has a say
    none = fewest_flips(model, X, "mlp1_point")
    assert not none.found and none.trace.flipped.tolist() == [1, 2, 4, 8, 16, 32, 64]


def test_orders_are_compared_with_the_same_budget_and_repeat():
    seen = []
    found = compare_orders(voting(), X, "mlp1_point", budget=100, progress=lambda *at: seen.append(at))
    assert list(found) == list(ORDERS) and {total for _, total in seen} == {flip_passes(100, 3)} == {300}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    table = flip_summary(found).set_index("name")
    assert table.k.tolist() == [3, 3, 3] and table.share.tolist() == [3 / 64] * 3
    again = fewest_flips(voting(), X, "mlp1_point", "random", budget=100)
    pd.testing.assert_frame_equal(again.bits, found["random"].bits)
    other = fewest_flips(voting(), X, "mlp1_point", "random", budget=100, seed=1)
    assert not other.bits.equals(again.bits)


def test_flips_behind_later_signs_are_verified():
    model = net("bcdnet_b")
    for layer in flip_layers(model):
        flips = fewest_flips(model, X, layer)
        assert flips.before == int(model(X).argmax()) and (flips.after != flips.before) == flips.found
        assert flips.trace.changed.any() == flips.found


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("fc", {}, "no bits in layer 'fc'; choose one of conv1_3x3"),
        ("mlp1_1", {"order": "size"}, "order is gradient, margin or random"),
        ("mlp1_1", {"budget": 3}, "at least 4 forward passes"),
    ],
)
def test_what_cannot_be_searched(layer, options, message):
    with pytest.raises(ValueError, match=message):
        fewest_flips(net(), X, layer, **options)
    with pytest.raises(ValueError, match="its activations are real"):
        fewest_flips(net(precision="32/32"), X, "mlp1_1")


def test_information_by_hand():
    model = net()
    stem_weights(model, [1, 1, -1, 0], [0, 0, 0, 0])
    x = torch.cat([halves(), torch.ones(1, 1, 4, 4)])
    first = information(model, x).set_index("layer").loc["conv1_3x3"]
    # Channels 0 and 1 are +1 at 3/4 of the places and images, channel 2 at 1/4, channel 3 everywhere. The left halves
    # of channels 0 to 2 differ between the two images.
    assert (first.bits, first.positive, first.balance, first.n) == (64, 0.6875, 0.375, 2)
    assert (first.entropy_position, first.information, first.constant) == (0.375, 24, 0.625)
    assert first.entropy_channel == pytest.approx(0.75 * 0.8112781, abs=1e-6)


def test_information_does_not_depend_on_the_chunks():
    model, seen = net(), []
    x = torch.randn(CHUNK + 6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = information(model, x, lambda *at: seen.append(at)).set_index("layer")
    assert seen == [(CHUNK, CHUNK + 6), (CHUNK + 6, CHUNK + 6)]
    maps = torch.cat([model.stem(image[None]) for image in x]) >= 0
    assert whole.positive["conv1_3x3"] == pytest.approx(float(maps.double().mean()), abs=1e-12)
    with pytest.raises(ValueError, match="at least one image"):
        information(model, x[:0])


def test_errors_of_several_models_by_block():
    a, b = net(), net("reactnet_a")
    with torch.no_grad():
        # 16 weights of error 1 and 144 of error 0 ((1, -3) has the scale 2), in one block.
        a.units.conv1_1x1.op.weight.copy_(torch.tensor([1.0, -3, 1, -3])[:, None, None].expand(4, 4, 1, 1))
        a.units.conv1_3x3.op.weight.fill_(1)
    errors = compare_errors({"A": a, "R": b})
    assert list(errors.columns[:4]) == ["model", "layer", "group", "branch"] and set(errors.model) == {"A", "R"}
    blocks = errors_by_block(errors)
    row = blocks.query("model == 'A' and group == 'conv1'").iloc[0]
    assert (row.branch, row.n) == ("conv", 160)
    assert row.l1 == pytest.approx(16 / 160) and row.mse == pytest.approx(16 / 160)
    assert row.relative == pytest.approx(0.5 * 16 / 160)
    assert blocks.query("model == 'A' and group == 'mlp1'").branch.tolist() == ["point", "short", "long", "conv"]
    with pytest.raises(ValueError, match="at least one network"):
        compare_errors({})


ASKED: list[Callable[..., object]] = [
    lambda model, x, stop: margins(model, x),
    lambda model, x, stop: dynamic_bits(model, x, stop),
    lambda model, x, stop: fewest_flips(model, x, "mlp1_1", progress=stop),
    lambda model, x, stop: information(model, x, stop),
]


@pytest.mark.parametrize("ask", ASKED)
def test_the_model_is_left_as_it_was_also_after_an_error(ask):
    model = net("bcdnet_b").train()
    model.units.mlp1_1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    ask(model, X, None)
    for x in (torch.zeros(1, 3, 4, 4), torch.zeros(0, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"takes images of shape|give one image|at least one image"):
            ask(model, x, None)
    if ask is not ASKED[0]:
        with pytest.raises(InterruptedError):
            ask(model, X, stop)
    with torch.inference_mode():
        ask(model, X.clone(), None)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and torch.is_grad_enabled()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_margin_map_shows_the_bit_nearest_to_its_threshold():
    value = np.array([[[3.0, -1]], [[-2, 4]], [[0.5, 0.5]]])  # (3, 1, 2)
    spread = np.array([2.0, 3, 0])
    found = Margins("a", value, spread, value / np.array([2, 3, np.nan])[:, None, None])

    def show(*options, **more):
        return figures.margin_map(token_margins(found, *options), **more)

    (raw,), (relative,) = show("nearest", False).data, show().data
    assert raw.z.tolist() == [[0.5, 0.5]] and raw.customdata.tolist() == [[2, 2]]
    assert (raw.zmin, raw.zmax) == (-0.5, 0.5)
    np.testing.assert_allclose(relative.z, [[-2 / 3, -0.5]])
    assert relative.customdata.tolist() == [[1, 0]] and relative.zmax == pytest.approx(2 / 3)
    one = show(0, False, limit=5)
    assert one.data[0].z.tolist() == [[3, -1]] and (one.data[0].zmin, one.data[0].zmax) == (-5, 5)
    assert one.data[0].showscale is not False and not one.layout.annotations
    (mean,) = show("mean", limit=4).data
    np.testing.assert_allclose(mean.z, [[(3 / 2 + 2 / 3) / 2, (1 / 2 + 4 / 3) / 2]])
    assert (mean.zmin, mean.zmax) == (0, 4) and "channel" not in mean.hovertemplate
    assert "no spread" in show(2).layout.annotations[0].text
    zero = token_margins(Margins("a", 0 * value, spread, 0 * value))
    assert "exactly at its threshold" in figures.margin_map(zero).layout.annotations[0].text


def test_margin_quantiles_and_dynamic_changes_show_the_numbers():
    summary = margin_summary(margins(net(), X))
    (box,) = figures.margin_quantiles(summary).data
    for name, column in (("lowerfence", "q05"), ("q1", "q25"), ("median", "q50"), ("q3", "q75"), ("upperfence", "q95")):
        np.testing.assert_array_equal(getattr(box, name), summary[column])
    rows = pd.DataFrame({"layer": ["a"], "bits": [50], "to_plus": [5], "to_minus": [1], "share_all": [0.5]})
    changes = DynamicBits(rows, {}, np.zeros(2), np.zeros(2))
    assert [trace.y[0] for trace in figures.dynamic_changes(changes).data] == [10, 2, 50]


def test_dynamic_map_shows_the_share_of_each_tokens_bits():
    change = np.array([[[1, 0]], [[-1, 0]], [[0, 0]], [[1, 1]]], np.int8)  # (4, 1, 2)
    found = DynamicBits(pd.DataFrame(), {"a": change, "b": 0 * change}, np.zeros(2), np.zeros(2))
    (heat,) = figures.dynamic_map(found, "a").data
    assert heat.z.tolist() == [[75, 25]] and (heat.zmin, heat.zmax) == (0, 75)
    assert figures.dynamic_map(found, "a", limit=100).data[0].zmax == 100
    none = figures.dynamic_map(found, "b")
    assert none.data[0].zmax == 1 and "No bit" in none.layout.annotations[0].text
    with pytest.raises(ValueError, match="the layers a, b, not 'c'"):
        figures.dynamic_map(found, "c")


def test_flip_figures_show_the_numbers():
    found = compare_orders(voting(), X, "mlp1_point", ("gradient", "margin"))
    found["none"] = fewest_flips(voting(), X, "mlp1_point", "margin", budget=4)
    fig = figures.flips_per_order(found)
    assert [list(trace.y) for trace in fig.data] == [[3, 35, None], [3, 3, None]]
    assert [note.text for note in fig.layout.annotations] == ["not found in<br>4 passes"]
    gaps = {trace.name: trace for trace in figures.flip_gaps(found).data}
    # 1, 2 and 4 flips while growing, 3 by bisection, each 1/8.
    assert gaps["gradient"].x.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(gaps["gradient"].y, [0.1875, 0.0625, -0.0625, -0.1875], atol=1e-4)
    counted = figures.flip_map(found["gradient"], 4, 4).data[0].z
    expected = np.zeros((4, 4), int)
    for bit in found["gradient"].bits.itertuples():
        expected[bit.row, bit.col] += 1
    assert counted.sum() == 3 and (counted == expected).all()
    assert "No flip found in 4 passes" in figures.flip_map(found["none"], 4, 4).layout.annotations[0].text


def test_entropy_and_block_errors_show_the_numbers():
    model = net()
    seen = information(model, X)
    fig = figures.entropy_per_layer({"A": seen, "B": seen}, "balance")
    assert [trace.name for trace in fig.data] == ["A", "B"] and list(fig.data[1].y) == list(seen.balance)
    blocks = errors_by_block(compare_errors({"A": model, "R": net("reactnet_a")}))
    fig = figures.block_errors(blocks[(blocks.model == "A") | (blocks.branch == "conv")], "mse")
    lines = {(trace.name, trace.xaxis): trace for trace in fig.data}
    assert list(lines) == [*((b, "x") for b in ("conv", "point", "short", "long")), ("conv", "x2")]
    part = blocks[(blocks.model == "A") & (blocks.branch == "conv")]
    assert list(lines["conv", "x"].x) == ["conv1", "mlp1"] and list(lines["conv", "x"].y) == list(part.mse)
    assert [trace.showlegend for trace in fig.data] == [True] * 4 + [False]
    assert fig.layout.yaxis2.matches == "y"
    errors = compare_errors({"A": model})
    by_layer = figures.block_errors(errors[errors.layer == "mlp1_1"], by="layer").data
    assert [(trace.name, list(trace.x)) for trace in by_layer] == [(b, ["mlp1_1"]) for b in ("point", "short", "long")]
    assert [trace.y[0] for trace in by_layer] == errors.l1[errors.layer == "mlp1_1"].tolist()
    with pytest.raises(ValueError, match="measure is one of"):
        figures.block_errors(blocks, "n")
    with pytest.raises(ValueError, match="column is one of"):
        figures.entropy_per_layer({}, "n")
