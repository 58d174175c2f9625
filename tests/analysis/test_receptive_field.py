"""Receptive fields: sets by hand, and the same sets from gradients and from changed pixels."""

import numpy as np
import pytest
import torch

from analysis.figures.receptive_field import _outline, erf_heatmap, growth_curve, receptive_set
from analysis.receptive_field import (
    CONVOLUTIONS,
    ERF,
    agreement,
    branch_receptive_field,
    effective_receptive_field,
    exact_receptive_field,
    receptive_field_growth,
)
from bcdnet import create_model
from bcdnet.model import Network, map_sizes

TINY = {
    "image_size": 8,
    "in_channels": 1,
    "num_classes": 3,
    "stem_channels": 16,
    "stem_stride": 1,
    "channels": (16,),
    "blocks": (2,),
    "strides": (1,),
    "mlps_per_conv": 1,
}


def tiny(**overrides: object) -> Network:
    """8x8 image; 3x3 stem, 3x3 unit, 1x1 unit, one MLP, one pointwise unit, all on 8x8 tokens."""
    return create_model("bcdnet_a", **(TINY | {"mlp_groups": 1} | overrides)).eval()


def boxes(size: int, *spans: tuple[range, range]) -> np.ndarray:
    field = np.zeros((size, size), bool)
    for rows, cols in spans:
        field[rows.start : rows.stop, cols.start : cols.stop] = True
    return field


def test_convolutions_by_hand():
    model = tiny()
    np.testing.assert_array_equal(exact_receptive_field(model, "stem", 0, 0), boxes(8, (range(2), range(2))))
    np.testing.assert_array_equal(exact_receptive_field(model, "conv1_3x3", 3, 7), boxes(8, (range(1, 6), range(5, 8))))
    strided = create_model("reactnet_a", **(TINY | {"stem_stride": 2, "strides": (2,)}))
    # Stem: token 3 reads pixels 5 to 7. Stride-2 unit: token 1 reads tokens 1 to 3 of a 4x4 map, pixels 1 to 7.
    np.testing.assert_array_equal(exact_receptive_field(strided, "stem", 3, 0), boxes(8, (range(5, 8), range(2))))
    np.testing.assert_array_equal(exact_receptive_field(strided, "conv1_3x3", 1, 0), boxes(8, (range(1, 8), range(4))))


def test_branches_by_hand():
    model = tiny()
    # Tokens of the MLP see 5x5 pixels. Long on 8x8: (4, 0) and (0, 4).
    far = boxes(8, (range(2, 7), range(3)), (range(3), range(2, 7)))
    np.testing.assert_array_equal(branch_receptive_field(model, "mlp1_1", "long", 0, 0), far)
    # Short: (7, 0) and (0, 7) round the border, (1, 0), (0, 1).
    plain = boxes(8, (range(4), range(3)), (range(3), range(4)))
    near = plain | boxes(8, (range(5, 8), range(3)), (range(3), range(5, 8)))
    np.testing.assert_array_equal(branch_receptive_field(model, "mlp1_1", "short", 0, 0), near)
    own = boxes(8, (range(3), range(3)))
    for branch in ("point", "shortcut"):
        np.testing.assert_array_equal(branch_receptive_field(model, "mlp1_1", branch, 0, 0), own)
    np.testing.assert_array_equal(exact_receptive_field(model, "mlp1_1", 0, 0), far | near | own)
    np.testing.assert_array_equal(exact_receptive_field(model, "mlp1_1", 0, 0, wrap=False), far | plain | own)


def test_growth_by_hand():
    growth = receptive_field_growth(tiny(), 0, 0).set_index("layer")
    assert growth.pixels.to_dict() == {
        "stem": 4,
        "conv1_3x3": 9,
        "conv1_1x1": 9,
        # Rows 0-2 and columns 0-2 in full, and (3, 0..2), (0..2, 3) are part of them: 3 * 8 + 5 * 3.
        "mlp1_1": 39,
        "mlp1_point": 39,
    }
    assert growth.share["stem"] == 4 / 64
    # Only row or column 7 is out of reach without wrapping: 3 pixels each; the box is then 7x7.
    assert growth.wrapped["mlp1_1"] == pytest.approx(6 / 39, abs=1e-12)
    assert growth.box["mlp1_1"] == 49 / 64
    # Convolutions alone see what the 3x3 unit under the MLP sees.
    assert growth.convolutions.to_dict() == growth["share"].to_dict() | {"mlp1_1": 9 / 64, "mlp1_point": 9 / 64}


