"""Teachers: other normalisations and sizes, checkpoints of ours, image classifiers of Hugging Face."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from training.miniature import TRAINING

import bcdnet
from bcdnet import cli
from bcdnet.data import FASHION_MNIST, ArrayImages, Dataset, Preprocess, fashion_mnist
from bcdnet.training import teacher as teachers
from bcdnet.training.run import train
from bcdnet.training.teacher import Teacher, TeacherError, cached_logits, load_teacher

UNTESTED = "transformers is not installed, so that teachers of Hugging Face are not tested"
OURS = Preprocess((4, 4), 1, mean=(0.5,), std=(0.25,))


class Echo(nn.Module):
    """Gives back what it is shown, flattened."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_the_teacher_sees_its_own_normalisation_by_hand() -> None:
    # Half grey is (0.5 - 0.5) / 0.25 = 0 to us and (0.5 - 0.1) / 0.2 = 2 to the teacher; white is 2 to us, 4.5 to it.
    teacher = Teacher(Echo(), OURS, (0.1,), (0.2,))
    assert teacher(torch.full((1, 1, 1, 1), 0.0)).item() == pytest.approx(2.0)
    assert teacher(torch.full((1, 1, 1, 1), 2.0)).item() == pytest.approx(4.5)


def test_one_grey_channel_serves_three_by_hand() -> None:
    teacher = Teacher(Echo(), OURS, (0.1, 0.5, 0.0), (0.2, 0.25, 1.0))
    assert teacher(torch.full((1, 1, 1, 1), 2.0))[0].tolist() == pytest.approx([4.5, 2.0, 1.0])
    alike = Teacher(Echo(), OURS, (0.5,) * 3, (0.25,) * 3)
    assert alike(torch.full((1, 1, 1, 1), 2.0))[0].tolist() == [2.0, 2.0, 2.0]


def test_the_same_normalisation_changes_no_bit() -> None:
    images = torch.randn(2, 1, 4, 4)
    assert torch.equal(Teacher(Echo(), OURS, OURS.mean, OURS.std)(images), images.flatten(1))


@pytest.mark.parametrize(("size", "pixels"), [((8, 6), 48), ((2, 2), 4), (None, 16)])
def test_the_teacher_sees_its_own_size(size: tuple[int, int] | None, pixels: int) -> None:
    teacher = Teacher(Echo(), OURS, OURS.mean, OURS.std, size)
    assert torch.equal(teacher(torch.full((3, 1, 4, 4), 0.75)), torch.full((3, pixels), 0.75))
    if size == (2, 2):
        columns = torch.tensor([0.0, 0.0, 7.0, 7.0]).expand(1, 1, 4, 4)
        # With antialiasing half a size weighs four pixels 3, 3, 1 (and 1 outside): (3 + 3) 0 + 1 * 7 over 7, and 6 / 7.
        assert teacher(columns)[0].tolist() == pytest.approx([1.0, 6.0, 1.0, 6.0])


def test_a_teacher_learns_nothing_and_stays_in_eval_mode() -> None:
    teacher = Teacher(nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), Echo()), OURS, (0.1,), (0.2,))
    student = nn.ModuleList([teacher]).train()
    assert student.training and not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    answer = teacher(torch.randn(2, 1, 4, 4, requires_grad=True))
    assert not answer.requires_grad


def test_cached_logits_are_of_each_image_and_its_mirror() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    data = Dataset("noise", ("a",), ArrayImages(pixels), np.zeros(5, np.int64))
    logits = cached_logits(Teacher(Echo(), OURS, OURS.mean, OURS.std), data, OURS, batch_size=2)
    images = OURS.batch(pixels)
    assert torch.equal(logits, torch.stack([images.flatten(1), images.flip(-1).flatten(1)]))


def test_answers_are_kept_for_this_teacher_and_these_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    data = Dataset("noise", ("a",) * 16, ArrayImages(pixels), np.zeros(5, np.int64))
    other = replace(data, images=ArrayImages(255 - pixels))
    echo, path, asked = Teacher(Echo(), OURS, OURS.mean, OURS.std), tmp_path / "answers", []

    def answers(digest: str, images: Dataset, how: Preprocess = OURS, makes: bool = True) -> torch.Tensor:
        asked.clear()
        return teachers.kept_logits(path, digest, echo, images, how, makes)

    ask = teachers.cached_logits
    monkeypatch.setattr(teachers, "cached_logits", lambda *arguments: asked.append(1) or ask(*arguments))
    expected = ask(echo, data, OURS)
    assert torch.equal(answers("one", data), expected) and asked
    said = capsys.readouterr().err
    assert said == "the teacher answers in advance for 5 images and their mirror images: 0.0 MB\n"
    assert torch.equal(answers("one", data, makes=False), expected) and not asked
    assert capsys.readouterr().err == ""
    assert torch.equal(answers("one", other), ask(echo, other, OURS)) and asked
    for digest, images, how in (("two", other, OURS), ("two", data, OURS), ("two", data, replace(OURS, mean=(0.0,)))):
        answers(digest, images, how)
        assert asked
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(answers("one", data), expected) and asked
    path.unlink()
    # 2 x 5 x 16 numbers of four bytes, and as many again.
    monkeypatch.setattr(teachers, "_free_memory", lambda: 1279)
    with pytest.raises(TeacherError, match=r"teacher_cache takes 0\.0 GB.*leave it out\."):
        answers("one", data)
    assert not asked and not path.exists()
    monkeypatch.setattr(teachers, "_free_memory", lambda: 1280)
    assert torch.equal(answers("one", data), expected)


