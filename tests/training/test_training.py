"""Batches, loss, and whole runs on a miniature of the real data set."""

import gzip
import json
import math
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bcdnet
from bcdnet.checkpoint import CheckpointError
from bcdnet.data import FASHION_MNIST, DataError, fashion_mnist
from bcdnet.training import module as module_file
from bcdnet.training import run as run_module
from bcdnet.training import zoo
from bcdnet.training.batches import EpochSampler, MemoryBatches, loader
from bcdnet.training.distillation import distillation_loss, teacher_logits
from bcdnet.training.module import TrainingModule
from bcdnet.training.recipe import RecipeError, Step, load_recipe
from bcdnet.training.run import require_same_run, train

RECIPE = """
description: a test
data: fashion-mnist
batch_size: 16
compile: false
model: {variant: bcdnet_a, image_size: 28, in_channels: 1, num_classes: 10, width: 0.015625, stem_channels: 512,
        channels: [512, 1024], blocks: [1, 2], strides: [1, 2], mlp_groups: 1, heads: 2}
steps:
  - {precision: 32/1, epochs: 2, lr: 1.0e-3, warmup: 0.2, weight_decay: 0.01}
  - {precision: 1/1, epochs: 2, lr: 1.0e-3}
"""


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """48 training and 20 test pictures in the data set's own files, and a recipe that trains on them in seconds."""
    random = np.random.default_rng(0)
    for prefix, n in (("train", 48), ("t10k", 20)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", random.integers(0, 256, (n, 28, 28)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(n) % 10)
    monkeypatch.setenv("BCDNET_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def test_sampler_depends_on_seed_and_epoch_alone() -> None:
    def draw(epoch: int, seed: int = 3) -> list[list[int]]:
        sampler = EpochSampler(50, 16, seed, flip=True)
        sampler.set_epoch(epoch)
        return [torch.cat([index, mirror.long()]).tolist() for index, mirror in sampler]

    assert draw(4) == draw(4)
    assert draw(4) != draw(5)
    assert draw(4) != draw(4, seed=2)
    indices = [i for batch in draw(0) for i in batch[:16]]
    assert len(indices) == 48
    assert len(set(indices)) == 48


def test_mirrored_images_come_with_the_teacher_of_the_mirrored_image() -> None:
    images = torch.arange(12.0).reshape(2, 1, 2, 3)
    teacher = torch.tensor([[[1.0], [2.0]], [[10.0], [20.0]]])  # (as it is | mirrored, image, class)
    data = MemoryBatches(images.clone(), torch.tensor([5, 6]), teacher)
    x, y, t = data[(torch.tensor([1, 0]), torch.tensor([True, False]))]
    assert x[0, 0].tolist() == [[8.0, 7.0, 6.0], [11.0, 10.0, 9.0]]
    assert torch.equal(x[1], images[0])
    assert y.tolist() == [6, 5]
    assert t.tolist() == [[20.0], [1.0]]
    assert torch.equal(data.images, images)


def test_loader_yields_whole_batches() -> None:
    data = MemoryBatches(torch.zeros(10, 1, 2, 2), torch.arange(10), None)
    assert [tuple(x.shape) for x, _, _ in loader(data, 4, seed=0, flip=False)] == [(4, 1, 2, 2)] * 2


def test_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, np.log(3.0)]])  # softmax: 1/4, 3/4
    other = torch.tensor([[0.0, 0.0]])  # softmax: 1/2, 1/2
    teacher = torch.tensor([[np.log(9.0), 0.0]])  # softmax: 9/10, 1/10
    labels = torch.tensor([1])
    hard = -(0.95 * np.log(3 / 4) + 0.05 * np.log(1 / 4))  # smoothing 0.1 over two classes
    soft = -np.log(1 / 2)
    assert distillation_loss(logits, other, labels, teacher, 0.1).item() == pytest.approx((hard + soft) / 2, abs=1e-6)
    one_head = -(0.9 * np.log(1 / 4) + 0.1 * np.log(3 / 4))
    got = distillation_loss(logits, None, labels, teacher, 0.1).item()
    assert got == pytest.approx((hard + one_head) / 2, abs=1e-6)
    no_teacher = distillation_loss(logits, None, labels, torch.empty(1, 0), 0.1).item()
    assert no_teacher == pytest.approx(hard, abs=1e-6)


