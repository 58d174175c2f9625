"""Binarization analyses: errors, bits and thresholds by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.binarization import (
    CHUNK,
    LatentWeights,
    activation_error,
    activation_statistics,
    binarization_error,
    branch_order,
    histogram_edges,
    latent_weights,
    mark_weights,
    order_summary,
    thresholds,
    weight_statistics,
)
from analysis.figures.binarization import (
    activation_balance,
    activation_errors,
    brushed,
    error_bars,
    threshold_plot,
    weight_histograms,
)
from bcdnet import create_model
from bcdnet.model import Network


def net(name: str = "bcdnet_a", **overrides: object) -> Network:
    """4-channel stem, 3x3 and 1x1 unit, one MLP, one pointwise unit, on 4x4 tokens."""
    fields = {"image_size": 4, "in_channels": 1, "num_classes": 3, "stem_channels": 4, "channels": (4,)}
    plan = {"blocks": (2,), "strides": (1,), "stem_stride": 1, "mlp_groups": 1, "mlps_per_conv": 1}
    return create_model(name, **fields, **plan, **overrides).eval()


def set_weight(model: Network, path: str, values: list[list[float]]) -> None:
    weight = model.units.get_submodule(path).get_parameter("weight")
    weight.data = torch.tensor(values, dtype=torch.float32)[:, :, None, None]


def constant_input(model: Network, values: list[float]) -> None:
    """Make every token of the stem's output these channels, whatever the image."""
    with torch.no_grad():
        model.stem.conv.weight.zero_()
        model.stem.bn.bias.copy_(torch.tensor(values))


def test_eq_23_on_a_2x2_weight_by_hand():
    for precision in ("1/1", "32/1", "32/32"):
        model = net(precision=precision)
        # alpha = (2, 4): differences 1, 1 and 2, 2.
        set_weight(model, "mlp1_1.op.branches.1", [[1, -3], [2, -6]])
        set_weight(model, "conv1_1x1.op", [[0, -2], [-1, -1]])  # sign(0) = +1, alpha = (1, 1): 1, 1, 0, 0
        errors = binarization_error(model).set_index(["layer", "branch"])
        short = errors.loc[("mlp1_1", "short")]
        assert (short.group, short.l1, short.mse, short.relative, short.n) == ("mlp1", 1.5, 2.5, 0.5, 4)
        conv = errors.loc[("conv1_1x1", "conv")]
        assert (conv.group, conv.l1, conv.mse, conv.relative) == ("conv1", 0.5, 0.5, 0.5)


def test_errors_cover_every_binary_product_and_no_other():
    assert binarization_error(net()).layer.tolist() == ["conv1_3x3", "conv1_1x1", *["mlp1_1"] * 3, "mlp1_point"]
    real = create_model("reactnet_c", width=1 / 8, image_size=32, blocks=(1, 1, 1, 1, 1))
    assert all(layer.endswith("_3x3") for layer in binarization_error(real).layer)
    mixer = binarization_error(create_model("mlp_mixer_s", width=1 / 32, image_size=32, blocks=(1,)))
    assert mixer.layer.tolist() == [f"mixer1.{n}" for n in ("token_up", "token_down", "channel_up", "channel_down")]
    assert set(mixer.group) == {"mixer1"}


def test_zero_weights_have_no_error():
    model = net()
    set_weight(model, "conv1_1x1.op", [[0, 0], [0, 0]])
    row = binarization_error(model).set_index("layer").loc["conv1_1x1"]
    assert (row.l1, row.mse, row.relative) == (0, 0, 0)