def test_each_branch_without_wrapping_by_hand():
    model = tiny()
    far, near = (branch_receptive_field(model, "mlp1_1", branch, 0, 0, wrap=False) for branch in ("long", "short"))
    # From the corner, half of the ways of either branch stay on the map.
    np.testing.assert_array_equal(far, boxes(8, (range(2, 7), range(3)), (range(3), range(2, 7))))
    np.testing.assert_array_equal(near, boxes(8, (range(4), range(3)), (range(3), range(4))))
    alone = exact_receptive_field(model, "mlp1_1", 0, 0, kinds=CONVOLUTIONS)
    np.testing.assert_array_equal(alone, boxes(8, (range(3), range(3))))
    both = exact_receptive_field(model, "mlp1_1", 0, 0, kinds="PS")
    np.testing.assert_array_equal(both, alone | branch_receptive_field(model, "mlp1_1", "short", 0, 0))


NETS = {
    "odd map": ("bcdnet_a", TINY | {"mlp_groups": 1, "image_size": (14, 14), "strides": (2,)}),
    "two groups, wide image": (
        "bcdnet_a",
        TINY | {"mlp_groups": 2, "blocks": (3,), "image_size": (8, 18), "strides": (2,), "long_range": 3},
    ),
    "PLL": ("bcdnet_a", TINY | {"mlp_groups": 1, "branches": "PLL", "image_size": 10, "stem_stride": 2}),
    "no point branch": ("bcdnet_a", TINY | {"mlp_groups": 1, "branches": "LL", "image_size": 9}),
    "wide stem steps": ("bcdnet_a", TINY | {"mlp_groups": 1, "image_size": 28, "stem_stride": 4}),
    "embeddings": ("bcdnet_b", TINY | {"mlp_groups": 1, "image_size": 20, "stem_stride": 4}),
    "doubling": (
        "reactnet_a",
        TINY | {"stem_channels": 8, "blocks": (1, 2), "channels": (8, 16), "strides": (1, 2), "image_size": 16},
    ),
    "grouped": (
        "reactnet_b",
        TINY | {"stem_channels": 8, "blocks": (1, 2), "channels": (8, 16), "strides": (1, 2), "image_size": 16},
    ),
    "max-pool and real shortcut": (
        "bcdnet_a_18",
        {
            "in_channels": 1,
            "width": 1 / 16,
            "image_size": 48,
            "channels": (64, 128),
            "blocks": (1, 2),
            "strides": (1, 2),
        }
        | {"mlp_stages": (2,), "mlps_per_conv": 1, "num_classes": 3},
    ),
    "mixer": ("mlp_mixer_s", {"in_channels": 1, "width": 1 / 32, "image_size": 32, "blocks": (1,), "num_classes": 3}),
}


