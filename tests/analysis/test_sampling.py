"""Token sources: every expected number below is written by hand."""

import numpy as np
import pytest
import torch

from analysis.figures.sampling import TOKENS, token_grid
from analysis.sampling import distinct_sources, layers, reconstruct, token_sources
from bcdnet import create_model
from bcdnet.layers import sample_tokens
from bcdnet.model import InputError, Network


def net(size: int = 7, **overrides: object) -> Network:
    """Stem, one conv block at full size, one group of MLPs with 16 channels on a map of ``size`` tokens."""
    fields = {"image_size": size, "in_channels": 1, "num_classes": 3, "stem_channels": 16, "channels": (16,)}
    plan = {"blocks": (2,), "strides": (1,), "stem_stride": 1, "mlp_groups": 1, "mlps_per_conv": 1}
    return create_model("bcdnet_a", **(fields | plan | overrides))


def places(model: Network, branch: str, row: int, col: int) -> list[tuple[int, int, bool]]:
    sources = token_sources(model, "mlp1_1", row, col)
    part = sources[sources.branch == branch]
    assert part.quarter.tolist() == [1, 2, 3, 4]
    assert part.channel_start.tolist() == [0, 4, 8, 12] and part.channel_stop.tolist() == [4, 8, 12, 16]
    return list(zip(part.row, part.col, part.wrapped, strict=True))


def test_layers_name_every_unit_with_its_maps():
    table = layers(net(8, stem_stride=2)).set_index("name")
    assert table.index.tolist() == ["conv1_3x3", "conv1_1x1", "mlp1_1", "mlp1_point"]
    assert table.kind.tolist() == ["conv", "conv", "mlp", "conv"]
    assert table.branches["mlp1_1"] == ("point", "short", "long")
    assert (table.height == 4).all() and (table.in_width == 4).all() and (table.channels == 16).all()
    strided = layers(create_model("reactnet_a", width=1 / 8, image_size=32)).set_index("name").loc["conv2_3x3"]
    assert (strided.stride, strided.kernel, strided.in_height, strided.height) == (2, 3, 16, 8)


def test_centre_of_a_7x7_map_reads_nine_tokens_without_wrapping():
    model = net(7)
    assert places(model, "point", 3, 3) == [(3, 3, False)] * 4
    assert places(model, "short", 3, 3) == [(2, 3, False), (4, 3, False), (3, 2, False), (3, 4, False)]
    assert places(model, "long", 3, 3) == [(0, 3, False), (6, 3, False), (3, 0, False), (3, 6, False)]
    assert len(distinct_sources(token_sources(model, "mlp1_1", 3, 3))) == 9


def test_corner_of_a_7x7_map_wraps_round():
    model = net(7)
    assert places(model, "short", 0, 0) == [(6, 0, True), (1, 0, False), (0, 6, True), (0, 1, False)]
    assert places(model, "long", 0, 0) == [(4, 0, True), (3, 0, False), (0, 4, True), (0, 3, False)]
    assert places(model, "long", 6, 5) == [(3, 5, False), (2, 5, True), (6, 2, False), (6, 1, True)]


def test_on_an_even_map_both_long_distances_are_one_token():
    model = net(4)
    assert places(model, "long", 0, 0) == [(2, 0, True), (2, 0, False), (0, 2, True), (0, 2, False)]
    assert places(model, "long", 2, 1) == [(0, 1, False), (0, 1, True), (2, 3, True), (2, 3, False)]
    merged = distinct_sources(token_sources(model, "mlp1_1", 0, 0))
    far = merged[merged.branch == "long"]
    assert far["count"].tolist() == [2, 2] and far.quarters.tolist() == [(1, 2), (3, 4)]
    assert far.offsets.tolist() == [((-2, 0), (2, 0)), ((0, -2), (0, 2))]
    assert not far.wrapped.any()  # one of the two ways does not cross the border
    assert len(merged) == 1 + 4 + 2


def test_shares_follow_the_effective_weights_and_sum_to_one():
    model = net(7, precision="32/1")
    branches = model.units.get_submodule("mlp1_1.op.branches")
    with torch.no_grad():
        for branch, value in zip(branches, (1.0, -2.0, 3.0), strict=True):
            branch.weight.fill_(value)
        branches[0].weight[:, 4:8] = 4  # the point branch's second quarter
    shares = token_sources(model, "mlp1_1", 1, 1).weight
    # By quarter, in units of 4 x 16 weights: 1 4 1 1, 2 2 2 2, 3 3 3 3: 27 in all.
    np.testing.assert_allclose(shares, np.array([1, 4, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]) / 27, rtol=1e-12)


