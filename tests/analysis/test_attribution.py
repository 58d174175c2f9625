"""Attribution: hand-computed maps, honest labels, and a network left exactly as it was found."""

import nets
import numpy as np
import pytest
import torch
from captum.attr import LRP, DeepLift, GuidedBackprop, Saliency

from analysis.attribution import (
    attribute,
    cost_estimate,
    default_layer,
    gradient_validity,
    method_status,
    rank_correlation,
    target_layers,
)
from analysis.methods import METHODS
from bcdnet import create_model

TINY = {**nets.TINY, "mlp_groups": 2}
RUNNABLE = [key for key, method in METHODS.items() if method.validity != "invalid"]
# Small enough to be quick, uneven enough to show a wrong count.
QUICK = {
    "smooth_grad": {"samples": 5, "batch": 2},
    "integrated_gradients": {"steps": 7, "batch": 3},
    "occlusion": {"window": 11, "stride": 5, "batch": 4},
    "feature_ablation": {"grid": 3, "batch": 4},
    "shapley_value_sampling": {"grid": 3, "samples": 2, "batch": 4},
}


def tiny(name="bcdnet_b", **overrides):
    torch.manual_seed(0)
    return create_model(name, **{**TINY, **overrides}).double().eval()


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def x():
    return torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def logits(model, x):
    with torch.no_grad():
        return model(x)[0]


def test_grad_cam_at_the_last_unit_is_the_head_applied_at_every_token(model, x):
    cam = attribute(model, x, 3)
    with torch.no_grad():
        features = model.units(model.stem(x))[0]  # (C, 7, 7)
        weight, bias = (model.fc.weight + model.fc_dist.weight)[3] / 2, (model.fc.bias + model.fc_dist.bias)[3] / 2
        by_hand = torch.einsum("c,chw->hw", weight, features) / 49
    np.testing.assert_allclose(cam.raw, by_hand.numpy(), rtol=0, atol=1e-12)
    assert cam.raw.sum() == pytest.approx((logits(model, x)[3] - bias).item(), abs=1e-12)
    assert (cam.raw < 0).any() and (cam.raw > 0).any()
    assert cam.map.shape == (28, 28) and cam.map.dtype == np.float64
    assert (cam.layer, cam.validity, cam.forwards, cam.notes) == ("mlp2_point", "exact", 1, ())


def test_a_logit_difference_is_the_difference_of_the_maps(model, x):
    why, not_that = (attribute(model, x, k, layer="conv3_1x1").map for k in (3, 5))
    both = attribute(model, x, 3, layer="conv3_1x1", against=5)
    np.testing.assert_allclose(both.map, why - not_that, rtol=0, atol=1e-12)
    assert both.against == 5


def test_one_window_over_everything_is_the_whole_change_of_the_logit(model, x):
    change = (logits(model, x) - logits(model, torch.full_like(x, 0.5)))[2].item()
    occluded = attribute(model, x, 2, "occlusion", window=28, baseline=0.5)
    np.testing.assert_allclose(occluded.map, change, rtol=0, atol=1e-6)  # Captum adds up windows in float32
    ablated = attribute(model, x, 2, "feature_ablation", grid=1, baseline=0.5)
    assert ablated.raw.shape == (1, 1)
    np.testing.assert_allclose(ablated.map, change, rtol=0, atol=1e-12)


