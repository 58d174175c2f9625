"""Whole runs on a miniature of the real data set, in this process."""

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training.miniature import assert_same_weights, load_json, rows, write_pictures

import bcdnet
from bcdnet.checkpoint import CheckpointError
from bcdnet.data import FASHION_MNIST, DataError, fashion_mnist
from bcdnet.training import loop
from bcdnet.training import run as running
from bcdnet.training.distillation import distillation_loss
from bcdnet.training.recipe import RecipeError, load_recipe
from bcdnet.training.run import checkpoint_path, require_same_run, train

ONE_STEP = "steps=[{precision: 32/1, iterations: 6, lr: 1.0e-3}]"
#: At this rate no weight moves by more than 1e-8 in a few iterations.
STANDING = "steps=[{precision: 1/1, iterations: 2, lr: 1.0e-9}]"
TOP1_TOP5 = {"top1", "top5", "n", "ci95"}


def run(recipe: Path, name: str, *overrides: str) -> tuple[Path, bcdnet.model.Network]:
    """The folder of a run and the network it ends with."""
    outcome = train(recipe, [f"name={name}", *overrides])
    return Path(outcome["run"]), bcdnet.load(outcome["checkpoint"])


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
    no_teacher = distillation_loss(logits, None, labels, None, 0.1).item()
    assert no_teacher == pytest.approx(hard, abs=1e-6)
    two_heads = distillation_loss(logits, other, labels, None, 0.1).item()
    assert two_heads == pytest.approx((hard + np.log(2)) / 2, abs=1e-6)


def test_two_steps_end_in_a_checkpoint_with_its_card_and_a_log(miniature: Path) -> None:
    outcome = train(miniature)
    folder, model = Path(outcome["run"]), bcdnet.load(outcome["checkpoint"])
    assert (folder, model.config.precision) == (Path("runs/tiny"), "1/1")
    assert bcdnet.load(folder / "step1.safetensors").config.precision == "32/1"
    assert model.card["metrics"] == outcome["metrics"] and outcome["metrics"].keys() == TOP1_TOP5
    assert outcome["metrics"]["n"] == 20
    assert model.card["recipe"]["steps"][0]["epochs"] == 2 and model.card["classes"][9] == "Ankle boot"
    assert model.card["versions"]["torch"] == torch.__version__

    log = rows(folder)
    where = [(row["step"], row["precision"], row["epoch"], row["iteration"]) for row in log]
    assert where == [("1", "32/1", "1", "3"), ("1", "32/1", "2", "6"), ("2", "1/1", "1", "3"), ("2", "1/1", "2", "6")]
    columns = ["step", "precision", "epoch", "iteration", "lr", "train_loss", "train_top1", "test_top1", "seconds"]
    kinds = ["L", "P", "S", "conv1x1", "conv3x3"]
    statistics = [f"{name}_{kind}" for name in ("error", "flips") for kind in kinds]
    assert list(log[0]) == [*columns, "flips", "error", *statistics]
    assert all(value != "" for row in log for value in row.values())
    assert float(log[-1]["test_top1"]) == pytest.approx(outcome["metrics"]["top1"])
    # The rate of the row's last iteration: 6 of 6, so cos(pi 5/6) without warm-up.
    assert float(log[-1]["lr"]) == pytest.approx(1e-3 * (1 + np.cos(np.pi * 5 / 6)) / 2, rel=1e-5)

    progress = load_json(folder / "progress.json")
    counts = {"step", "steps", "iteration", "iterations"}
    assert progress.keys() == counts | {"updated", "eta_s", "stopped", "process", "host"}
    assert progress["stopped"] is False and progress["process"] == os.getpid()
    assert [progress[key] for key in ("step", "steps", "iteration", "iterations", "eta_s")] == [2, 2, 6, 6, 0]
    assert list(folder.glob("tensorboard/events.*"))
    left = {path.name for path in folder.iterdir()}
    assert left == {"log.csv", "progress.json", "run.json", "step1.safetensors", "step2.safetensors", "tensorboard"}
    with pytest.raises(RecipeError, match="--resume"):
        train(miniature)
    assert train(miniature, resume=folder)["metrics"] == outcome["metrics"]  # finished: nothing is trained again


def test_accuracy_is_that_of_evaluate(miniature: Path) -> None:
    outcome = train(miniature, ["teacher=null"])
    again = bcdnet.evaluate.evaluate(bcdnet.load(outcome["checkpoint"]), fashion_mnist.dataset("test"))
    assert (again.top1, again.top5, again.n) == tuple(outcome["metrics"][key] for key in ("top1", "top5", "n"))


