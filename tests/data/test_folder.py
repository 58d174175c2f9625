from pathlib import Path

import pytest
import torch
from PIL import Image

from bcdnet.data import FASHION_MNIST, DataError, Preprocess, open_dataset

TINY = Preprocess((2, 2), 3, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for name, colours in {"dog": ["red", "lime"], "cat": ["blue"], "Ünïcode *x*": ["white"]}.items():
        (root / name).mkdir(parents=True)
        for i, colour in enumerate(colours):
            Image.new("RGB", (4, 4), colour).save(root / name / f"{i}.PNG")
    return root


def test_classes_and_files_in_sorted_order(root: Path) -> None:
    data = open_dataset(root)
    assert data.name == "pets" and data.classes == ("cat", "dog", "Ünïcode *x*") and data.notes == ()
    assert data.labels.tolist() == [0, 1, 1, 2] and len(data) == len(data.images) == 4
    assert data.images[2].getpixel((0, 0)) == (0, 255, 0)
    (x, y), (rest, _) = data.batches(TINY, 3)
    assert x.shape == (3, 3, 2, 2) and y.tolist() == [0, 1, 1] and len(rest) == 1
    assert torch.equal(x[:, :, 0, 0], torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))


def test_files_are_decoded_as_uploads_would_be(root: Path) -> None:
    data = open_dataset(root)
    *_, (x, _) = data.batches(FASHION_MNIST, 1)
    assert torch.equal(x[0], FASHION_MNIST.tensor(data.images[3]))
    assert FASHION_MNIST.denormalise(x[0]).max() == 0  # white, so it was inverted


def test_unreadable_images_are_reported_by_name(root: Path) -> None:
    (root / "dog" / "0.PNG").write_text("woof")
    data = open_dataset(root)
    assert data.labels.tolist() == [0, 1, 1, 2]
    with pytest.raises(DataError, match=r"dog.0\.PNG.*not a picture"):
        data.images[1]
    with pytest.raises(DataError, match=r"dog.0\.PNG"):
        list(data.batches(TINY))


def test_other_files_are_counted_and_hidden_ones_passed_over(root: Path) -> None:
    (root / "dog" / "about.txt").write_text("woof")
    (root / "dog" / ".DS_Store").write_bytes(b"")
    (root / ".git").mkdir()
    data = open_dataset(root)
    assert len(data) == 4 and len(data.classes) == 3
    assert data.notes == ("1 entry is no image by name and left out, 'dog/about.txt' first.",)


@pytest.mark.parametrize("folder", ["empty", "flat", "nested", "a-file", "nowhere"])
def test_unusable_folders_are_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    Image.new("L", (1, 1)).save(tmp_path / "flat" / "0.png")
    (tmp_path / "nested" / "train" / "cat").mkdir(parents=True)
    Image.new("L", (1, 1)).save(tmp_path / "nested" / "train" / "cat" / "0.png")
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DataError, match=folder):
        open_dataset(tmp_path / folder)


def test_folders_of_splits(tmp_path: Path) -> None:
    for name, colour in (("train/cat", "red"), ("train/dog", "lime"), ("val/dog", "blue"), ("test/dog", "white")):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), colour).save(tmp_path / name / "0.png")
    colours = {"train": [(255, 0, 0), (0, 255, 0)], "val": [(0, 0, 255)], "test": [(255, 255, 255)]}
    for split, expected in colours.items():
        data = open_dataset(tmp_path, split)
        assert data.classes == ("cat", "dog") and data.notes == ()
        assert [data.images[i].getpixel((0, 0)) for i in range(len(data))] == expected
    # Only dogs are tested on, and they keep the number that training gave them.
    assert open_dataset(tmp_path, "test").labels.tolist() == [1]
    (tmp_path / "test").rename(tmp_path.parent / "aside")
    assert open_dataset(tmp_path, "test").images[0].getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(DataError, match="no split 'fit'; it has 'train', 'val'"):
        open_dataset(tmp_path, "fit")
    (tmp_path / "val" / "mouse").mkdir()
    with pytest.raises(DataError, match="mouse"):
        open_dataset(tmp_path, "val")


def test_a_folder_without_splits_says_that_training_on_it_leaves_nothing_to_test_on(root: Path) -> None:
    (data := open_dataset(root, "train"))
    assert len(data) == 4 and "all of it" in data.notes[0]
    (root / "train").mkdir()  # a class of trains makes no split
    Image.new("RGB", (4, 4)).save(root / "train" / "0.png")
    assert open_dataset(root).classes == ("cat", "dog", "train", "Ünïcode *x*")