def test_own_regions_are_removed_one_at_a_time(model, x):
    regions = np.full((28, 28), 40)
    regions[:, 20:] = 7
    left, right = x.clone(), x.clone()
    left[..., :20], right[..., 20:] = 0, 0
    ablated = attribute(model, x, 2, "feature_ablation", regions=regions)
    full = logits(model, x)[2]
    np.testing.assert_allclose(ablated.map[:, :20], (full - logits(model, left)[2]).item(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ablated.map[:, 20:], (full - logits(model, right)[2]).item(), rtol=0, atol=1e-12)
    assert ablated.forwards == 3 == cost_estimate(model, "feature_ablation", regions=regions)


def test_blocks_of_an_uneven_grid_carry_one_value_each(model, x):
    ablated = attribute(model, x, 2, "feature_ablation", grid=3)
    # 28 pixels in 3 blocks start at 0, 10 and 19.
    starts = [0, 10, 19]
    np.testing.assert_array_equal(ablated.raw, ablated.map[starts][:, starts])
    np.testing.assert_array_equal(np.repeat(np.repeat(ablated.raw, [10, 9, 9], 0), [10, 9, 9], 1), ablated.map)


def test_shapley_values_sum_to_the_change_of_the_logit(model, x):
    shapley = attribute(model, x, 4, "shapley_value_sampling", grid=3, samples=3)
    change = (logits(model, x) - logits(model, torch.zeros_like(x)))[4].item()
    assert shapley.output_change == pytest.approx(change, abs=1e-12)
    assert abs(shapley.residual) < 1e-6  # Captum adds up in float32
    assert shapley.raw.sum() == pytest.approx(change, abs=1e-6)


def test_integrated_gradients_are_complete_without_signs_only(model, x):
    twin = tiny("bcdnet_a", precision="32/32")
    true = attribute(twin, x, 4, "integrated_gradients", steps=200)
    assert abs(true.residual) < 2e-3 * abs(true.output_change)
    assert true.validity == "exact"
    surrogate = attribute(model, x, 4, "integrated_gradients", steps=200)
    assert abs(surrogate.residual) > 0.1 * abs(surrogate.output_change)
    assert surrogate.validity == "surrogate"
    assert any("unaccounted" in note for note in surrogate.notes)


@pytest.mark.parametrize("method", RUNNABLE)
def test_the_estimate_is_the_count_and_progress_reaches_it(model, x, method):
    seen = []
    result = attribute(model, x, 0, method, progress=lambda *done: seen.append(done), **QUICK.get(method, {}))
    assert result.forwards == cost_estimate(model, method, **QUICK.get(method, {}))
    assert seen[-1] == (result.forwards, result.forwards)
    assert seen == sorted(seen)
    assert np.isfinite(result.map).all() and result.map.any()


class Cancelled(BaseException):
    pass


def traces(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad is None for parameter in model.parameters()],
        sum(len(getattr(module, hook)) for module in model.modules() for hook in hooks),
        {key: value.clone() for key, value in model.state_dict().items()},
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),
        torch.is_grad_enabled(),
    )


def assert_same(before, after):
    for a, b in zip(before, after, strict=True):
        if isinstance(a, dict):
            assert all(torch.equal(a[key], b[key]) for key in a)
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a, b)
        else:
            assert a == b
    assert before[3] == 0


@pytest.mark.parametrize("method", RUNNABLE)
@pytest.mark.parametrize("cancel_at", [None, 1])
def test_nothing_is_left_behind(x, method, cancel_at):
    model = tiny().train()
    model.units.conv2_3x3.eval()
    model.fc.weight.requires_grad_(False)
    given, before = x.clone(), traces(model)

    def progress(done, total):
        if cancel_at is not None:
            raise Cancelled

    if cancel_at is None:
        attribute(model, given, 1, method, progress=progress, **QUICK.get(method, {}))
    else:
        with pytest.raises(Cancelled):
            attribute(model, given, 1, method, progress=progress, **QUICK.get(method, {}))
    assert_same(before, traces(model))
    assert torch.equal(given, x) and not given.requires_grad


@pytest.mark.parametrize("method", ["smooth_grad", "shapley_value_sampling"])
def test_random_methods_follow_their_seed(model, x, method):
    first, again, other = (attribute(model, x, 0, method, seed=seed, **QUICK[method]).map for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", ["grad_cam", "integrated_gradients"])
def test_an_input_from_inference_mode_works(model, x, method):
    with torch.inference_mode():
        inside = attribute(model, x * 1, 0, method)
    np.testing.assert_array_equal(inside.map, attribute(model, x, 0, method).map)


@pytest.mark.parametrize(
    ("precision", "gradients"), [("1/1", "surrogate"), ("32/1", "surrogate"), ("1/32", "exact"), ("32/32", "exact")]
)
def test_gradients_are_true_where_no_activation_is_a_sign(precision, gradients):
    status = method_status(tiny("bcdnet_a", precision=precision))
    assert list(status.index) == list(METHODS)
    for key in ("grad_cam", "saliency", "input_x_gradient", "smooth_grad", "integrated_gradients"):
        assert status.validity[key] == gradients
    for key in ("occlusion", "feature_ablation", "shapley_value_sampling"):
        assert status.validity[key] == "exact"
    for key in ("guided_backprop", "guided_grad_cam", "deep_lift", "lrp"):
        assert status.validity[key] == "invalid" and not status.runnable[key]
        assert "0 nn.ReLU" in status.why[key]


def test_every_layer_but_the_last_has_signs_behind_it(model):
    assert {layer: gradient_validity(model, layer) for layer in target_layers(model)} == {
        **dict.fromkeys(target_layers(model)[:-1], "surrogate"),
        "mlp2_point": "exact",
    }
    assert target_layers(model)[:2] == ["stem", "conv1_3x3"] and default_layer(model) == "mlp2_point"


@pytest.mark.parametrize("layer", ["stem", "conv2_1x1", "mlp1_2"])
def test_grad_cam_has_the_layers_resolution(model, x, layer):
    cam = attribute(model, x, 0, layer=layer)
    assert cam.raw.shape == {"stem": (28, 28), "conv2_1x1": (14, 14), "mlp1_2": (7, 7)}[layer]
    assert cam.map.shape == (28, 28) and cam.validity == "surrogate"


def test_a_mixer_shows_its_blocks_only():
    mixer = create_model("mlp_mixer_s", image_size=32, width=1 / 32, blocks=(2,), num_classes=3).eval()
    assert target_layers(mixer) == ["stem", "mixer1", "mixer2"]
    assert attribute(mixer, torch.randn(1, 3, 32, 32), 0, layer="mixer1").raw.shape == (2, 2)


def test_why_the_invalid_methods_are_invalid(model, x):
    """What METHODS says of them, seen with Captum itself."""
    gradient = Saliency(model).attribute(x.clone().requires_grad_(), target=3, abs=False)
    with pytest.warns(UserWarning, match="hooks"):
        guided = GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=3)
    assert torch.equal(guided, gradient)
    with pytest.warns(UserWarning, match="hooks"):
        deep_lift = DeepLift(model).attribute(x.clone().requires_grad_(), torch.zeros_like(x), target=3)
    torch.testing.assert_close(deep_lift, gradient * x, rtol=0, atol=1e-12)
    with pytest.raises(TypeError, match="no rule defined"):
        LRP(model).attribute(x.clone().requires_grad_(), target=3)


