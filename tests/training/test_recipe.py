"""Recipes: reading, extending, overriding, the learning rate, and one sentence for whatever is wrong."""

import math
from pathlib import Path

import pytest
from training.miniature import complaint, start_training

from bcdnet import cli
from bcdnet.training.loop import require_shareable
from bcdnet.training.recipe import Recipe, RecipeError, Step, load_recipe

BASE = """
description: a test
data: fashion-mnist
model: {variant: bcdnet_a, image_size: 28, in_channels: 1, num_classes: 10, width: 0.0625, stem_stride: 1,
        strides: [1, 2, 1, 2, 1], blocks: [1, 1, 1, 2, 2], mlp_groups: 2}
steps: [{precision: 32/1, epochs: 2, lr: 1.0e-3}, {precision: 1/1, epochs: 1, lr: 1.0e-3}]
"""
FIRST_LR = "lr: 1.0e-3}, {"


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def with_step(text: str) -> str:
    """The recipe with more keys in its first step."""
    return BASE.replace(FIRST_LR, f"lr: 1.0e-3, {text}}}, {{")


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


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    text = with_step("lr_from: 1e-4, weight_decay: 1e-2, warmup: 5e-1").replace(
        "lr: 1.0e-3, lr_from", "lr: 1e-3, lr_from"
    )
    text += "label_smoothing: 1e-1\nema: 9e-1\nsave_every: 1e1\n"
    recipe = load_recipe(write(tmp_path, text))
    step = recipe.steps[0]
    assert (step.lr, step.lr_from, step.weight_decay, step.warmup) == (0.001, 0.0001, 0.01, 0.5)
    assert (recipe.label_smoothing, recipe.ema, recipe.save_every) == (0.1, 0.9, 10.0)
    assert load_recipe(write(tmp_path, BASE), ["steps.0.lr=1e-3"]).steps[0].lr == 0.001


