import nets
import numpy as np
import pandas as pd
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from torch import nn

from analysis.attribution import Attribution, attribute
from analysis.faithfulness import (
    Score,
    curve_passes,
    deletion_insertion,
    infidelity,
    infidelity_passes,
    judge,
    judge_passes,
    parameter_randomisation,
    randomisation_passes,
    randomisation_stages,
    randomise,
    randomise_passes,
    scores,
    sensitivity,
    sensitivity_passes,
    surrogate_meter,
    surrogate_passes,
    surrogate_verdict,
)
from bcdnet import create_model

WEIGHTS = torch.tensor([[4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


class Linear(nn.Module):
    """Logits 4a + 3b + 2c + d and 0 of an image of 2x2 pixels a, b, c, d."""

    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"image_size": (2, 2), "num_classes": 2})()
        self.card = {}
        self.stem, self.units = nn.Identity(), nn.Sequential()
        self.fc = nn.Linear(4, 2, bias=False).double()
        self.fc.weight.data = WEIGHTS.clone()

    def check_input(self, x):
        pass

    def residual_units(self):
        return iter(())

    def forward(self, x):
        return self.fc(self.stem(x).flatten(1))


class Squared(Linear):
    def forward(self, x):
        return super().forward(x) ** 2


ONES = torch.ones(1, 1, 2, 2, dtype=torch.float64)


def given(values, method="input_x_gradient", against=None):
    map = np.array(values, dtype=float).reshape(2, 2)
    return Attribution(map, map, method, None, 0, against, 1, "exact")


def test_areas_of_a_linear_network_by_hand():
    found = deletion_insertion(Linear(), ONES, given([4, 3, 2, 1]), steps=4, output="logit", randoms=3)
    map = found.points[found.points.kind == "map"]
    assert map[map.curve == "deletion"].value.tolist() == [10, 6, 3, 1, 0]
    assert map[map.curve == "insertion"].value.tolist() == [0, 4, 7, 9, 10]
    assert map[map.curve == "deletion"].share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    # Trapezoids of width 1/4: (10 + 0) / 2 + 6 + 3 + 1 = 15, and 5 + 4 + 7 + 9 = 25.
    assert found.deletion.value == pytest.approx(15 / 4)
    assert found.insertion.value == pytest.approx(25 / 4)
    # No order deletes faster, none slower than the reverse.
    assert ((found.deletion.random >= 15 / 4) & (found.deletion.random <= 25 / 4)).all()
    # Deleting and inserting in one order are complementary on a linear network without bias.
    assert found.deletion.random + found.insertion.random == pytest.approx(np.full(3, 10.0))
    assert found.forwards == curve_passes(4, 3) == 2 + 2 * 3 * 4


def test_the_reversed_map_deletes_the_least():
    found = deletion_insertion(Linear(), ONES, given([1, 2, 3, 4]), steps=4, output="logit")
    assert found.deletion.value == pytest.approx((5 + 9 + 7 + 4) / 4)


def test_two_steps_and_blocks():
    halves = deletion_insertion(Linear(), ONES, given([4, 3, 2, 1]), steps=2, output="logit")
    assert halves.deletion.value == pytest.approx((10 / 2 + 3 + 0 / 2) / 2)
    one = deletion_insertion(Linear(), ONES, given([4, 3, 2, 1]), grid=1, steps=1, output="logit")
    assert one.deletion.value == pytest.approx(5)
    with pytest.raises(ValueError, match="steps must be from 1 to 1"):
        deletion_insertion(Linear(), ONES, given([4, 3, 2, 1]), grid=1, steps=2)


@pytest.mark.parametrize("against", [None, 1])
def test_probability_of_two_classes_is_the_logistic_of_their_difference(against):
    found = deletion_insertion(Linear(), ONES, given([4, 3, 2, 1], against=against), steps=4)
    deleted = found.points.query("curve == 'deletion' and kind == 'map'").value
    assert deleted.to_numpy() == pytest.approx(1 / (1 + np.exp(-np.array([10.0, 6, 3, 1, 0]))))


def test_equal_values_are_ordered_by_the_seed_not_by_place():
    flat = given([1, 1, 1, 1])
    areas = {deletion_insertion(Linear(), ONES, flat, steps=4, output="logit", seed=s).deletion.value for s in range(8)}
    assert len(areas) > 2


def test_infidelity_of_the_true_map_is_zero_and_of_none_is_one():
    assert infidelity(Linear(), ONES, given([4, 3, 2, 1]), grid=2).value == pytest.approx(0, abs=1e-24)
    assert infidelity(Linear(), ONES, given([8, 6, 4, 2]), grid=2).value == pytest.approx(0, abs=1e-24)
    assert infidelity(Linear(), ONES, given([0, 0, 0, 0]), grid=2).value == 1
    random = infidelity(Linear(), ONES, given([4, 3, 2, 1]), grid=2, randoms=20).random
    assert (random > 0.01).any() and (random <= 1).all()
    # Blocks of one: x - b is 2 everywhere for the slope, and the slope's map predicts twice itself.
    assert infidelity(Linear(), 2 * ONES, given([4, 3, 2, 1], "saliency"), grid=2).value == pytest.approx(0, abs=1e-24)


def test_slopes_are_multiplied_by_what_is_removed():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]], dtype=torch.float64)
    assert infidelity(Linear(), x, given([4, 3, 2, 1], "saliency"), grid=2).value == pytest.approx(0, abs=1e-24)
    assert infidelity(Linear(), x, given([4, 6, 6, 5]), grid=2).value == pytest.approx(0, abs=1e-24)
    assert infidelity(Linear(), x, given([4, 3, 2, 1]), grid=2).value > 1e-3