def test_branch_order_tells_the_truth():
    def errors(layer, *pairs):
        return [{"layer": layer, "group": "g", "branch": branch, "l1": value} for branch, value in pairs]

    frame = pd.DataFrame(
        errors("a", ("point", 3), ("short", 2), ("long", 1))
        + errors("b", ("point", 3), ("short", 1), ("long", 2))
        + errors("c", ("point", 2), ("short", 2), ("long", 1))  # a tie is not larger
        + errors("d", ("point", 3), ("short", 1), ("short 2", 2))
        + errors("e", ("point", 2), ("long", 3), ("long 2", 1))
        + errors("f", ("conv", 1))
    )
    order = branch_order(frame).set_index("layer")
    assert order.as_paper.to_dict() == {"a": True, "b": False, "c": False, "d": True, "e": False}
    assert order.opposite.to_dict() == dict.fromkeys("abcde", False)
    assert order.smallest.to_dict() == {"a": "long", "b": "short", "c": "long", "d": "short", "e": "long 2"}
    assert order.order["b"] == "point > long > short"
    assert branch_order(frame[frame.layer == "f"]).empty
    turned = branch_order(frame.assign(l1=-frame.l1)).set_index("layer")
    assert turned.opposite.to_dict() == order.as_paper.to_dict() and not turned.as_paper.any()


def test_order_summary_counts_layers_and_weighs_the_means():
    def errors(model, layer, n, point, short, long):
        values = {"point": point, "short": short, "long": long}
        return [{"model": model, "layer": layer, "group": "g", "branch": b, "l1": v, "n": n} for b, v in values.items()]

    frame = pd.DataFrame(
        errors("A", "a", 1, 3.0, 2.0, 1.0)
        + errors("A", "b", 1, 3.0, 2.0, 1.5)
        + errors("A", "c", 2, 1.0, 2.0, 4.0)
        + [{"model": "A", "layer": "d", "group": "g", "branch": "conv", "l1": 9.0, "n": 100}]
        + [{"model": "R", "layer": "d", "group": "g", "branch": "conv", "l1": 9.0, "n": 100}]
        + errors("B", "a", 1, 1.0, 3.0, 2.0)
    )
    summary = order_summary(frame).set_index("model")
    # Weighted means of A: point (3 + 3 + 2 * 1) / 4 = 2, short 2, long (1 + 1.5 + 2 * 4) / 4 = 2.625.
    expected = {"layers": 3, "as_paper": 2, "opposite": 1, "smallest": "long", "smallest_in": 2}
    assert summary.loc["A"].to_dict() == {**expected, "order": "long > point > short"}
    expected = {"layers": 1, "as_paper": 0, "opposite": 0, "smallest": "point", "smallest_in": 1}
    assert summary.loc["B"].to_dict() == {**expected, "order": "short > long > point"}
    assert list(summary.index) == ["A", "B"]
    assert order_summary(frame[frame.model == "R"]).empty


def test_weight_statistics_by_hand():
    model = net()
    set_weight(model, "conv1_1x1.op", [[1, -3, 0.1, 3.9], [-4, -4, -4, -4]])  # alpha = (2, 4)
    row = weight_statistics(model).set_index("layer").loc["conv1_1x1"]
    assert row.positive == 3 / 8 and row.near_zero == 1 / 8 and row.n == 8
    assert row.alpha_mean == pytest.approx(3, abs=1e-6) and row.alpha_std == pytest.approx(1, abs=1e-6)
    assert row.entropy == pytest.approx(0.954434, abs=1e-6)  # of a bit that is +1 three times in eight
    set_weight(model, "conv1_1x1.op", [[1, 1], [2, 2]])
    assert weight_statistics(model).set_index("layer").entropy["conv1_1x1"] == 0


def test_activation_statistics_by_hand():
    model = net()
    constant_input(model, [0.5, -0.5, 2, -2])
    with torch.no_grad():
        model.units.conv1_3x3.sign.bias.fill_(1)
    first = activation_statistics(model, torch.randn(2, 1, 4, 4)).set_index("layer").loc["conv1_3x3"]
    # The sign sees 1.5, 0.5, 3, -1; the STE's gradient is 0 from 1 and from -1 on.
    assert first.to_dict() == {"positive": 0.75, "entropy": 0, "magnitude": 1.5, "clipped": 0.75, "constant": 1}