def test_teacher_sees_each_image_and_its_mirror() -> None:
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2))
    images = torch.randn(5, 1, 2, 3)
    logits = teacher_logits(teacher, images, batch_size=2)
    assert logits.shape == (2, 5, 2)
    torch.testing.assert_close(logits[0], teacher(images).detach())
    torch.testing.assert_close(logits[1], teacher(images.flip(-1)).detach())


def test_two_steps_end_in_a_checkpoint_with_its_card(miniature: Path) -> None:
    result = train(miniature)
    model = bcdnet.load(result["checkpoint"])
    assert model.config.precision == "1/1"
    assert model.card["metrics"] == result["metrics"]
    assert model.card["metrics"]["n"] == 20
    assert model.card["recipe"]["steps"][0]["epochs"] == 2
    first = bcdnet.load(Path(result["run"]) / "step1.safetensors")
    assert first.config.precision == "32/1"
    log = (Path(result["run"]) / "log.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in log[1:]] == [
        ["1", "32/1", "1"],
        ["1", "32/1", "2"],
        ["2", "1/1", "1"],
        ["2", "1/1", "2"],
    ]
    with pytest.raises(RecipeError, match="--resume"):
        train(miniature)


@pytest.mark.parametrize("stop", [(1, 1), (2, 1)])
def test_an_interrupted_run_resumes_to_the_same_weights(
    miniature: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[int, int]
) -> None:
    whole = bcdnet.load(train(miniature, ["name=whole"])["checkpoint"])

    class Stop(Exception):
        pass

    def start(self, trainer, module):  # type: ignore[no-untyped-def]
        if (self.number, trainer.current_epoch) == stop:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(run_module._EpochLog, "on_train_epoch_start", start)
        with pytest.raises(Stop):
            train(miniature, ["name=cut"])
    resumed = bcdnet.load(train(miniature, ["name=cut"], Path("runs/cut"))["checkpoint"])
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert len(Path("runs/cut/log.csv").read_text().splitlines()) == 5


def test_b_continues_from_a(miniature: Path) -> None:
    a = train(miniature, ["name=a"])
    one_step = "steps=[{precision: 1/1, epochs: 1, lr: 1.0e-9}]"
    b = train(miniature, ["name=b", "model.variant=bcdnet_b", f"init={a['checkpoint']}", one_step])
    before, after = bcdnet.load(a["checkpoint"]), bcdnet.load(b["checkpoint"])
    key = "units.conv1_3x3.op.weight"
    # At this learning rate the weights stay, so they can only have come from A.
    torch.testing.assert_close(after.state_dict()[key], before.state_dict()[key], atol=1e-6, rtol=0)
    matrices = [w for name, w in after.state_dict().items() if ".embedding." in name and name.endswith("weight")]
    assert matrices and all(torch.equal(w, w.half().float()) for w in matrices)


def test_adamw_warms_up_and_decays_by_a_cosine_to_zero() -> None:
    step = Step("1/1", epochs=2, lr=0.5, warmup=0.2, weight_decay=0.03)
    module = TrainingModule(bcdnet.create_model("bcdnet_a", width=1 / 32), step, 0.1, compile_step=False)
    module._trainer = SimpleNamespace(estimated_stepping_batches=10)  # type: ignore[assignment]
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]  # type: ignore[typeddict-item]
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.03
    assert len(group["params"]) == len(list(module.network.parameters()))
    rates = []
    for _ in range(11):
        rates.append(group["lr"])
        optimizer.step()
        schedule.step()
    # Two iterations of warm-up, then cos(0), cos(pi/8) ... cos(pi) moved to 1..0.
    expected = [0.25, 0.5, *(0.25 * (1 + math.cos(math.pi * k / 8)) for k in range(9))]
    assert rates == pytest.approx(expected, abs=1e-12)
    assert configured["lr_scheduler"]["interval"] == "step"  # type: ignore[index]