def checkpoint(folder: Path, how: Preprocess, **changes: object) -> Path:
    torch.manual_seed(0)
    geometry = {"width": 1 / 64, "stem_channels": 512, "channels": (512, 1024), "blocks": (1, 2), "strides": (1, 2)}
    size = {"image_size": how.image_size, "in_channels": how.channels, "num_classes": 10}
    model = bcdnet.create_model("bcdnet_a", **{**geometry, **size, "mlp_groups": 1, "precision": "32/32", **changes})
    bcdnet.save(model, folder / "teacher.safetensors", {"preprocess": how.to_dict()})
    return folder / "teacher.safetensors"


def test_a_checkpoint_of_another_size_and_normalisation_teaches(miniature: Path) -> None:
    how = Preprocess((56, 56), 3, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    path = checkpoint(miniature.parent, how)
    teacher = load_teacher("it", path, FASHION_MNIST, 10)
    pixels = fashion_mnist.load("test")[0]
    flat = np.full((1, 28, 28), 93, np.uint8)  # an even picture is the same at every size
    theirs = how.batch(np.full((1, 56, 56), 93, np.uint8))
    expected = bcdnet.load(path)(theirs).detach()
    torch.testing.assert_close(teacher(FASHION_MNIST.batch(flat)), expected, atol=1e-4, rtol=1e-4)
    assert teacher(FASHION_MNIST.batch(pixels)).shape == (20, 10)
    outcome = train(miniature, [f"teacher={path}", "steps=[{precision: 1/1, epochs: 1, lr: 1.0e-3}]"])
    assert outcome["metrics"]["n"] == 20


def test_a_teacher_that_does_not_fit_is_one_sentence(miniature: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TeacherError, match="knows 7 classes, the network 10"):
        load_teacher("it", checkpoint(miniature.parent, FASHION_MNIST, num_classes=7), FASHION_MNIST, 10)
    colours = Preprocess((28, 28), 3, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(TeacherError, match="reads 1 channel, the network 3"):
        load_teacher("it", checkpoint(miniature.parent, FASHION_MNIST), colours, 10)
    path = checkpoint(miniature.parent, FASHION_MNIST, num_classes=7)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "tiny.yaml", "--set", f"teacher={path}"])
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert not Path("runs").exists()


def hugging_face_folder(folder: Path, kind: str, labels: int = 10) -> Path:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: its teachers are untested"
    )
    torch.manual_seed(0)
    if kind == "resnet":
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=labels
        )
        model = transformers.ResNetForImageClassification(config)
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=labels)
        model = transformers.ViTForImageClassification(config)
    model.save_pretrained(folder)
    normalisation = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3], "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", **normalisation})
    )
    return folder


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_model_of_hugging_face_answers_as_its_own_library_does(miniature: Path, kind: str) -> None:
    folder = hugging_face_folder(miniature.parent / kind, kind)
    import transformers

    ours = Preprocess((32, 32), 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    teacher = load_teacher(f"hf:{folder}", Path(), ours, 10)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    normalised = (pixels / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.1, 0.2, 0.3])
    with torch.no_grad():
        expected = model(pixel_values=torch.from_numpy(normalised).permute(0, 3, 1, 2).float()).logits
    torch.testing.assert_close(teacher(ours.batch(pixels)), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01  # they do differ from class to class


def test_a_model_that_knows_one_size_gets_it_from_another(miniature: Path) -> None:
    folder = hugging_face_folder(miniature.parent / "vit", "vit")
    settings = [f"teacher=hf:{folder}", "steps=[{precision: 1/1, epochs: 1, lr: 1.0e-3}]"]
    assert train(miniature, settings)["metrics"]["n"] == 20  # 28 pixels, grey; the teacher reads 32 in colour
    recorded = json.loads(Path("runs/tiny/run.json").read_text())["inputs"]
    assert len(recorded[f"hf:{folder}"]) == 64
    cached = train(miniature, [*settings, "teacher_cache=true", "name=cached"])
    assert cached["metrics"]["n"] == 20 and TRAINING == 48


def test_pixels_that_a_model_wants_as_they_are(miniature: Path) -> None:
    folder = hugging_face_folder(miniature.parent / "resnet", "resnet")
    document = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**document, "do_normalize": False}))
    teacher = load_teacher(f"hf:{folder}", Path(), OURS, 10)
    teacher.network = Echo()
    assert teacher(torch.full((1, 1, 1, 1), 2.0))[0].tolist() == pytest.approx([1.0, 1.0, 1.0])  # white is 1


@pytest.mark.parametrize(
    "damage", ["no folder", "empty", "no preprocessor", "no weights", "other classes", "damaged", "no head"]
)
def test_a_folder_that_holds_no_teacher_is_one_sentence(miniature: Path, damage: str) -> None:
    folder = hugging_face_folder(miniature.parent / "resnet", "resnet", labels=7 if damage == "other classes" else 10)
    if damage in ("no folder", "empty"):
        folder = miniature.parent / "nothing"
        if damage == "empty":
            folder.mkdir()
    elif damage == "no preprocessor":
        (folder / "preprocessor_config.json").unlink()
    elif damage == "no weights":
        (folder / "model.safetensors").unlink()
    elif damage == "damaged":
        (folder / "model.safetensors").write_bytes(b"not tensors")
    elif damage == "no head":
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        body = {key: tensor for key, tensor in tensors.items() if not key.startswith("classifier")}
        safetensors.torch.save_file(body, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError) as caught:
        train(miniature, [f"teacher=hf:{folder}"])
    sentence = str(caught.value)
    assert f"hf:{folder}" in sentence and "\n" not in sentence and sentence.endswith(".")
    assert not Path("runs").exists()


def test_a_name_that_cannot_be_had_is_status_2(miniature: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason=UNTESTED)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "tiny.yaml", "--set", "teacher=hf:nowhere"])
    assert end.value.code == 2
    assert "the teacher hf:nowhere cannot be had" in capsys.readouterr().err
