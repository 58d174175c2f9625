"""Recipes: reading, extending, overriding, and one sentence for whatever is wrong."""

from pathlib import Path

import pytest

from bcdnet.cost import network_cost
from bcdnet.training.recipe import RecipeError, load_recipe
from bcdnet.training.zoo import ORDER, RECIPES, SHOWN

BASE = """
description: a test
data: fashion-mnist
model: {variant: bcdnet_a, image_size: 28, in_channels: 1, num_classes: 10, width: 0.0625, stem_stride: 1,
        strides: [1, 2, 1, 2, 1], blocks: [1, 1, 1, 2, 2], mlp_groups: 2}
steps: [{precision: 32/1, epochs: 2, lr: 1.0e-3}, {precision: 1/1, epochs: 1, lr: 1.0e-3}]
"""


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_steps_differ_in_precision_alone(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, BASE))
    first, second = (recipe.config(step) for step in recipe.steps)
    assert (first.precision, second.precision) == ("32/1", "1/1")
    assert first.replace(precision="1/1") == second
    assert recipe.name == "recipe"


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, BASE), ["seed=7", "steps.0.epochs=5", "model.branches=PSS"])
    assert recipe.seed == 7
    assert recipe.steps[0].epochs == 5
    assert recipe.config(recipe.steps[1]).branches == "PSS"


def test_extends_merges_maps_and_replaces_the_rest(tmp_path: Path) -> None:
    write(tmp_path, BASE, "base.yaml")
    child = write(tmp_path, "extends: base.yaml\nmodel: {branches: PLL}\nbatch_size: 64\n", "child.yaml")
    recipe = load_recipe(child)
    assert recipe.batch_size == 64
    assert recipe.model["branches"] == "PLL"
    assert recipe.model["variant"] == "bcdnet_a"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (BASE + "typo: 1\n", "typo"),
        (BASE.replace("bcdnet_a", "bcdnet_z"), "bcdnet_z"),
        (BASE.replace("epochs: 2", "epochs: 0"), "epochs"),
        (BASE.replace("lr: 1.0e-3}, {", "lr: fast}, {"), "lr"),
        (BASE + "flip: maybe\n", "flip"),
        (BASE + "teacher: 3\n", "teacher"),
        (BASE + "seed: -1\n", "seed"),
        (BASE + "label_smoothing: abc\n", "label_smoothing"),
        (BASE + "label_smoothing: 1\n", "label_smoothing"),
        (BASE + "batch_size: 1\n", "batch_size"),
        (BASE.replace("lr: 1.0e-3}, {", "lr: 1.0e-3, warmup: 1}, {"), "warmup"),
        (BASE.replace("lr: 1.0e-3}, {", "lr: 1.0e-3, weight_decay: x}, {"), "weight_decay"),
        ("- a list", "keys and values"),
        ("a: [", "YAML"),
        ("extends: recipe.yaml", "extends itself"),
        ("data: fashion-mnist", "recipe"),
        (BASE.split("steps")[0], "step"),
    ],
)
def test_a_bad_recipe_is_one_sentence(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["seed", "steps.9.epochs=1", "steps.x.epochs=1", "seed=[", "seed.a=1"])
def test_a_bad_override_is_one_sentence(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(write(tmp_path, BASE), ["seed=1", override])


def test_the_zoo_trains_equal_binary_operations() -> None:
    bops = {}
    for name in ORDER:
        recipe = load_recipe(RECIPES / f"{name}.yaml")
        for step in recipe.steps:
            if step.precision == "1/1":
                bops[step.id] = network_cost(recipe.config(step)).bops
    assert len(bops) == 6
    assert max(bops.values()) <= 1.02 * min(bops.values())


def test_everything_the_zoo_ships_is_shown() -> None:
    ships = {step.id for name in ORDER for step in load_recipe(RECIPES / f"{name}.yaml").steps if step.id}
    assert ships == set(SHOWN)