def test_activation_entropy_of_a_channel_that_is_half_on():
    model = net()
    with torch.no_grad():
        model.stem.conv.weight.zero_()
        model.stem.conv.weight[:, :, 1, 1] = torch.tensor([1.0, 1, -1, 0])[:, None]
    x = torch.ones(1, 1, 4, 4)
    x[..., :2] = -1
    first = activation_statistics(model, x).set_index("layer").loc["conv1_3x3"]
    assert (first.positive, first.entropy, first.constant) == (0.625, 0.75, 0.25)  # 1/2, 1/2, 1/2, 1


def test_activation_error_by_hand():
    model = net()
    with torch.no_grad():
        model.stem.conv.weight.zero_()
        model.stem.conv.weight[0, 0, 1, 1] = 1
        model.stem.bn.bias.copy_(torch.tensor([0.0, -1, 1, 0]))
        model.stem.bn.eps = 0.0
    x = torch.stack([torch.full((1, 4, 4), 2.0), torch.zeros(1, 4, 4)])
    frame = activation_error(model, x)
    assert list(frame.layer[::2]) == ["conv1_3x3", "conv1_1x1", "mlp1_1", "mlp1_point"]
    assert frame.image.tolist() == [0, 1] * 4
    first = frame[frame.layer == "conv1_3x3"].drop(columns="layer")
    # Magnitudes 2, 1, 1, 0: their mean is 1, and they are off it by 1, 0, 0, 1. Then 0, 1, 1, 0.
    expected = [[0, 0.5, 0.5, 0.5, 1], [1, 0.5, 0.25, 1, 0.5]]
    np.testing.assert_allclose(first[["image", "l1", "mse", "relative", "alpha"]], expected, atol=1e-6)
    constant_input(model, [0, 0, 0, 0])
    zeros = activation_error(model, x).set_index(["layer", "image"]).loc[("conv1_3x3", 0)]
    assert zeros.tolist() == [0, 0, 0, 0]