def test_infidelity_is_captums():
    network, result, samples = Squared(), given([1, 5, -2, 3]), 40
    drawn = torch.rand((samples, 4), generator=torch.Generator().manual_seed(3)) < 0.5
    removed = drawn.double().reshape(samples, 1, 2, 2)

    def perturb(inputs):
        return removed, inputs - removed * inputs

    with torch.random.fork_rng():
        theirs = captum_infidelity(
            network,
            perturb,
            ONES,
            torch.from_numpy(result.map)[None, None],
            target=0,
            n_perturb_samples=samples,
            max_examples_per_batch=samples,
            normalize=True,
        )
    with torch.no_grad():
        change = network(ONES)[:, 0] - network(ONES - removed)[:, 0]
    ours = infidelity(network, ONES, result, grid=2, samples=samples, seed=3).value
    assert ours == pytest.approx(theirs.item() / change.square().mean().item())


def test_infidelity_of_a_deaf_network_is_unknown():
    network = Linear()
    network.fc.weight.data.zero_()
    assert np.isnan(infidelity(network, ONES, given([4, 3, 2, 1]), grid=2).value)


def test_the_gradient_of_a_linear_network_is_not_sensitive():
    result = attribute(Linear(), ONES, 0, "saliency")
    found = sensitivity(Linear(), ONES, result)
    assert found.value == 0 and (found.random >= 0).all() and found.random.max() > 0
    # x * gradient moves by w * d with |d| <= 0.1 on an image of ones.
    product = attribute(Linear(), ONES, 0, "input_x_gradient")
    assert 0.02 < sensitivity(Linear(), ONES, product, radius=0.1).value <= 0.1


def test_the_table_counts_the_random_maps_beaten():
    low = Score("deletion area", 2.0, np.array([1.0, 3.0, 5.0, 3.0]), "lower")
    high = Score("insertion area", 2.0, np.array([1.0, 3.0, 5.0, 3.0]), "higher")
    table = scores([low, high])
    assert table.random_mean.tolist() == [3, 3] and table.random_std.iloc[0] == pytest.approx(2**0.5)
    assert table.beats.tolist() == [0.75, 0.25] and table.better.tolist() == ["lower", "higher"]


def test_shuffling_the_head_shuffles_a_linear_networks_map():
    result = attribute(Linear(), ONES, 0, "saliency")
    found = parameter_randomisation(Linear(), ONES, result, seed=2)
    assert found.stage.tolist() == ["trained", "fc", "stem"]
    assert found.similarity[0] == 1 and found.absolute[0] == 1
    assert found.similarity[1] < 1
    assert found.similarity[2] == found.similarity[1]  # this stem has no parameters