def test_blank_and_broken_maps_are_explained(x):
    blank = tiny()
    for head in (blank.fc, blank.fc_dist):
        torch.nn.init.zeros_(head.weight)
    assert "zero everywhere" in attribute(blank, x, 0).notes[0]
    broken = tiny()
    broken.fc.weight.data[0, 0] = float("nan")
    assert "49 of 49 values are not finite" in attribute(broken, x, 0).notes[0]


def test_grey_images_are_removed_to_black_when_the_card_says_what_black_is(x):
    model = tiny()
    model.card = {"preprocess": {"mean": [0.25], "std": [0.5]}}
    result = attribute(model, x, 0, "feature_ablation", grid=1)
    change = (logits(model, x) - logits(model, torch.full_like(x, -0.5)))[0].item()
    assert result.raw.item() == pytest.approx(change, abs=1e-12)
    assert result.notes == ("Removed pixels were set to black.",)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"target": 10}, "target must be a class from 0 to 9, not 10."),
        ({"against": 0}, "same class"),
        ({"method": "lrp"}, "No relevance rule exists"),
        ({"method": "gradcam"}, "there is no method 'gradcam'"),
        ({"layer": "conv1_3x3.op"}, "there is no layer"),
        ({"method": "saliency", "layer": "stem"}, "leave layer out"),
        ({"method": "occlusion", "window": 4, "stride": 5}, "stride"),
        ({"method": "occlusion", "window": 29}, "must fit"),
        ({"method": "occlusion", "size": 3}, "no option 'size'; its options are: window, stride, baseline, batch"),
        ({"method": "feature_ablation", "grid": 29}, "from 1 to 28"),
        ({"method": "feature_ablation", "regions": np.zeros((7, 7))}, "image's shape"),
        ({"method": "integrated_gradients", "steps": 0}, "steps must be"),
        ({"method": "occlusion", "baseline": "black"}, "does not say what black is"),
        ({"method": "occlusion", "baseline": torch.zeros(3)}, "must broadcast"),
    ],
)
def test_wrong_arguments_get_one_sentence(model, x, arguments, sentence):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        attribute(model, x, **{"target": 0, **arguments})
    assert sentence in str(error.value)


def test_one_image_of_the_networks_shape(model, x):
    with pytest.raises(ValueError, match="one image"):
        attribute(model, torch.cat([x, x]), 0)
    with pytest.raises(ValueError, match="takes images of shape"):
        attribute(model, x.expand(1, 3, 28, 28), 0)


def test_rank_correlation_by_hand():
    a = np.array([[1.0, 2.0, 3.0]])
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.array([[1.0, 3.0, 2.0]])) == pytest.approx(0.5)  # 1 - 6 * 2 / (3 * 8)
    assert np.isnan(rank_correlation(a, np.ones((1, 3))))
    with pytest.raises(ValueError, match="one shape"):
        rank_correlation(a, np.ones((3, 1)))
