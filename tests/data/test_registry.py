"""The table of data sets: its rows, where a set is looked for, and what input its pictures become."""

import dataclasses
from pathlib import Path

import pytest
from layouts import LAYOUTS, picture

from bcdnet.data import (
    FASHION_MNIST,
    IMAGENET,
    SOURCES,
    DataError,
    MissingData,
    default_preprocess,
    get_source,
    open_dataset,
)
from bcdnet.data.image_files import FileImages


def test_the_table() -> None:
    assert {
        name: (source.splits["train"], source.splits["test"], source.classes) for name, source in SOURCES.items()
    } == {
        "imagenet": (1_281_167, 50_000, 1_000),
        "cub-200-2011": (5_994, 5_794, 200),
        "flowers-102": (1_020 + 1_020, 6_149, 102),
        "fgvc-aircraft": (3_334 + 3_333, 3_333, 100),
        "stanford-cars": (8_144, 8_041, 196),
        "stanford-dogs": (12_000, 8_580, 120),
        "fashion-mnist": (60_000, 10_000, 10),
        "elpv": (1_968, 656, 2),
    }
    with pytest.raises(DataError, match="known are imagenet, cub"):
        get_source("cifar")


@pytest.mark.parametrize("name", SOURCES)
def test_a_row_is_whole(name: str) -> None:
    source = SOURCES[name]
    assert source.name == name and source.markers.keys() == source.splits.keys()
    assert source.origin and source.licence and source.obtain
    assert ("data fetch" in source.obtain) == bool(source.downloads)
    for download in source.downloads:
        algorithm, digest = download.checksum.split(":")
        assert len(digest) == {"md5": 32, "sha256": 64}[algorithm] and int(digest, 16) >= 0
        assert download.url.startswith("http") and "/" not in download.file and "?" not in download.file


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_is_found_by_root_and_by_environment(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = LAYOUTS[name](tmp_path / "sets" / name)
    monkeypatch.setenv("BCDNET_DATA", str(tmp_path))
    expected = len(open_dataset(name, "train", root))
    assert expected > 0
    assert len(open_dataset(name, "train", root.parent)) == expected
    for place in (root, root.parent):
        monkeypatch.setenv("BCDNET_DATA", str(place))
        assert len(open_dataset(name, "train")) == expected
    for folder in SOURCES[name].folders[:1]:  # as its archive unpacks it
        nested = root / folder
        nested.parent.mkdir(parents=True, exist_ok=True)
        root.rename(tmp_path / "aside")
        nested.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "aside").rename(nested)
        assert len(open_dataset(name, "train")) == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_missing_set_is_one_sentence_with_its_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCDNET_DATA", str(tmp_path))
    source = SOURCES[name]
    monkeypatch.setitem(vars(source), "installed", tuple)
    with pytest.raises(MissingData) as error:
        open_dataset(name, "train")
    text = str(error.value)
    assert source.origin in text and source.obtain in text and str(tmp_path) in text and "\n" not in text
    assert all(marker in text for marker in source.markers["train"])
    with pytest.raises(DataError, match="no split 'validation'; it has 'train', "):
        open_dataset(name, "validation")


def test_folders_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fashion-MNIST's test split is shipped, but who names a folder wants that one.
    monkeypatch.setenv("BCDNET_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"BCDNET_DATA names .*nowhere, which is no folder"):
        open_dataset("fashion-mnist")
    with pytest.raises(DataError, match=r"there is no folder .*here"):
        open_dataset("fashion-mnist", root=tmp_path / "here")


def test_default_preprocess_by_hand() -> None:
    assert (
        default_preprocess("cub-200-2011", (224, 224), 3) == IMAGENET == default_preprocess("a folder", (224, 224), 3)
    )
    assert default_preprocess("fashion-mnist", (28, 28), 1) == FASHION_MNIST
    # 448 / 224 * 256, and the longer side where they differ.
    assert default_preprocess("imagenet", (448, 448), 3).resize == 512
    assert default_preprocess("imagenet", (112, 64), 3).resize == 128
    grey = default_preprocess("imagenet", (224, 224), 1)
    assert grey.mean == pytest.approx((0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406,), abs=1e-15)
    assert grey.std == pytest.approx((0.299 * 0.229 + 0.587 * 0.224 + 0.114 * 0.225,), abs=1e-15)
    assert default_preprocess("fashion-mnist", (32, 32), 3) == dataclasses.replace(
        FASHION_MNIST, image_size=(32, 32), channels=3, mean=FASHION_MNIST.mean * 3, std=FASHION_MNIST.std * 3
    )
    assert default_preprocess("elpv", (96, 96), 1).resize is None
    with pytest.raises(ValueError, match="channels"):
        default_preprocess("elpv", (96, 96), 2)


def test_names_of_files_survive_being_packed(tmp_path: Path) -> None:
    names = ["a/ä ö.png", "", "b/\udcff.png", "c" * 300]  # \udcff is how Python shows a byte that is no UTF-8
    images = FileImages(tmp_path, names)
    assert len(images) == 4
    assert [images.path(i).relative_to(tmp_path).as_posix() for i in range(4)] == ["a/ä ö.png", ".", *names[2:]]
    for index in (-1, 4):
        with pytest.raises(IndexError):
            images.path(index)


def test_photographs_larger_than_uploads_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "large.jpg", 90, (6000, 5000), "L")
    assert FileImages(tmp_path, ["large.jpg"])[0].size == (6000, 5000)


def test_a_folder_takes_no_root(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "0.png", 9)
    assert len(open_dataset(tmp_path)) == 1
    with pytest.raises(
        DataError, match=r"is a folder, so it needs no root; leave /nowhere \(data_root in a recipe\) out"
    ):
        open_dataset(tmp_path, root="/nowhere")