def test_activation_error_does_not_depend_on_the_chunks_and_can_be_cancelled():
    model, seen = net("bcdnet_b"), []
    x = torch.randn(CHUNK + 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = activation_error(model, x, lambda *at: seen.append(at))
    assert seen == [(CHUNK, CHUNK + 3), (CHUNK + 3, CHUNK + 3)]
    last = activation_error(model, x[-1:]).drop(columns="image").set_index("layer")
    np.testing.assert_allclose(
        whole[whole.image == CHUNK + 2].drop(columns="image").set_index("layer"), last, rtol=1e-5
    )
    with pytest.raises(ValueError, match="at least one image"):
        activation_error(model, x[:0])

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        activation_error(model, x, stop)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_thresholds_are_where_the_bit_turns():
    model = net("bcdnet_b")
    unit = model.units.conv1_3x3
    with torch.no_grad():
        unit.sign.bias.fill_(0.25)
        unit.embedding.reduce.weight.fill_(0.5)  # half the sum of the four channel means
        unit.embedding.threshold.weight.fill_(-2)
    constant_input(model, [1, 2, 3, 2])
    static = thresholds(model).query("layer == 'conv1_3x3'")
    assert static.static.tolist() == [-0.25] * 4 and static.dynamic.isna().all() and (static.image == -1).all()
    rows = thresholds(model, torch.randn(2, 1, 4, 4))
    dynamic = rows.query("layer == 'conv1_3x3'")
    assert dynamic.image.tolist() == [0] * 4 + [1] * 4 and dynamic.channel.tolist() == [0, 1, 2, 3] * 2
    assert dynamic.dynamic.tolist() == [-8] * 8 and dynamic.total.tolist() == [-8.25] * 8
    # What the sign sees is the channels 1, 2, 3, 2 and 8.25 more.
    assert activation_statistics(model, torch.randn(2, 1, 4, 4)).magnitude[0] == 10.25
    bits = unit.sign(torch.tensor([-8.25, -8.2501]).view(2, 1, 1, 1).expand(2, 4, 1, 1), torch.full((2, 4), -8.0))
    assert bits[0].eq(1).all() and bits[1].eq(-1).all()
    mlp = rows.query("layer == 'mlp1_1'")  # no embedding: the same for every image
    assert len(mlp) == 4 and (mlp.dynamic == 0).all() and (mlp.image == -1).all()


def test_latent_weights_by_hand_and_as_copies():
    model = net()
    set_weight(model, "mlp1_1.op.branches.2", [[1, -3], [0, -6]])
    found = latent_weights(model, "mlp1_1", "long")
    assert found.latent[..., 0, 0].tolist() == [[1, -3], [0, -6]] and found.sign[..., 0, 0].tolist() == [
        [1, -1],
        [1, -1],
    ]
    assert found.scaled[..., 0, 0].tolist() == [[2, -2], [3, -3]] and found.alpha.tolist() == [2, 3]
    found.latent[:] = 9
    assert model.units.mlp1_1.op.branches[2].weight.max() == 1
    assert latent_weights(net(), "mlp1_1").latent.shape == (12, 4, 1, 1)
    with pytest.raises(ValueError, match="no layer 'fc'"):
        latent_weights(model, "fc")
    with pytest.raises(ValueError, match="branches conv, not 'long'"):
        latent_weights(model, "conv1_1x1", "long")


def by_hand() -> LatentWeights:
    latent = np.array([[1.0, -3], [0.1, -4.1]])
    sign = np.array([[1.0, -1], [1, -1]])
    alpha = np.array([2, 2.1])
    return LatentWeights(latent, sign, alpha[:, None] * sign, alpha)


def test_marked_weights_by_hand():
    weights = by_hand()  # off by 1, 1, 2 and 2
    latent = mark_weights(weights, 0, 1)
    assert latent.chosen.tolist() == [[True, False], [True, False]]
    assert (latent.n, latent.share, latent.positive, latent.near_zero) == (2, 0.5, 1, 0.5)  # 0.1 < 0.21, not 1 < 0.2
    assert (latent.l1, latent.error_share) == (pytest.approx(1.5), pytest.approx(0.5))
    assert mark_weights(weights, 0, 1, near_zero=0.6).near_zero == 1
    signs = mark_weights(weights, -1, -1, "sign")
    assert signs.chosen.tolist() == [[False, True], [False, True]] and signs.positive == signs.near_zero == 0
    scaled = mark_weights(weights, 2.05, 9, "scaled")
    assert scaled.chosen.tolist() == [[False, False], [True, False]]
    assert (scaled.l1, scaled.error_share) == (pytest.approx(2), pytest.approx(1 / 3))
    none = mark_weights(weights, 5, 6)
    assert none.n == none.share == 0 and not none.chosen.any() and np.isnan([none.positive, none.l1]).all()
    exact = LatentWeights(weights.scaled, weights.sign, weights.scaled, weights.alpha)
    assert mark_weights(exact, 0, 9).error_share == 0
    with pytest.raises(ValueError, match="latent, sign, scaled, not by 'bits'"):
        mark_weights(weights, 0, 1, "bits")


@pytest.mark.parametrize("ask", [activation_statistics, activation_error, thresholds])
def test_no_hook_or_mode_is_left_behind(ask):
    model = net("bcdnet_b").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ask(model, torch.randn(2, 1, 4, 4))
    with pytest.raises(ValueError, match="takes images of shape"):
        ask(model, torch.randn(2, 3, 4, 4))
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_figures_show_the_numbers():
    model = net("bcdnet_b", precision="1/1")
    x = torch.randn(3, 1, 4, 4)
    errors = binarization_error(model)
    bars = {trace.name: trace for trace in error_bars(errors, "mse").data}
    assert list(bars) == ["conv", "point", "short", "long"]
    assert list(bars["short"].y) == errors[errors.branch == "short"].mse.tolist()
    # Three conv layers at 0, 1 and 3 with one bar each; the MLP at 2 with three.
    np.testing.assert_allclose(bars["conv"].x, [0, 1, 3], atol=1e-12)
    np.testing.assert_allclose(
        [bars[b].x[0] for b in ("point", "short", "long")], [2 - 0.8 / 3, 2, 2 + 0.8 / 3], atol=1e-12
    )
    latent = latent_weights(model, "mlp1_1")
    counted = [sum(trace.y) for trace in weight_histograms(latent).data]  # -1 and +1 in latent, sign and scaled
    negative, positive = int((latent.sign < 0).sum()), int((latent.sign > 0).sum())
    assert counted == [negative] * 3 + [positive] * 3
    statistics = activation_statistics(model, x)
    np.testing.assert_allclose(activation_balance(statistics).data[0].y, 100 * statistics.positive)
    table = thresholds(model, x)
    assert [t.name for t in threshold_plot(table, "conv1_3x3", 1).data] == [
        "range over 3 images",
        "static, −b",
        "this image",
    ]
    assert [t.name for t in threshold_plot(table, "mlp1_1", 1).data] == ["static, −b"]


def test_marked_weights_stand_out_in_all_three_histograms():
    weights = by_hand()
    marked = mark_weights(weights, 0, 1).chosen
    traces = weight_histograms(weights, bins=9, marked=marked).data
    plain, chosen = traces[:6], traces[6:]
    assert [sum(trace.y) for trace in plain] == [2] * 6 and {trace.opacity for trace in plain} == {0.3}
    assert [sum(trace.y) for trace in chosen] == [0, 0, 0, 2, 2, 2] and {trace.opacity for trace in chosen} == {1}
    edges = histogram_edges(weights, 9)
    assert len(edges) == 11 and (edges[0], edges[-1]) == (-4.1, 4.1) and 0 in edges
    # Of +1, 0.1 and 1 lie in the bins behind 0 and 0.82; scaled they are 2.1 and 2, both behind 1.64.
    assert [list(trace.y) for trace in (chosen[3], chosen[5])] == [
        [0, 0, 0, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 2, 0, 0],
    ]
    assert chosen[4].x == (1,) and plain[1].x == (-1,)
    fig = weight_histograms(weights)
    assert fig.layout.xaxis3.matches == "x" and fig.layout.dragmode == "select" and len(fig.data) == 6


@pytest.mark.parametrize(
    ("selection", "marked"),
    [
        ({"box": [{"xref": "x", "x": [0.3, -0.6]}]}, ("latent", -1, 0.5)),
        ({"box": [{"xref": "x3", "x": [0.5, 9]}], "points": [{"x": 0}]}, ("scaled", 0.5, 1)),
        ({"box": [{"xref": "x", "x": [1.5, 2]}]}, None),
        ({"box": [{"xref": "x2", "x": [-2, 0]}]}, ("sign", -1, -1)),
        ({"box": [{"xref": "x2", "x": [-2, 0.6]}]}, ("sign", -1, 1)),
        ({"box": [{"xref": "x2", "x": [-0.4, 0.4]}]}, None),
        ({"box": [{"xref": "x2", "x": [0.7, 0.9]}]}, ("sign", 1, 1)),
        ({"points": [], "box": []}, None),
        ({}, None),
    ],
)
def test_a_drag_marks_whole_bins(selection, marked):
    assert brushed(selection, np.linspace(-1, 1, 5)) == marked


def test_activation_errors_show_the_image_within_the_set():
    others = pd.DataFrame({"layer": ["b"] * 3 + ["a"] * 3, "image": [0, 1, 2] * 2, "l1": [1.0, 2, 3, 4, 4, 4]})
    picture = pd.DataFrame({"layer": ["b", "a"], "image": [0, 0], "l1": [2.5, 4.0]})
    box, marks = activation_errors(picture, others, "l1").data
    assert list(box.x) == ["b", "a"] and list(box.median) == [2, 4] and list(box.q1) == [1.5, 4]
    assert list(marks.y) == [2.5, 4] and box.name == "3 images"
    assert len(activation_errors(picture, measure="l1").data) == 1
    with pytest.raises(ValueError, match="measure is one of"):
        activation_errors(picture, measure="n")