def general(name: str, fields: dict, precision: str = "32/32") -> Network:
    """A network in float64 with parameters in general position."""
    torch.manual_seed(0)
    model = create_model(name, **(fields | {"precision": precision})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("case", NETS)
def test_exact_set_is_where_gradients_are_not_zero(case):
    """In a real-valued net no gradient vanishes by chance; several images, because max-pooling picks one input each."""
    model = general(*NETS[case])
    x = torch.randn(40, 1, *model.config.image_size, dtype=torch.float64, requires_grad=True)
    y = model.stem(x)
    outputs = {"stem": y}
    for name, unit in model.units.named_children():
        outputs[name] = y = unit(y)
    for layer, (height, width) in map_sizes(model.config).items():
        for row, col in {(0, 0), (height // 2, width // 2), (height - 1, width // 3)}:
            (gradient,) = torch.autograd.grad(outputs[layer][:, :, row, col].sum(), x, retain_graph=True)
            reached = (gradient != 0).any(0)[0].numpy()
            np.testing.assert_array_equal(
                exact_receptive_field(model, layer, row, col), reached, f"{layer} {row} {col}"
            )


@pytest.mark.parametrize("case", ["odd map", "embeddings", "doubling"])
def test_exact_set_is_the_pixels_whose_change_is_seen(case):
    model = general(*NETS[case])
    height, width = model.config.image_size
    x = torch.randn(1, 1, height, width, dtype=torch.float64)
    changed = x.repeat(height * width, 1, 1, 1)
    changed.view(height * width, -1).diagonal().add_(3)
    layer, (rows, cols) = list(map_sizes(model.config).items())[-1]
    with torch.no_grad():
        y, y0 = (model.units(model.stem(images))[:, :, rows - 1, cols // 2] for images in (changed, x))
    # Batches of different size round differently, by 1e-16 of the maximum; the faintest real change is 2e-3 of it.
    seen = ((y - y0).abs() > 1e-9 * y0.abs().max()).any(1).reshape(height, width).numpy()
    np.testing.assert_array_equal(exact_receptive_field(model, layer, rows - 1, cols // 2), seen)


def test_a_binary_net_sees_nothing_outside_the_set():
    model = general(*NETS["odd map"], precision="1/1")
    field = exact_receptive_field(model, "mlp1_1", 6, 2)
    x = torch.randn(8, 1, 14, 14, dtype=torch.float64)
    outside = torch.where(torch.from_numpy(field), x, torch.randn_like(x) * 9)
    inside = torch.where(torch.from_numpy(field), torch.randn_like(x) * 9, x)
    with torch.no_grad():
        y, y_outside, y_inside = (model.units[:3](model.stem(images))[:, :, 6, 2] for images in (x, outside, inside))
    assert not field.all() and torch.equal(y, y_outside) and not torch.equal(y, y_inside)


def constant_stem() -> Network:
    """A stem that sums nine pixels, times 1/4, in each of its 16 channels."""
    model = tiny()
    with torch.no_grad():
        model.stem.conv.weight.fill_(0.25)
        model.stem.bn.weight.fill_((1 + model.stem.bn.eps) ** 0.5)
    return model


@pytest.mark.parametrize("method", ["gradient", "perturbation"])
def test_effective_field_of_a_linear_layer_by_hand(method):
    # The images' mean is 0, so a perturbed pixel moves by 1 and the token by 16 / 4 = 4, as the gradient says.
    images = torch.ones(20, 1, 8, 8)
    images[::2] = -1
    calls: list[tuple[int, int]] = []
    erf = effective_receptive_field(
        constant_stem(), images, "stem", 2, 6, method, lambda *done: calls.append(done), block=1
    )
    np.testing.assert_allclose(erf.map, 4.0 * boxes(8, (range(1, 4), range(5, 8))), rtol=1e-5, atol=1e-5)
    assert erf.area == {20: 2 / 64, 50: 5 / 64, 90: 9 / 64} and erf.inside == pytest.approx(1, abs=1e-5)
    assert (erf.n, erf.layer, erf.row, erf.col, erf.method) == (20, "stem", 2, 6, method)
    # 20 images in passes of 16; per image, 64 pixels in passes of 16.
    total = {"gradient": 2, "perturbation": 80}[method]
    assert calls == [(k, total) for k in range(1, total + 1)]


@pytest.mark.parametrize("method", ["gradient", "perturbation"])
def test_the_share_that_goes_round_the_border_by_hand(method):
    model = tiny(precision="32/32")
    with torch.no_grad():
        model.stem.conv.weight.fill_(0.25)
        for unit in list(model.units)[:2]:
            unit.op.weight.zero_()  # and so the identity, as nothing is negative
        for branch in model.units.mlp1_1.op.branches:
            branch.weight.fill_(0.1)
        model.units.mlp1_1.bn.weight.fill_((1 + model.units.mlp1_1.bn.eps) ** 0.5)
    images = torch.ones(2, 1, 8, 8)
    images[1] = 3
    erf = effective_receptive_field(model, images, "mlp1_1", 0, 0, method, block=1)
    # Pixels behind a token: 4 in a corner, 6 at a border. From corner (0, 0), each of 16 outputs weighs its own token
    # by 16 * 0.1 (and the shortcut by 1 / 16 of 16), each quarter of short and long by 4 * 0.1.
    # Short: (1, 0), (0, 1), and round the border (7, 0), (0, 7). Long: (4, 0) and (0, 4), each once either way.
    own, inside, round_ = (25.6 + 16) * 4, 6.4 * (6 + 6 + 6 + 6), 6.4 * (4 + 4 + 6 + 6)
    assert erf.wrapped == pytest.approx(round_ / (own + inside + round_), rel=1e-4)
    assert erf.map.sum() == pytest.approx(0.25 * (own + inside + round_), rel=1e-3)
    assert effective_receptive_field(model, images, "conv1_1x1", 0, 0, method, block=1).wrapped == pytest.approx(0)


def test_two_fields_are_compared_over_the_blocks_of_the_coarser_one():
    def field(values: np.ndarray, block: int) -> ERF:
        return ERF(values, 1, {}, 1.0, 0.0, block, "stem", 0, 0, "gradient")

    fine = np.arange(25.0).reshape(5, 5)
    coarse = np.kron([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], np.ones((2, 2)))[:5, :5]
    # Sums of blocks of 2, the last ones cut: 12 20 13, 52 60 33, 41 45 24 against 4 8 6, 16 20 12, 14 16 9.
    ranks = np.array([0, 2, 1, 7, 8, 4, 5, 6, 3]), np.array([0, 2, 1, 6.5, 8, 4, 5, 6.5, 3])
    assert agreement(field(fine, 1), field(coarse, 2)) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert np.isnan(agreement(field(fine, 1), field(np.ones((5, 5)) * 0, 2)))
    with pytest.raises(ValueError, match="images of one size"):
        agreement(field(fine, 1), field(coarse[:4], 2))


def test_opposite_gradients_do_not_cancel():
    model = tiny(in_channels=2)
    unit = model.units.conv1_3x3
    with torch.no_grad():
        model.stem.conv.weight[:, 0], model.stem.conv.weight[:, 1] = 0.25, -0.25
        model.stem.bn.weight.fill_((1 + model.stem.bn.eps) ** 0.5)
        unit.op.weight.zero_()  # alpha = 0: the unit is RPReLU(x)
        unit.act.slope.fill_(-0.5)
    images = torch.zeros(2, 2, 8, 8)
    images[0, 0], images[1, 0] = 1, -1
    erf = effective_receptive_field(model, images, "conv1_3x3", 2, 6)
    # 16 channels: +4 and -4 on the two colours of the first image, -2 and +2 on those of the second; (8 + 4) / 2.
    np.testing.assert_allclose(erf.map, 6.0 * boxes(8, (range(1, 4), range(5, 8))), rtol=1e-6, atol=0)


def test_a_perturbed_block_shares_its_change_equally_also_at_the_edge():
    images = torch.ones(2, 1, 8, 8)
    images[1] = -1
    erf = effective_receptive_field(constant_stem(), images, "stem", 2, 6, "perturbation", block=3)
    # The token sums rows 1 to 3, columns 5 to 7, and moves by 4 for each of these pixels that a block changes.
    # Blocks of 3 on 8 pixels: rows 0-2 hold two of the three, 3-5 one; columns 3-5 one, and 6-7, 2 wide, two.
    expected = np.zeros((8, 8))
    expected[0:3, 3:6] = 4 * 2 / 9
    expected[0:3, 6:8] = 4 * 4 / 6
    expected[3:6, 3:6] = 4 * 1 / 9
    expected[3:6, 6:8] = 4 * 2 / 6
    np.testing.assert_allclose(erf.map, expected, rtol=1e-5, atol=1e-5)
    # (2 * 8/9 + 4 * 16/6 + 4/9 + 2 * 8/6) / 36
    assert erf.inside == pytest.approx(35 / 81, abs=1e-5)


def test_gradients_stay_inside_the_exact_set():
    torch.manual_seed(0)
    erf = effective_receptive_field(tiny(image_size=20), torch.randn(3, 1, 20, 20), "mlp1_1", 0, 9)
    assert erf.inside == 1.0 and 0 < erf.area[20] < erf.area[50] < erf.area[90] < 1


def test_nothing_to_see_is_nan():
    model = tiny()
    with torch.no_grad():
        model.stem.conv.weight.zero_()
    erf = effective_receptive_field(model, torch.randn(2, 1, 8, 8))
    assert not erf.map.any() and np.isnan(erf.inside) and np.isnan(erf.area[50]) and (erf.row, erf.col) == (4, 4)


class Cancelled(BaseException):
    pass


@pytest.mark.parametrize("method", ["gradient", "perturbation"])
@pytest.mark.parametrize("cancel", [False, True])
def test_nothing_is_left_behind(method, cancel):
    model = tiny().train()
    model.units[0].bn.eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(2, 1, 8, 8)
    kept = images.clone()

    def progress(done: int, total: int) -> None:
        if cancel:
            raise Cancelled

    try:
        effective_receptive_field(model, images, method=method, progress=progress)
        assert not cancel
    except Cancelled:
        assert cancel
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks and not m._backward_hooks for m in model.modules())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert torch.equal(images, kept) and not images.requires_grad


def test_works_under_inference_mode_and_agrees():
    model = tiny()
    images = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        inner = effective_receptive_field(model, images.clone())
        assert torch.is_inference_mode_enabled()
    np.testing.assert_array_equal(inner.map, effective_receptive_field(model, images).map)


def test_bad_questions_are_answered_with_one_sentence():
    model, images = tiny(), torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="no layer 'mlp7'; its layers are stem, conv1_3x3"):
        exact_receptive_field(model, "mlp7", 0, 0)
    with pytest.raises(ValueError, match="8x8 tokens; row 0, column 8"):
        exact_receptive_field(model, "stem", 0, 8)
    with pytest.raises(ValueError, match="branches point, short, long, shortcut, not 'conv'"):
        branch_receptive_field(model, "mlp1_1", "conv", 0, 0)
    with pytest.raises(ValueError, match="layer stem has no branches"):
        branch_receptive_field(model, "stem", "conv", 0, 0)
    with pytest.raises(ValueError, match="gradient or perturbation"):
        effective_receptive_field(model, images, method="magic")
    with pytest.raises(ValueError, match="no layer 'x'"):
        effective_receptive_field(model, images, "x")
    with pytest.raises(ValueError, match="at least one image"):
        effective_receptive_field(model, images[:0])


def test_figures_show_the_set_its_border_and_the_growth():
    model = tiny()
    field, plain = (exact_receptive_field(model, "mlp1_1", 0, 0, wrap=wrap) for wrap in (True, False))
    fig = receptive_set(field, plain)
    assert (np.asarray(fig.data[0].z) == field.astype(int) + (field & ~plain)).all()
    assert [t.name for t in fig.data[1:]] == [
        "reached (51.6% of the image)",
        "reached only round the border (9.4% of the image)",
    ]
    x, y = _outline(boxes(4, (range(1, 2), range(2, 4))))  # two pixels side by side: six edges
    assert len(x) == len(y) == 18 and set(x) == {1.5, 2.5, 3.5, None} and set(y) == {0.5, 1.5, None}
    erf = effective_receptive_field(model, torch.randn(1, 1, 8, 8), "mlp1_1", 0, 0)
    assert erf_heatmap(erf, field, limit=2.0).data[0].zmax == 2.0
    assert erf_heatmap(erf, log=True).data[0].colorbar.ticktext[-1] == f"{erf.map.max():.2g}"
    growth = receptive_field_growth(model, 0, 0)
    curve = growth_curve({"ours": growth})
    assert list(curve.data[0].y) == list(100 * growth.share) and curve.data[1].line.dash == "dot"
    assert list(curve.layout.xaxis.ticktext) == list(growth.layer)