def test_taps_of_a_strided_convolution_and_its_padding():
    model = create_model("reactnet_a", width=1 / 8, image_size=32, precision="32/32")
    with torch.no_grad():
        model.units.get_submodule("conv2_3x3.op").weight.copy_(torch.arange(1.0, 10).reshape(3, 3).expand(8, 8, 3, 3))
    taps = token_sources(model, "conv2_3x3", 0, 3)  # input map 16x16: centre (0, 6)
    assert list(zip(taps.row, taps.col, strict=True)) == [(r, c) for r in (-1, 0, 1) for c in (5, 6, 7)]
    assert taps.inside.tolist() == [False] * 3 + [True] * 6 and not taps.wrapped.any()
    np.testing.assert_allclose(taps.weight, np.arange(1, 10) / 45, rtol=1e-6)
    real = token_sources(create_model("reactnet_b", width=1 / 8, image_size=32), "conv2_1x1", 2, 2)
    assert real[["row", "col", "weight"]].to_numpy().tolist() == [[2, 2, 1]]


def test_a_mixer_reads_every_token():
    model = create_model("mlp_mixer_s", width=1 / 32, image_size=32, num_classes=3)
    sources = token_sources(model, "mixer1", 0, 1)
    assert list(zip(sources.row, sources.col, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    np.testing.assert_allclose(sources.weight, 0.25, rtol=1e-6)  # one scale for all inputs of a bit product
    real = create_model("mlp_mixer_s", width=1 / 32, image_size=32, num_classes=3, precision="32/1")
    up, down = (
        real.units.get_submodule(f"mixer1.{name}.op").weight.data.zero_() for name in ("token_up", "token_down")
    )
    up[0, :, 0, 0], down[1, 0] = torch.tensor([0.0, 0, 1, -3]), 1  # tokens 2 and 3 -> hidden 0 -> token 1
    assert token_sources(real, "mixer1", 0, 1).weight.tolist() == [0, 0, 0.25, 0.75]


def test_equal_branches_are_told_apart():
    assert layers(net(branches="PSS")).branches[2] == ("point", "short", "short 2")
    assert token_sources(net(branches="PLL"), "mlp1_1", 0, 0).branch.unique().tolist() == ["point", "long", "long 2"]


def test_reconstruct_by_hand_and_as_the_network_does():
    x = np.arange(4 * 2 * 3).reshape(4, 2, 3)
    expected = np.array([x[0, [1, 0]], x[1, [1, 0]], x[2][:, [2, 0, 1]], x[3][:, [1, 2, 0]]])
    np.testing.assert_array_equal(reconstruct(x, "short"), expected)
    for branch, letter in (("point", "P"), ("short", "S"), ("long", "L")):
        for distance in ("half", 2):
            big = torch.randn(1, 8, 5, 4)
            theirs = sample_tokens(big, letter, distance)[0]
            np.testing.assert_array_equal(reconstruct(big[0].numpy(), branch, distance), theirs.numpy())


def test_bad_questions_are_answered_with_one_sentence():
    model = net(7)
    with pytest.raises(ValueError, match=r"no layer 'mlp9'; its layers are conv1_3x3"):
        token_sources(model, "mlp9", 0, 0)
    with pytest.raises(ValueError, match=r"7x7 tokens; row 7, column 0"):
        token_sources(model, "mlp1_1", 7, 0)
    with pytest.raises(InputError):
        layers(create_model("reactnet_a", width=1 / 8), (33, 32))
    with pytest.raises(ValueError, match="point, short or long"):
        reconstruct(np.zeros((4, 2, 2)), "near")
    with pytest.raises(ValueError, match="multiple of 4"):
        reconstruct(np.zeros((3, 2, 2)), "short")


def test_the_figure_has_one_clickable_point_per_token_and_dotted_lines_where_it_wraps():
    model = net(7)
    corner, centre = (
        token_grid(token_sources(model, "mlp1_1", i, i), 7, 7, np.zeros((28, 28), np.uint8)) for i in (0, 3)
    )
    targets = [trace for trace in corner.data if trace.name == TOKENS]
    assert len(targets) == 1 and targets[0] is corner.data[-1]
    assert [tuple(p) for p in targets[0].customdata] == [(r, c) for r in range(7) for c in range(7)]
    assert (
        "short: quarter 1 of the channels" in targets[0].hovertext[6 * 7]
        and "round the border" in targets[0].hovertext[42]
    )
    assert "not read" in targets[0].hovertext[8]

    def dotted(fig):
        return sum(len(t.x) // 3 for t in fig.data if t.mode == "lines" and t.line.dash == "dot")

    # Short and long each wrap up and left; every wrapped line has two legs.
    assert dotted(corner) == 8 and dotted(centre) == 0