@pytest.mark.parametrize("flip", [False, True])
def test_a_run_does_what_its_recipe_says(miniature: Path, monkeypatch: pytest.MonkeyPatch, flip: bool) -> None:
    teacher_path = train(miniature, ["name=teacher"])["checkpoint"]
    teacher = bcdnet.load(teacher_path)
    batches, smoothings = [], []
    training_step, loss = TrainingModule.training_step, module_file.distillation_loss

    def recording_step(self, batch, index):  # type: ignore[no-untyped-def]
        batches.append(batch)
        return training_step(self, batch, index)

    def recording_loss(*arguments):  # type: ignore[no-untyped-def]
        smoothings.append(arguments[-1])
        return loss(*arguments)

    monkeypatch.setattr(TrainingModule, "training_step", recording_step)
    monkeypatch.setattr(module_file, "distillation_loss", recording_loss)
    settings = [f"flip={flip}", "label_smoothing=0.25", "batch_size=12", f"teacher={teacher_path}"]
    train(miniature, ["name=student", *settings])
    assert len(batches) == 4 * (48 // 12)
    assert set(smoothings) == {0.25}
    originals = FASHION_MNIST.batch(fashion_mnist.load("train")[0])
    mirrored = 0
    for images, _, logits in batches:
        assert len(images) == 12
        # The teacher's answer to this very picture, mirrored or not.
        torch.testing.assert_close(logits, teacher(images).detach(), atol=1e-4, rtol=1e-4)
        mirrored += sum(not (originals == image).flatten(1).all(1).any() for image in images)
    assert (mirrored > 50) is flip  # of 192, about half


def test_a_run_that_cannot_start_leaves_nothing_behind(miniature: Path) -> None:
    other = train(miniature, ["name=other", "model.branches=PS"])["checkpoint"]
    with pytest.raises(CheckpointError, match="branches"):
        train(miniature, [f"init={other}"])
    with pytest.raises(CheckpointError, match="nothing"):
        train(miniature, ["teacher=nothing"])
    with pytest.raises(RecipeError, match="in_channels"):
        train(miniature, ["model.in_channels=3"])
    assert not Path("runs/tiny").exists()


def test_a_changed_teacher_is_another_run(miniature: Path) -> None:
    teacher = Path(train(miniature, ["name=teacher"])["checkpoint"])
    train(miniature, ["name=student", f"teacher={teacher}"])
    recipe = load_recipe(miniature, ["name=student", f"teacher={teacher}"])
    require_same_run(Path("runs/student"), recipe)
    bcdnet.save(bcdnet.load(teacher), teacher, {"title": "another"})
    with pytest.raises(RecipeError, match="other settings"):
        require_same_run(Path("runs/student"), recipe)


def test_shipping_cuts_each_log_where_its_model_was_taken(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["steps.0.id=first", "steps.1.id=second", "steps.1.title=Second"]
    result = train(miniature, names)
    recipe = load_recipe(miniature, names)
    monkeypatch.setenv("BCDNET_ASSETS", str(miniature.parent / "assets"))
    monkeypatch.setattr(zoo, "SHOWN", ("second", "first"))
    assert not zoo.shipped(recipe)
    zoo.ship(recipe, Path(result["run"]))
    assert zoo.shipped(recipe)
    assert not zoo.shipped(load_recipe(miniature, [*names, "seed=1"]))
    folder = miniature.parent / "assets" / "checkpoints"
    assert [len((folder / f"{name}.csv").read_text().splitlines()) for name in ("first", "second")] == [3, 5]
    models = json.loads((folder.parent / "manifest.json").read_text())["models"]
    assert [(model["id"], model["title"]) for model in models] == [("second", "Second"), ("first", "first")]


def test_resuming_needs_the_same_recipe(miniature: Path) -> None:
    train(miniature, ["name=a"])
    with pytest.raises(RecipeError, match="other settings"):
        train(miniature, ["name=a", "seed=1"], Path("runs/a"))
    with pytest.raises(RecipeError, match="no run"):
        train(miniature, resume=Path("runs/nothing"))


def test_an_unknown_data_set_is_refused(miniature: Path) -> None:
    with pytest.raises(DataError, match="fashion-mnist"):
        train(miniature, ["data=imagenet"])
