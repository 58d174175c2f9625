"""The loaders of the published sets, each on its true layout with its trap."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from layouts import brightness, structs
from PIL import Image
from scipy.io import loadmat, savemat

from bcdnet.data import ELPV, DataError, Dataset, MissingData, elpv, open_dataset
from bcdnet.data.flowers102 import CLASSES as FLOWERS


def seen(data: Dataset) -> list[int]:
    """The brightness of every image, and that every one is what the rest of the project expects."""
    assert data.labels.dtype == np.int64 and len(data) == len(data.labels) == len(data.images)
    assert all(image.mode in ("L", "RGB") for image in data.images)
    return [brightness(data.images[i]) for i in range(len(data))]


# ImageNet-1K


def test_imagenet_counts_its_classes_in_the_order_of_their_wnids(imagenet: Path) -> None:
    data = open_dataset("imagenet", "train", imagenet)
    assert data.classes == ("n01440764 tench", "n01443537 goldfish", "n02119789 kit fox")
    assert data.labels.tolist() == [0, 0, 1, 2]
    assert seen(data) == pytest.approx([150, 100, 200, 50], abs=2)  # tench 10 before tench 9, as names sort
    assert data.notes == ("3 classes instead of 1,000: these labels are not those of ImageNet-1K.",)


def test_imagenet_flat_validation_goes_through_the_devkits_own_order(imagenet: Path) -> None:
    # The ground truth says 3, 1, 2, 2; the devkit's 3 is the tench, whose wnid comes first.
    data = open_dataset("imagenet", "test", imagenet)
    assert data.labels.tolist() == [0, 2, 1, 1]
    assert seen(data) == pytest.approx([40, 80, 120, 160], abs=2)  # CMYK, a PNG named JPEG, grey and an ordinary one
    (imagenet / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    assert open_dataset("imagenet", "test", imagenet).labels.tolist() == [0, 1, 1]


def test_imagenet_validation_in_class_folders_has_the_same_labels(imagenet: Path) -> None:
    for number, wnid in enumerate(["n01440764", "n02119789", "n01443537", "n01443537"], 1):
        (imagenet / "val" / wnid).mkdir(exist_ok=True)
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (imagenet / "val" / name).rename(imagenet / "val" / wnid / name)
    data = open_dataset("imagenet", "test", imagenet)
    assert data.labels.tolist() == [0, 1, 1, 2] and seen(data) == pytest.approx([40, 120, 160, 80], abs=2)
    # A class without validation images keeps its number.
    (imagenet / "val" / "n01440764" / "ILSVRC2012_val_00000001.JPEG").unlink()
    (imagenet / "val" / "n01440764").rmdir()
    assert open_dataset("imagenet", "test", imagenet).labels.tolist() == [1, 1, 2]
    (imagenet / "val" / "n09999999").mkdir()
    with pytest.raises(DataError, match="n09999999 is no class"):
        open_dataset("imagenet", "test", imagenet)


def test_imagenet_without_a_devkit(imagenet: Path) -> None:
    (imagenet / "ILSVRC2012_devkit_t12").rename(imagenet / "elsewhere")
    assert open_dataset("imagenet", "train", imagenet).classes == ("n01440764", "n01443537", "n02119789")
    with pytest.raises(DataError, match="the devkit is needed"):
        open_dataset("imagenet", "test", imagenet)


def test_imagenet_whose_training_images_and_devkit_disagree(imagenet: Path) -> None:
    (imagenet / "train" / "n01443537").rename(imagenet / "train" / "n01443538")
    with pytest.raises(DataError, match="different classes"):
        open_dataset("imagenet", "test", imagenet)


def test_imagenet_ground_truth_with_an_unknown_class(imagenet: Path) -> None:
    truth = imagenet / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("3\n1\n2\n4\n")  # 4 is a synset with children, no class
    with pytest.raises(DataError, match="the class 4"):
        open_dataset("imagenet", "test", imagenet)
    truth.write_text("3\n1\n2\n")
    with pytest.raises(DataError, match="outside 1 to 3"):
        open_dataset("imagenet", "test", imagenet)


def test_another_folder_with_train_and_val_is_not_taken_for_imagenet(imagenet: Path) -> None:
    (imagenet / "train" / "cats").mkdir()
    with pytest.raises(DataError, match="'cats' is no WordNet id"):
        open_dataset("imagenet", "train", imagenet)


# CUB-200-2011


def test_cub(cub: Path) -> None:
    train, test = open_dataset("cub-200-2011", "train", cub), open_dataset("cub-200-2011", "test", cub)
    assert train.classes == test.classes == ("Black footed Albatross", "Laysan Albatross")
    assert train.labels.tolist() == [0, 1] and seen(train) == pytest.approx([80, 120], abs=2)
    assert test.labels.tolist() == [0, 1, 1] and seen(test) == pytest.approx([40, 160, 200], abs=2)
    assert test.images[1].mode == "RGB"  # stored as grey


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n5 0\n", "label 0, outside 1 to 2"),
        ("image_class_labels.txt", "1 1\n2 1\n3 2\n4 3\n5 2\n", "label 3, outside 1 to 2"),
        ("image_class_labels.txt", "1 1\n2 1\n3 2\n4 x\n5 2\n", "'x' where a whole number"),
        ("image_class_labels.txt", "1 1\n2 1\n3 2\n4\n5 2\n", "'4', which is no pair"),
        ("image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n", "do not number the same images"),
        ("images.txt", "1 a.jpg\n1 b.jpg\n", "one number twice"),
        ("train_test_split.txt", "1 0\n2 1\n3 1\n4 0\n5 2\n", "'2' where 0 or 1"),
        ("classes.txt", "0 001.Black_footed_Albatross\n1 002.Laysan_Albatross\n", "from 1 on"),
    ],
)
def test_cub_with_a_damaged_list(cub: Path, file: str, text: str, complaint: str) -> None:
    (cub / file).write_text(text)
    with pytest.raises(DataError, match=complaint):
        open_dataset("cub-200-2011", "test", cub)


# Flowers-102


def test_flowers(flowers: Path) -> None:
    train = open_dataset("flowers-102", "train", flowers)
    assert train.labels.tolist() == [1, 0, 101] and seen(train) == pytest.approx([120, 40, 80], abs=2)
    assert open_dataset("flowers-102", "fit", flowers).labels.tolist() == [1, 0]
    val = open_dataset("flowers-102", "val", flowers)
    assert val.labels.tolist() == [101] and "part of the split 'train'" in val.notes[0] and train.notes == ()
    test = open_dataset("flowers-102", "test", flowers)
    assert test.labels.tolist() == [3, 2, 4] and seen(test) == pytest.approx([240, 160, 200], abs=2)


def test_the_names_of_the_flowers() -> None:
    assert len(FLOWERS) == len(set(FLOWERS)) == 102
    assert (FLOWERS[0], FLOWERS[50], FLOWERS[101]) == ("pink primrose", "petunia", "blackberry lily")


def test_flowers_with_damaged_files(flowers: Path) -> None:
    savemat(flowers / "setid.mat", {"tstid": np.array([[7]], np.uint16)})
    with pytest.raises(DataError, match="no label for"):
        open_dataset("flowers-102", "test", flowers)
    with pytest.raises(DataError, match="no variable 'valid'"):
        open_dataset("flowers-102", "val", flowers)
    savemat(flowers / "imagelabels.mat", {"labels": np.array([[0, 102]], np.uint8)})
    with pytest.raises(DataError, match="label 0, outside 1 to 102"):
        open_dataset("flowers-102", "test", flowers)
    (flowers / "imagelabels.mat").write_bytes(b"not MATLAB")
    with pytest.raises(DataError, match="as a MATLAB file"):
        open_dataset("flowers-102", "test", flowers)


# FGVC-Aircraft


def test_aircraft(aircraft: Path) -> None:
    train, test = open_dataset("fgvc-aircraft", "train", aircraft), open_dataset("fgvc-aircraft", "test", aircraft)
    assert train.classes == ("707-320", "F/A-18", "Model B200 King Air")
    assert train.labels.tolist() == [1, 2] and test.labels.tolist() == [0, 1]
    # Twenty rows of white below sixteen of grey: without the banner nothing brightens the picture.
    assert test.images[0].size == (24, 16) and seen(test) == pytest.approx([160, 120], abs=2)
    assert open_dataset("fgvc-aircraft", "fit", aircraft).labels.tolist() == [2]
    assert open_dataset("fgvc-aircraft", "val", aircraft).labels.tolist() == [1]


def test_aircraft_of_an_unknown_variant(aircraft: Path) -> None:
    (aircraft / "data" / "images_variant_test.txt").write_text("0037512 Model B200\n")
    with pytest.raises(DataError, match="'Model B200', which variants"):
        open_dataset("fgvc-aircraft", "test", aircraft)


def test_aircraft_with_nothing_but_a_banner(aircraft: Path) -> None:
    Image.new("RGB", (24, 20)).save(aircraft / "data" / "images" / "0037512.jpg")
    with pytest.raises(DataError, match="no rows above its banner"):
        open_dataset("fgvc-aircraft", "test", aircraft).images[0]


# Stanford Cars


def test_cars(cars: Path) -> None:
    train, test = open_dataset("stanford-cars", "train", cars), open_dataset("stanford-cars", "test", cars)
    assert train.classes == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012")
    assert train.labels.tolist() == [2, 0, 1] and seen(train) == pytest.approx([40, 80, 120], abs=2)
    assert test.labels.tolist() == [1, 2] and seen(test) == pytest.approx([40, 80], abs=2)
    (cars / "cars_test_annos_withlabels.mat").rename(cars / "devkit" / "cars_test_annos_withlabels.mat")
    assert open_dataset("stanford-cars", "test", cars).labels.tolist() == [1, 2]


def test_cars_without_the_labels_of_the_test_images(cars: Path) -> None:
    # The devkit's file beside it has none, whatever it is called.
    (cars / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DataError, match="lack labels; put cars_test_annos_withlabels"):
        open_dataset("stanford-cars", "test", cars)
    (cars / "devkit" / "cars_test_annos.mat").rename(cars / "cars_test_annos_withlabels.mat")
    with pytest.raises(DataError, match="has no labels; put"):
        open_dataset("stanford-cars", "test", cars)
    assert len(open_dataset("stanford-cars", "train", cars)) == 3


def test_cars_with_a_label_too_many(cars: Path) -> None:
    rows = structs(["class", "fname"], [(196, "00001.jpg")])
    savemat(cars / "devkit" / "cars_train_annos.mat", {"annotations": rows})
    with pytest.raises(DataError, match="label 196, outside 1 to 3"):
        open_dataset("stanford-cars", "train", cars)


# Stanford Dogs


def test_dogs(dogs: Path) -> None:
    train, test = open_dataset("stanford-dogs", "train", dogs), open_dataset("stanford-dogs", "test", dogs)
    assert train.classes == test.classes == ("Chihuahua", "Japanese spaniel", "papillon")
    assert train.labels.tolist() == [0, 2, 1] and seen(train) == pytest.approx([40, 80, 120], abs=2)
    assert test.labels.tolist() == [1, 0] and seen(test) == pytest.approx([140, 180], abs=2)
    assert all("come from ImageNet" in data.notes[0] for data in (train, test))


def test_dogs_with_a_damaged_list(dogs: Path) -> None:
    content = {key: value for key, value in loadmat(dogs / "test_list.mat").items() if not key.startswith("__")}
    savemat(dogs / "test_list.mat", content | {"labels": np.array([[2.0, 4.0]]).T})
    with pytest.raises(DataError, match="label 4, outside 1 to 3"):
        open_dataset("stanford-dogs", "test", dogs)
    savemat(dogs / "test_list.mat", content | {"labels": np.array([[2.0]])})
    with pytest.raises(DataError, match="names 2 images and labels 1"):
        open_dataset("stanford-dogs", "test", dogs)
    savemat(dogs / "train_list.mat", content | {"labels": np.array([[1.0, 1.0]]).T})
    with pytest.raises(DataError, match="label 1 to two folders"):
        open_dataset("stanford-dogs", "test", dogs)


# ELPV


def test_elpv(elpv: Path) -> None:
    train, test = open_dataset("elpv", "train", elpv), open_dataset("elpv", "test", elpv)
    assert train.classes == ("functional", "defective") and train.images[0].mode == "L"
    # A quarter of eight sound mono cells, of four defective ones and of four defective poly cells.
    assert (len(train), len(test)) == (12, 4)
    assert sorted(test.labels.tolist()) == [0, 0, 1, 1] and sorted(train.labels.tolist()) == [0] * 6 + [1] * 6
    assert sorted(seen(train) + seen(test)) == list(range(10, 170, 10))  # PNG loses nothing, and nobody is in both
    numbers = [value // 10 for value in seen(test)]
    assert [int(number > 8) for number in numbers] == test.labels.tolist()  # 1/3 is sound, 2/3 is not
    assert sum(number <= 8 for number in numbers) == 2 and sum(number > 12 for number in numbers) == 1


def test_the_split_of_elpv_depends_on_the_names_alone() -> None:
    cells = [elpv.Cell(f"images/cell{i:04d}.png", (i % 2) / 1.0, "mono") for i in range(1, 41)]
    chosen = elpv.test_paths(cells)
    assert chosen == elpv.test_paths(cells[::-1]) and len(chosen) == 10
    digest = hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()
    assert digest == "3307349d6d6a5d45b48eba21b9987e7458d981e39e3757ac4d0cc4fc2d8db686"


@pytest.mark.parametrize(
    "line",
    [
        "images/a.png 1.0",
        "images/a.png one mono",
        "images/a.png 1.5 mono",
        "images/a.png 1.0 amorphous",
        "a.png,1.0,mono",
    ],
)
def test_elpv_with_a_damaged_list(elpv: Path, line: str) -> None:
    (elpv / "labels.csv").write_text(f"{line}\n")
    with pytest.raises(DataError, match="has the line"):
        open_dataset("elpv", "test", elpv)


def test_the_real_elpv() -> None:
    try:
        train, test = open_dataset("elpv", "train"), open_dataset("elpv", "test")
    except MissingData as error:
        pytest.skip(str(error))
    assert (len(train), len(test)) == (1_968, 656)
    assert np.bincount(train.labels).tolist() == [1_352, 616] and np.bincount(test.labels).tolist() == [451, 205]
    names = sorted(test.images.path(i).name for i in range(len(test)))
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest == "319163adeb81c3ea122f3fa7e43d7ade15d2b881d375d482d52f45036c62b511"


def test_the_normalisation_is_that_of_the_elpv_training_split() -> None:
    try:
        train = open_dataset("elpv", "train")
    except MissingData as error:
        pytest.skip(str(error))
    counts = sum(np.bincount(np.asarray(image).reshape(-1), minlength=256) for image in train.images)
    values = np.arange(256)
    size, total, squares = int(counts.sum()), int(counts @ values), int(counts @ values**2)
    assert (size, total, squares) == (1_968 * 300 * 300, 26_930_407_702, 4_394_050_600_638)
    assert ELPV.mean == pytest.approx((total / size / 255,), abs=1e-15)
    assert ELPV.std == pytest.approx(((squares / size - (total / size) ** 2) ** 0.5 / 255,), abs=1e-15)


def test_elpv_is_found_where_pip_puts_it_without_running_it(
    elpv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "elpv_dataset"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('ran')")
    elpv.rename(package / "data")
    monkeypatch.delenv("BCDNET_DATA", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    assert len(open_dataset("elpv", "test")) == 4