def test_rows_come_as_often_as_the_recipe_says(miniature: Path) -> None:
    folder, _ = run(miniature, "often", "log_every=3", "steps=[{precision: 1/1, iterations: 7, lr: 1.0e-3}]")
    log = rows(folder)
    assert [row["iteration"] for row in log] == ["3", "6", "7"]
    assert {row["epoch"] for row in log} == {""}


def test_a_run_does_what_its_recipe_says(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, teacher = run(miniature, "teacher")
    seen: list[tuple[Tensor, Tensor, Tensor | None]] = []
    smoothings, groups = set(), []
    forward, loss, step = loop.Learner.forward, loop.distillation_loss, torch.optim.AdamW.step

    def recording_forward(self: Any, images: Tensor, labels: Tensor, answers: Tensor | None) -> Any:
        seen.append((images.clone(), labels, answers))
        return forward(self, images, labels, answers)

    def recording_loss(*arguments: Any) -> Tensor:
        smoothings.add(arguments[-1])
        return loss(*arguments)

    def recording_step(self: Any, *arguments: Any, **options: Any) -> Any:
        groups.append({key: self.param_groups[0][key] for key in ("lr", "weight_decay")})
        return step(self, *arguments, **options)

    monkeypatch.setattr(loop.Learner, "forward", recording_forward)
    monkeypatch.setattr(loop, "distillation_loss", recording_loss)
    monkeypatch.setattr(torch.optim.AdamW, "step", recording_step)
    settings = ["label_smoothing=0.25", "batch_size=12", "teacher=runs/teacher/step2.safetensors", "augment=[flip]"]
    run(miniature, "student", *settings)
    assert len(seen) == 4 * (48 // 12)
    assert smoothings == {0.25}
    pixels, labels = fashion_mnist.load("train")
    originals = FASHION_MNIST.batch(pixels)
    mirrored = 0
    for images, answers_to, logits in seen:
        assert images.shape == (12, 1, 28, 28)
        torch.testing.assert_close(logits, teacher(images).detach(), atol=1e-5, rtol=1e-5)
        for image, label in zip(images, answers_to.tolist(), strict=True):
            as_it_is, flipped = ((originals == view).flatten(1).all(1) for view in (image, image.flip(-1)))
            (which,) = torch.nonzero(as_it_is | flipped).ravel().tolist()
            assert labels[which] == label
            mirrored += int(flipped[which])
    assert 60 < mirrored < 132  # half of 192
    # Two steps of eight iterations; the first warms up for a fifth of them, that is two.
    recipe = load_recipe(miniature)
    expected = [recipe.steps[k // 8].rate(k % 8, 8) for k in range(16)]
    assert [group["lr"] for group in groups] == pytest.approx(expected, abs=1e-12)
    assert expected[:3] == [0.0005, 0.001, 0.001]
    assert [group["weight_decay"] for group in groups] == [0.01] * 8 + [0.0] * 8


def test_the_teacher_may_answer_in_advance(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(miniature, "teacher")
    answers: list[Tensor] = []
    loss = loop.distillation_loss

    def recording_loss(*arguments: Any) -> Tensor:
        answers.append(arguments[3].clone())
        return loss(*arguments)

    monkeypatch.setattr(loop, "distillation_loss", recording_loss)
    settings = ["teacher=runs/teacher/step2.safetensors", "augment=[flip]", "log_every=1", ONE_STEP]
    online, _ = run(miniature, "online", *settings)
    cached, _ = run(miniature, "cached", *settings, "teacher_cache=true")
    assert len(answers) == 12
    for one, other in zip(answers[:6], answers[6:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    losses = [[float(row["train_loss"]) for row in rows(folder)] for folder in (online, cached)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_average_is_what_is_kept(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[dict[str, Tensor]] = []
    update = loop.AveragedModel.update_parameters

    def recording(self: Any, model: torch.nn.Module) -> None:
        weights.append(copy.deepcopy(model.state_dict()))
        update(self, model)

    monkeypatch.setattr(loop.AveragedModel, "update_parameters", recording)
    _, kept = run(miniature, "average", "ema=0.75", ONE_STEP)
    assert len(weights) == 6
    for key, value in kept.state_dict().items():
        if not value.is_floating_point():
            continue
        expected = weights[0][key].double()
        for after in weights[1:]:
            expected = 0.75 * expected + 0.25 * after[key].double()
        torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-5)
    assert not torch.equal(kept.state_dict()["fc.weight"], weights[-1]["fc.weight"])


def test_parts_of_a_batch_add_up_to_it(miniature: Path) -> None:
    settings = ["freeze_bn=true", "log_every=1", ONE_STEP]
    whole, one = run(miniature, "whole", *settings)
    parts, other = run(miniature, "parts", *settings, "accumulate=2")
    for name in ("train_loss", "train_top1"):
        expected = [float(row[name]) for row in rows(whole)]
        assert [float(row[name]) for row in rows(parts)] == pytest.approx(expected, rel=1e-5)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, atol=1e-5, rtol=0)


def test_frozen_statistics_stay_bit_for_bit(miniature: Path) -> None:
    folder, start = run(miniature, "start")
    init = f"init={folder / 'step2.safetensors'}"
    settings = [init, "steps=[{precision: 1/1, iterations: 3, lr: 1.0e-3}]", "ema=0.5"]
    _, frozen = run(miniature, "frozen", *settings, "freeze_bn=true")
    _, free = run(miniature, "free", *settings)
    names = [key for key in start.state_dict() if key.split(".")[-1].startswith(("running_", "num_batches"))]
    assert len(names) == 3 * (1 + 8)  # of the stem and of eight units
    for name in names:
        assert torch.equal(frozen.state_dict()[name], start.state_dict()[name])
        assert not torch.equal(free.state_dict()[name], start.state_dict()[name])
    assert not torch.equal(frozen.state_dict()["fc.weight"], start.state_dict()["fc.weight"])


def test_b_continues_from_a(miniature: Path) -> None:
    folder, before = run(miniature, "a")
    _, after = run(miniature, "b", "model.variant=bcdnet_b", f"init={folder / 'step2.safetensors'}", STANDING)
    for key, value in before.state_dict().items():
        if value.is_floating_point() and "running_" not in key:
            # At this learning rate the weights stay, so they can only have come from A.
            torch.testing.assert_close(after.state_dict()[key], value, atol=1e-7, rtol=0)
    matrices = [w for name, w in after.state_dict().items() if ".embedding." in name and name.endswith("weight")]
    assert matrices and all(torch.equal(w, w.half().float()) for w in matrices)


def test_new_heads_for_other_classes(miniature: Path) -> None:
    folder, before = run(miniature, "a")
    write_pictures(miniature.parent / "pictures", 9)
    settings = ["data=pictures", "model.num_classes=3", f"init={folder / 'step2.safetensors'}", STANDING]
    with pytest.raises(CheckpointError, match=r"fc.* in the shape \(10"):
        run(miniature, "refused", *settings)
    outcome, after = run(miniature, "other", *settings, "new_heads=true", "seed=4")
    assert load_json(outcome / "run.json")["recipe"]["new_heads"] is True
    assert after.card["classes"] == ["bright", "dark", "striped"] and after.card["metrics"]["n"] == 12
    torch.manual_seed(4)
    fresh = bcdnet.model.Network(after.config).state_dict()
    for key, value in after.state_dict().items():
        if value.is_floating_point() and "running_" not in key:
            expected = fresh if key.startswith("fc") else before.state_dict()
            torch.testing.assert_close(value, expected[key], atol=1e-7, rtol=0)


def test_what_is_to_be_known_of_a_set_is_told_once_and_stands_in_the_card(
    miniature: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(miniature.parent / "pictures", 3)
    (miniature.parent / "pictures" / "train").rename("flat")  # class folders, and no split
    _, model = run(miniature, "flat", "data=flat", "model.num_classes=3", "batch_size=4", STANDING)
    told = "flat has no folders train and test: its split 'train' is all of it, test images too."
    assert model.card["notes"] == [told] and capsys.readouterr().err.count(told) == 1
    dataset, note = running.open_dataset, "The images come from ImageNet, test images too."
    noted = lambda *arguments: replace(dataset(*arguments), notes=(note,))  # noqa: E731
    monkeypatch.setattr(running, "open_dataset", noted)
    _, model = run(miniature, "noted", STANDING)
    assert model.card["notes"] == [note] and capsys.readouterr().err.count(note) == 1  # of both splits


def test_a_process_that_does_not_see_the_run_says_so(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        """The fourth of four processes, on a disk of its own."""

        is_global_zero, global_rank, world_size, device = False, 3, 4, torch.device("cpu")

        def barrier(self) -> None:
            pass

    monkeypatch.setattr(running, "_fabric", lambda _: Elsewhere())
    monkeypatch.setattr(running, "SHARED_SECONDS", 0.0)
    with pytest.raises(RecipeError, match=r"process 3 does not see .*/runs/tiny, .* on a disk that all machines share"):
        train(miniature)
    assert not Path("runs").exists()


def test_a_checkpoint_is_a_shipped_one_by_its_plain_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_ASSETS", str(tmp_path))
    for place in ("checkpoints/a.safetensors", "runs/a-seed2/a.safetensors", "runs/my-seeds/my.safetensors"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert checkpoint_path("a") == tmp_path / "checkpoints" / "a.safetensors"
    assert checkpoint_path("a-seed2") == tmp_path / "runs" / "a-seed2" / "a.safetensors"
    mine = tmp_path / "runs" / "my-seeds"
    for name in ("my-seeds", "a-seed3", "./a", f"{mine}/t.safetensors", str(mine)):
        assert checkpoint_path(name) == Path(name)


def test_a_run_that_cannot_start_leaves_nothing_behind(miniature: Path) -> None:
    folder, _ = run(miniature, "other", "model.branches=PS", ONE_STEP)
    with pytest.raises(CheckpointError, match="branches"):
        train(miniature, [f"init={folder / 'step1.safetensors'}"])
    with pytest.raises(CheckpointError, match="nothing"):
        train(miniature, ["teacher=nothing"])
    with pytest.raises(RecipeError, match="10 classes, the model 12"):
        train(miniature, ["model.num_classes=12"])
    with pytest.raises(DataError, match="known data set"):
        train(miniature, ["data=nothing"])
    assert not Path("runs/tiny").exists()


def test_resuming_needs_the_same_recipe_teacher_and_start(miniature: Path) -> None:
    folder, teacher = run(miniature, "teacher", ONE_STEP)
    path = folder / "step1.safetensors"
    with pytest.raises(RecipeError, match="other settings"):
        train(miniature, ["name=teacher", ONE_STEP, "seed=1"], folder)
    with pytest.raises(RecipeError, match="no run"):
        train(miniature, resume=Path("runs/nothing"))
    student = ["name=student", f"teacher={path}", ONE_STEP]
    train(miniature, student)
    require_same_run(Path("runs/student"), load_recipe(miniature, student))
    bcdnet.save(teacher, path, {"title": "another"})
    with pytest.raises(RecipeError, match="other settings"):
        require_same_run(Path("runs/student"), load_recipe(miniature, student))


def test_the_same_recipe_makes_the_same_weights(miniature: Path) -> None:
    one, _ = run(miniature, "one", ONE_STEP, "augment=[shift, flip]")
    other, _ = run(miniature, "other", ONE_STEP, "augment=[shift, flip]", "workers=1", "log_every=2", "save_every=0")
    assert_same_weights(one / "step1.safetensors", other / "step1.safetensors")
    seeded, _ = run(miniature, "seeded", ONE_STEP, "augment=[shift, flip]", "seed=1")
    with pytest.raises(AssertionError):
        assert_same_weights(one / "step1.safetensors", seeded / "step1.safetensors")


@pytest.mark.parametrize(
    ("environment", "here", "nodes"),
    [
        ({}, 1, 1),
        ({"LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "8"}, 8, 1),
        ({"LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "32"}, 8, 4),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"}, 4, 2),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train"}, 4, 1),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, 1, 1),  # a shell within a job trains alone
    ],
)
def test_as_many_processes_train_as_torchrun_or_slurm_started(
    environment: dict[str, str], here: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked: dict[str, Any] = {}

    class Recorded:
        device = torch.device("cpu")

        def __init__(self, **arguments: Any) -> None:
            asked.update(arguments)

        def launch(self) -> None:
            asked["launched"] = True

    monkeypatch.setattr(running, "Fabric", Recorded)
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "fmnist_bcdnet_a.yaml")
    running._fabric(recipe)
    assert asked == {
        "devices": here, "num_nodes": nodes, "strategy": "ddp" if here * nodes > 1 else "auto",
        "precision": recipe.amp, "launched": True,
    }  # fmt: skip
    with pytest.raises(RecipeError, match="16-mixed needs a GPU"):
        running._fabric(replace(recipe, amp="16-mixed"))
