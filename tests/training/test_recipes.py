"""Every shipped recipe on a tiny set in its true layout: all steps and the evaluation, two iterations each."""

from pathlib import Path

import layouts
import pytest
from training.miniature import rows, write_data

import bcdnet
from bcdnet.data import default_preprocess, open_dataset
from bcdnet.model import Network
from bcdnet.training.recipe import Recipe, load_recipe
from bcdnet.training.run import train
from bcdnet.training.zoo import RECIPES, ZOO

RECIPE_FILES = sorted(
    path for path in RECIPES.rglob("*.yaml") if path.stem not in ("base", "pretrained", "fmnist", "elpv")
)


def small(recipe: Recipe) -> list[str]:
    """What makes it fit a test: few channels, few pixels, few iterations; nothing of its structure."""
    side, width = {"mobile": (64, 1 / 32), "resnet": (64, 1 / 16), "mixer": (32, 1 / 32)}[
        recipe.config(recipe.steps[0]).family
    ]
    changes = ["batch_size=2", "workers=0", "compile=false", "amp=32-true"]
    if recipe.data == "fashion-mnist":
        changes += ["model.width=0.015625"]
    else:
        changes += [f"model.image_size={side}", f"model.width={width}"]
    for number in range(len(recipe.steps)):
        changes += [f"steps.{number}.epochs=null", f"steps.{number}.iterations=2"]
    return changes


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.relative_to(RECIPES).with_suffix("").as_posix())
def test_recipe_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_recipe(path)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    if whole.data == "fashion-mnist":
        root.mkdir()
        write_data(root)
    else:
        root = layouts.LAYOUTS[whole.data](root)
    classes = len(open_dataset(whole.data, "train", root).classes)
    changes = [*small(whole), f"data_root={root}", f"model.num_classes={classes}"]
    recipe = load_recipe(path, changes)
    config = recipe.config(recipe.steps[0])
    preprocess = default_preprocess(recipe.data, config.image_size, config.in_channels).to_dict()
    if whole.teacher is not None:
        twin = config.replace(precision="32/32", heads=1, embedding_ratio=None)
        bcdnet.save(Network(twin), tmp_path / "twin.safetensors", {"preprocess": preprocess})
        changes.append("teacher=twin.safetensors")
    if whole.init is not None:
        # BCDNet-B starts from A; a fine-grained set from a network with other classes.
        other = config.num_classes + 1 if whole.new_heads else config.num_classes
        start = config.replace(embedding_ratio=None, num_classes=other)
        bcdnet.save(Network(start), tmp_path / "start.safetensors", {"preprocess": preprocess})
        changes.append("init=start.safetensors")
    outcome = train(path, changes)
    model = bcdnet.load(outcome["checkpoint"])
    assert model.config == recipe.config(recipe.steps[-1])
    assert model.config.precision == whole.steps[-1].precision
    assert outcome["metrics"]["n"] == len(open_dataset(whole.data, "test", root))
    log = rows(Path(outcome["run"]))
    assert {row["precision"] for row in log} == {step.precision for step in whole.steps}


def test_the_papers_schedule() -> None:
    # Spec of the two steps on ImageNet; batches of 256.
    for name in ("bcdnet_a", "reactnet_a"):
        recipe = load_recipe(RECIPES / "imagenet" / f"{name}.yaml")
        first, second = recipe.steps
        assert (recipe.batch_size, recipe.label_smoothing, recipe.teacher) == (256, 0.1, "hf:microsoft/resnet-50")
        assert (first.precision, first.iterations, first.weight_decay) == ("32/1", 300_000, 0.01)
        assert (second.precision, second.iterations, second.weight_decay) == ("1/1", 600_000, 0.0)
        assert first.rate(14_999, 300_000) == pytest.approx(4e-3)
        assert first.rate(0, 300_000) == pytest.approx(1e-3 + 3e-3 / 15_000)
        assert second.rate(0, 600_000) == pytest.approx(5e-4)
        assert second.rate(300_000, 600_000) == pytest.approx(2.5e-4)
        assert recipe.augmentations(first) == ("resized_crop", "colour", "flip")
        assert recipe.augmentations(second) == ("resized_crop", "flip")
    [more] = load_recipe(RECIPES / "imagenet" / "bcdnet_b.yaml").steps
    assert (more.precision, more.iterations) == ("1/1", 300_000)


def test_every_recipe_of_the_zoo_exists() -> None:
    assert {entry.recipe for entry in ZOO} <= {path.stem for path in RECIPE_FILES}