def test_the_meter_is_full_on_a_linear_network():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]], dtype=torch.float64)
    found = surrogate_meter(Linear(), x, 0, grid=2)
    assert found.ablation.ravel().tolist() == [4, 6, 6, 5]
    for method in ("saliency", "input_x_gradient", "integrated_gradients"):
        assert found.blocks[method].ravel() == pytest.approx([4, 6, 6, 5])
    assert found.output_change == pytest.approx(21) and found.residual == pytest.approx(0, abs=1e-6)
    assert found.validity == "exact" and found.verdict[0].startswith("Gradients follow")


def test_the_verdict_follows_the_thresholds():
    dead = pd.DataFrame({"layer": ["a", "b", "c"], "clipped": [0.5, 0.9, 0.1]})

    def said(correlation, incompleteness=0.1):
        table = pd.DataFrame({"method": ["saliency"], "title": ["Gradient"], "correlation": [correlation]})
        return surrogate_verdict(table, incompleteness, dead, "surrogate")

    assert said(0.7)[0].startswith("Gradients follow what") and "Believe" not in said(0.7)[0]
    assert said(0.69)[0].startswith("Gradients roughly follow") and "Believe" in said(0.69)[0]
    assert said(0.39)[0].startswith("Gradients miss")
    assert said(float("nan"))[0].startswith("No rank correlation")
    assert "are complete: 10%" in said(0.7)[1] and "are not complete: 11%" in said(0.7, 0.11)[1]
    assert "says nothing" in said(0.7, float("nan"))[1]
    assert said(0.7)[2] == "2 of 3 layers lose the gradient of 50% of their activations or more; the most is 90%, in b."


# A real network.


def tiny():
    torch.manual_seed(0)
    return create_model("bcdnet_b", **{**nets.TINY, "mlp_groups": 1}).double().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Cancelled(BaseException):
    pass


def run_all(model, x, result, progress):
    options = {"steps": 3, "batch": 2}
    return {
        curve_passes(4, 2): lambda: deletion_insertion(model, x, result, 7, 4, 2, batch=5, progress=progress),
        infidelity_passes(6): lambda: infidelity(model, x, result, samples=6, randoms=2, batch=4, progress=progress),
        sensitivity_passes(model, result, 2, **options): lambda: sensitivity(
            model, x, result, samples=2, progress=progress, **options
        ),
        randomisation_passes(model, result, **options): lambda: parameter_randomisation(
            model, x, result, progress=progress, **options
        ),
        surrogate_passes(model, (28, 28), 3, 4): lambda: surrogate_meter(
            model, x, 1, grid=3, steps=4, progress=progress
        ),
    }


def traces(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad is None for parameter in model.parameters()],
        sum(len(getattr(module, hook)) for module in model.modules() for hook in hooks),
        {key: value.tolist() for key, value in model.state_dict().items()},
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        torch.is_grad_enabled(),
    )


def test_the_costs_are_the_counts_and_nothing_is_left_behind(x):
    model = tiny().train()
    model.fc.weight.requires_grad_(False)
    result = attribute(model, x, 1, "integrated_gradients", steps=3, batch=2)
    before = traces(model)
    calls = []
    for cost, call in run_all(model, x, result, lambda done, total: calls.append((done, total))).items():
        calls.clear()
        call()
        assert calls[-1] == (cost, cost)
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert traces(model) == before and before[3] == 0

    def cancel(done, total):
        raise Cancelled

    for call in run_all(model, x, result, cancel).values():
        with pytest.raises(Cancelled):
            call()
    assert traces(model) == before