def test_a_step_may_have_augmentations_of_its_own(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, with_step("augment: [shift, flip]") + "augment: []\n"))
    assert [recipe.augmentations(step) for step in recipe.steps] == [("shift", "flip"), ()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "typo: 1\n", "unknown key 'typo'"),
        (with_step("speed: 1"), "unknown key 'speed'"),
        (BASE.replace("data: fashion-mnist", ""), "lacks 'data'"),
        (BASE.replace("precision: 32/1, ", ""), "lacks 'precision'"),
        (BASE.replace(FIRST_LR, "}, {").replace(", }", "}"), "lacks 'lr'"),
        (BASE.split("steps")[0], "at least one step"),
        (BASE.split("steps")[0] + "steps: 5\n", "steps must be a list"),
        (BASE.split("steps")[0] + "steps: [1]\n", "steps must be a list"),
        (BASE.replace("bcdnet_a", "bcdnet_z"), "did you mean 'bcdnet_"),
        (BASE.replace("mlp_groups: 2", "mlp_group: 2"), "did you mean 'mlp_groups'"),
        (BASE.replace("mlp_groups: 2", "mlp_groups: two"), "value of the wrong kind"),
        (BASE.replace("variant: bcdnet_a, ", ""), "model needs a variant"),
        (BASE.replace("32/1", "8/8"), "precision"),
        (BASE.replace("a test", "3"), "description must be a text"),
        (BASE.replace("fashion-mnist", "''"), "data must be a text"),
        (BASE.replace("epochs: 2", "epochs: 0"), "epochs must be a positive whole number"),
        (BASE.replace("epochs: 2", "epochs: 1.5"), "epochs must be a positive whole number"),
        (with_step("iterations: 9"), "either epochs or iterations"),
        (BASE.replace("epochs: 2, ", ""), "either epochs or iterations"),
        (BASE.replace(FIRST_LR, "lr: fast}, {"), "lr must be a positive number"),
        (BASE.replace(FIRST_LR, "lr: 0}, {"), "lr must be a positive number"),
        (BASE.replace(FIRST_LR, "lr: .nan}, {"), "lr must be a positive number"),
        (BASE.replace(FIRST_LR, "lr: true}, {"), "lr must be a positive number"),
        (with_step("lr_from: -1"), "lr_from"),
        (with_step("warmup: 1.5"), "warmup is a number of iterations, or below 1 a share"),
        (with_step("weight_decay: x"), "weight_decay"),
        (with_step("title: 3"), "title must be a text"),
        (with_step("augment: [flop]"), "augment is a list of resized_crop, shift, colour, flip_vertical, flip"),
        (BASE + "augment: flip\n", "augment is a list of"),
        (BASE + "teacher: 3\n", "teacher must be a text or null"),
        (BASE + "init: ''\n", "init must be a text or null"),
        (BASE + "seed: -1\n", "seed"),
        (BASE + "seed: 9223372036854775808\n", "seed"),
        (BASE + "seed: 1.0\n", "seed"),
        (BASE + "source: here\n", "source"),
        (BASE + "label_smoothing: abc\n", "label_smoothing"),
        (BASE + "label_smoothing: 1\n", "label_smoothing"),
        (BASE + "batch_size: 1\n", "batch_size"),
        (BASE + "batch_size: 10\naccumulate: 4\n", "batch_size must be a multiple of accumulate"),
        (BASE + "accumulate: 0\n", "accumulate"),
        (BASE + "ema: 1\n", "ema must be a number from 0 up to 1"),
        (BASE + "amp: fp16\n", "amp must be one of 32-true, bf16-mixed, 16-mixed"),
        (BASE + "freeze_bn: 1\n", "freeze_bn must be true or false"),
        (BASE + "compile: maybe\n", "compile must be true or false"),
        (BASE + "save_every: soon\n", "save_every"),
        (BASE + "log_every: 0\n", "log_every"),
        (BASE + "workers: -1\n", "workers"),
        (BASE + "new_heads: true\n", "new_heads needs init"),
        (BASE + "teacher_cache: true\n", "teacher_cache needs a teacher"),
        (BASE + "teacher: t\nteacher_cache: true\naugment: [shift, flip]\n", "no augmentation but flip"),
        (with_step("augment: [colour]") + "teacher: t\nteacher_cache: true\n", "no augmentation but flip"),
        ("- a list", "keys and values"),
        ("a: [", "not a YAML file"),
        ("extends: recipe.yaml", "extends itself"),
        ("extends: 3", "name of a recipe"),
        ("extends: nowhere.yaml", "there is no recipe"),
    ],
)
def test_a_bad_recipe_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.variant=5", "the variant of model must be a name"),
        ("model.precision=", "precision belongs to the steps"),
        ("model.branches=5", "branches must be a text, not 5"),
        ("steps=5", "steps must be a list"),
        ("steps=[5]", "steps must be a list"),
        ("steps.0=1", "steps must be a list"),
        ("[1]", "write it as key=value"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_without_words_of_python(override: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(Path(__file__).parents[2] / "recipes" / "fmnist_bcdnet_a.yaml", [override])
    assert sentence in str(error.value)
    assert not any(word in str(error.value) for word in ("NoneType", "iterable", "object", "keyword", "()"))


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", ".hidden", "a b", ".."])
@pytest.mark.parametrize("field", ["name", "steps.0.id"])
def test_a_name_leads_out_of_no_folder(tmp_path: Path, field: str, name: str) -> None:
    with pytest.raises(RecipeError, match="names a folder or file"):
        load_recipe(write(tmp_path, BASE), [f"{field}={name}"])


@pytest.mark.parametrize("override", ["seed", "steps.9.epochs=1", "steps.x.epochs=1", "seed=[", "seed.a=1"])
def test_a_bad_override_is_one_sentence(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(write(tmp_path, BASE), ["seed=1", override])


def test_rates_by_hand() -> None:
    step = Step("1/1", lr=4.0, lr_from=1.0, warmup=4, iterations=12)
    # From 1 in four equal strides to 4, then half a cosine over eight iterations: 4 (1 + cos(pi k / 8)) / 2.
    rates = [step.rate(iteration, 12) for iteration in range(13)]
    assert rates[:5] == [1.75, 2.5, 3.25, 4.0, 4.0]
    assert rates[8] == pytest.approx(2.0)
    assert rates[11] == pytest.approx(2 * (1 - math.cos(math.pi / 8)))
    assert rates[12] == pytest.approx(0, abs=1e-15)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_share_of_warm_up() -> None:
    step = Step("1/1", lr=4.0, lr_from=1.0, warmup=0.25, epochs=6)
    # A quarter of 12 iterations are 3, so the strides are 1.
    assert [step.rate(iteration, 12) for iteration in range(4)] == [2.0, 3.0, 4.0, 4.0]
    assert Step("1/1", lr=4.0, epochs=1).rate(0, 12) == 4.0  # no warm-up


def test_epochs_are_whole_batches() -> None:
    assert Step("1/1", lr=1.0, epochs=3).total(50, 16) == 9
    assert Step("1/1", lr=1.0, iterations=7).total(50, 16) == 7


def test_what_changes_the_weights_makes_another_run(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    recorded = load_recipe(path).to_dict()

    def same(override: str) -> bool:
        return load_recipe(path, [override]).describes(recorded)

    assert all(map(same, ["workers=2", "save_every=1", "log_every=5", "data_root=/elsewhere", "seed=0"]))
    assert not any(map(same, ["seed=1", "ema=0.9", "accumulate=2", "steps.1.lr=2.0e-3", "model.branches=PSS"]))
    assert not load_recipe(path).describes({key: recorded[key] for key in recorded if key != "ema"})


def test_every_field_is_told() -> None:
    assert Recipe.__doc__ and Step.__doc__
    for kind in (Recipe, Step):
        documented = str(kind.__doc__)
        undocumented = [name for name in kind.__dataclass_fields__ if name != "source" and name not in documented]
        assert not undocumented


def status_and_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", *arguments])
    return end.value.code, capsys.readouterr().err


def test_a_recipe_that_there_is_not_is_status_2(miniature: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, err = status_and_sentence(["nowhere.yaml"], capsys)
    assert status == 2 and "there is no recipe nowhere.yaml" in err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data=nowhere", "neither a folder nor a known data set"),
        ("data_root=/nowhere", "there is no folder /nowhere"),
        ("teacher=nowhere.safetensors", "there is no file nowhere.safetensors"),
        ("init=nowhere.safetensors", "there is no file nowhere.safetensors"),
        ("model.num_classes=12", "fashion-mnist has 10 classes, the model 12; set model.num_classes to 10"),
        ("batch_size=64", "batch_size 64 is more than the 48 training images"),
        ("model.image_size=30", "multiples of"),
        ("model.in_channels=2", "channels must be 1 or 3"),
    ],
)
def test_a_run_that_cannot_be_is_one_sentence_and_status_2(
    miniature: Path, capsys: pytest.CaptureFixture[str], override: str, words: str
) -> None:
    status, err = status_and_sentence([str(miniature), "--set", override], capsys)
    assert status == 2, err
    assert words in err and err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_batch_is_shared_out_evenly(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, BASE), ["batch_size=24", "accumulate=2"])
    for processes in (1, 2, 3, 4, 6, 12):
        require_shareable(recipe, 24, processes)
    with pytest.raises(RecipeError, match=r"among 5 processes of 2 part\(s\) each; make it a multiple of 10\."):
        require_shareable(recipe, 24, 5)
    with pytest.raises(RecipeError, match="batch_size 24 is more than the 23 training images"):
        require_shareable(recipe, 23, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny.yaml", "--set", "colour=blue"], "tiny.yaml has the unknown key 'colour'"),
        (["tiny.yaml", "--resume", "runs/nothing"], "runs/nothing holds no run to resume"),
    ],
)
def test_the_command_says_it_and_exits_2(miniature: Path, arguments: list[str], words: str) -> None:
    assert words in complaint(start_training(*arguments), status=2)