def test_seeds_repeat(x):
    model = tiny()
    result = attribute(model, x, 1, "occlusion")
    first, again = (deletion_insertion(model, x, result, 7, 7, 2, seed=4).points for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    first, other = (infidelity(model, x, result, samples=8, seed=s).random for s in (1, 2))
    assert (first != other).any()


def test_stages_run_from_the_head_to_the_stem():
    model = tiny()
    stages = randomisation_stages(model)
    assert next(iter(stages)) == "fc" and list(stages)[-1] == "stem"
    named = [name.removeprefix("units.") for names in stages.values() for name in names if name.startswith("units.")]
    assert named == list(reversed(list(model.units._modules)))


def test_a_map_at_the_last_unit_follows_its_head_when_it_is_shuffled(x):
    model = tiny()
    found = parameter_randomisation(model, x, attribute(model, x, 1, "grad_cam"))
    assert found.similarity[0] == pytest.approx(1) and found.similarity[1] < 0.99


def test_the_dead_zone_is_told_per_layer(x):
    found = surrogate_meter(tiny(), x, 1, grid=4, steps=3)
    assert found.validity == "surrogate" and len(found.verdict) == 3
    assert len(found.dead) > 5 and found.dead.clipped.between(0, 1).all()
    assert found.ablation.shape == found.blocks["saliency"].shape == (4, 4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: deletion_insertion(Linear(), ONES, given([1, 2, 3, 4]), steps=4, randoms=0), "randoms must be"),
        (lambda: deletion_insertion(Linear(), ONES, given([1, 2, 3, 4]), steps=4, output="odds"), "output must be"),
        (lambda: deletion_insertion(Linear(), ONES, given([1, np.nan, 3, 4]), steps=4), "not finite"),
        (lambda: deletion_insertion(Linear(), ONES[0], given([1, 2, 3, 4]), steps=4), "one image"),
        (lambda: deletion_insertion(Linear(), ONES, given([1, 2, 3, 4]), steps=4, batch=0), "batch must"),
        (lambda: infidelity(Linear(), ONES, given([1, 2, 3, 4]), grid=3), "grid must be from 1 to 2"),
        (lambda: infidelity(Linear(), ONES, given([1, 2, 3, 4]), grid=2, samples=0), "samples must"),
        (lambda: infidelity(Linear(), ONES, given([1, 2, 3, 4]), grid=2, baseline=torch.ones(3)), "broadcast"),
        (lambda: infidelity(Linear(), torch.ones(1, 1, 4, 4), given([1, 2, 3, 4])), "image's size"),
        (lambda: sensitivity(Linear(), ONES, given([1, 2, 3, 4]), radius=0), "radius above 0"),
    ],
)
def test_wrong_arguments_get_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("method", ["saliency", "feature_ablation"])
def test_a_map_is_judged_at_the_cost_that_is_told_and_as_its_parts_judge_it(method, x):
    model = tiny()
    options = {"grid": 3} if method == "feature_ablation" else {}
    seen: list[int] = []
    told: list[tuple[int, int]] = []
    hook = model.stem.register_forward_hook(lambda module, given, made: seen.append(len(given[0])))
    found = judge(model, x, 3, method, against=1, progress=lambda *done: told.append(done), **options)
    total = judge_passes(model, method, **options)
    assert sum(seen) == total and told[-1] == (total, total) and told == sorted(told)
    hook.remove()
    result = attribute(model, x, 3, method, against=1, **options)
    np.testing.assert_array_equal(found.result.map, result.map)
    assert found.curves.deletion.value == deletion_insertion(model, x, result).deletion.value
    assert found.infidelity.value == infidelity(model, x, result).value
    assert found.sensitivity.value == sensitivity(model, x, result, **options).value


def test_a_map_is_randomised_at_the_cost_that_is_told(x):
    model = tiny()
    wanted = parameter_randomisation(model, x, attribute(model, x, 3, "feature_ablation", grid=2), grid=2)
    passes, told = [], []
    model.register_forward_hook(lambda module, args, output: passes.append(len(output)))
    found = randomise(model, x, 3, "feature_ablation", progress=lambda *at: told.append(at), grid=2, batch=2)
    pd.testing.assert_frame_equal(found, wanted)
    # The map, and one for each of head, groups of blocks and stem; four blocks and the whole image.
    total = randomise_passes(model, "feature_ablation", grid=2)
    assert total == sum(passes) == 5 * len(wanted)
    assert told[0][0] <= 2 and told[-1] == (total, total)  # from the first batch of the first map on
    assert [done for done, _ in told] == sorted({done for done, _ in told})
