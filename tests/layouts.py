"""Tiny data sets in the layouts in which the real ones are published: real JPEG, PNG and MATLAB files, a few pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat


def picture(path: Path, grey: int, size: tuple[int, int] = (16, 16), mode: str = "RGB", format: str = "JPEG") -> None:
    """A picture of one brightness, by which a test knows it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path, format=format)


def brightness(image: Image.Image) -> int:
    """The brightness that `picture` drew, give or take what JPEG and CMYK lose."""
    return round(float(np.asarray(image.convert("L")).mean()))


def structs(fields: list[str], rows: list[tuple[Any, ...]]) -> np.ndarray:
    """A MATLAB struct array."""
    array = np.empty(len(rows), dtype=[(field, object) for field in fields])
    for number, row in enumerate(rows):
        array[number] = row
    return array


def cells(values: list[str]) -> np.ndarray:
    """A MATLAB cell array, one column."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array


def write_devkit(root: Path) -> None:
    """Four validation images, and three classes that the devkit numbers in another order than their wnids."""
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height"]
    rows = [
        (1, "n02119789", "kit fox, Vulpes macrotis", "small grey fox", 0, [], 0),
        (2, "n01443537", "goldfish, Carassius auratus", "small golden fish", 0, [], 0),
        (3, "n01440764", "tench, Tinca tinca", "freshwater dace-like game fish", 0, [], 0),
        (4, "n00001740", "entity", "that which is", 2, [1, 2, 3], 2),
    ]
    savemat(folder / "meta.mat", {"synsets": structs(fields, rows).reshape(-1, 1)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n2\n2\n")


def write_imagenet(root: Path) -> Path:
    """Class folders for training; validation images flat, with the devkit. One is CMYK, one a PNG, one grey."""
    for number, name in enumerate(["n02119789/n02119789_7", "n01440764/n01440764_9", "n01440764/n01440764_10"]):
        picture(root / "train" / f"{name}.JPEG", 50 + 50 * number)
    picture(root / "train" / "n01443537" / "n01443537_1.JPEG", 200)
    for number, (mode, format) in enumerate([("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "JPEG"), ("RGB", "JPEG")], 1):
        picture(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", 40 * number, mode=mode, format=format)
    write_devkit(root)
    return root


def write_cub(root: Path) -> Path:
    """Two training and three test images of two kinds; number 4 is grey."""
    names = {
        1: "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        2: "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        3: "002.Laysan_Albatross/Laysan_Albatross_0082_524.jpg",
        4: "002.Laysan_Albatross/Laysan_Albatross_0044_784.jpg",
        5: "002.Laysan_Albatross/Laysan_Albatross_0070_788.jpg",
    }
    for number, name in names.items():
        picture(root / "images" / name, 40 * number, mode="L" if number == 4 else "RGB")
    (root / "images.txt").write_text("".join(f"{number} {name}\n" for number, name in names.items()))
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n4 2\n5 2\n")
    (root / "train_test_split.txt").write_text("1 0\n2 1\n3 1\n4 0\n5 0\n")
    (root / "classes.txt").write_text("1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    return root


def write_flowers(root: Path) -> Path:
    """Six images: 3 and 1 for training, 2 for validation, 6, 4 and 5 for testing."""
    for number in range(1, 7):
        picture(root / "jpg" / f"image_{number:05d}.jpg", 40 * number)
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 102, 2, 3, 5, 4]], np.uint8)})
    parts = {"trnid": [[3, 1]], "valid": [[2]], "tstid": [[6, 4, 5]]}
    savemat(root / "setid.mat", {key: np.array(ids, np.uint16) for key, ids in parts.items()})
    return root


def write_aircraft(root: Path) -> Path:
    """Four photographs with a white banner below; variants with a space, a slash and a hyphen."""
    data = root / "data"
    for number, name in enumerate(["0034309", "0034958", "0037511", "0037512"], 1):
        path = data / "images" / f"{name}.jpg"
        picture(path, 40 * number, (24, 36))
        with Image.open(path) as image:
            image.load()
        image.paste((255, 255, 255), (0, 16, 24, 36))  # 16 rows are two blocks of JPEG: the banner does not blur them
        image.save(path, quality=95)
    (data / "variants.txt").write_text("707-320\nF/A-18\nModel B200 King Air\n")
    lists = {
        "train": "0034958 Model B200 King Air\n",
        "val": "0034309 F/A-18\n",
        "trainval": "0034309 F/A-18\n0034958 Model B200 King Air\n",
        "test": "0037512 707-320\n0037511 F/A-18\n",
    }
    for part, lines in lists.items():
        (data / f"images_variant_{part}.txt").write_text(lines)
    return root


def write_cars(root: Path) -> Path:
    """Three training and two test images of three models; the test labels lie in the file that came later."""
    names = np.empty((1, 3), dtype=object)
    names[0] = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"]
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    box = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]
    for file, folder, labels in (
        ("devkit/cars_train_annos.mat", "cars_train", [3, 1, 2]),
        ("devkit/cars_test_annos.mat", "cars_test", None),
        ("cars_test_annos_withlabels.mat", "cars_test", [2, 3]),
    ):
        fields = [*box, *(["class"] if labels else []), "fname"]
        rows = [
            (1, 1, 9, 9, *([label] if labels else []), f"{number:05d}.jpg")
            for number, label in enumerate(labels or [0, 0], 1)
        ]
        savemat(root / file, {"annotations": structs(fields, rows).reshape(1, -1)})
        for number in range(1, len(rows) + 1):
            picture(root / folder / f"{number:05d}.jpg", 40 * number)
    return root


def write_dogs(root: Path) -> Path:
    """Three training and two test images of three breeds."""
    lists = {
        "train": {
            "n02085620-Chihuahua/n02085620_5927.jpg": 1,
            "n02086910-papillon/n02086910_1.jpg": 3,
            "n02085782-Japanese_spaniel/n02085782_2.jpg": 2,
        },
        "test": {"n02085782-Japanese_spaniel/n02085782_9.jpg": 2, "n02085620-Chihuahua/n02085620_2650.jpg": 1},
    }
    for split, labels in lists.items():
        for number, name in enumerate(labels, 1):
            picture(root / "Images" / name, 40 * number + (100 if split == "test" else 0))
        content = {
            "file_list": cells(list(labels)),
            "annotation_list": cells([name.removesuffix(".jpg") for name in labels]),
            "labels": np.array([list(labels.values())], float).T,
        }
        savemat(root / f"{split}_list.mat", content)
    return root


def write_elpv(root: Path) -> Path:
    """Sixteen cells: eight sound and four defective mono cells, four defective poly cells."""
    lines = []
    for number in range(1, 17):
        probability = "0.0" if number <= 5 else "0.3333333333333333" if number <= 8 else "0.6666666666666666"
        if number > 14:
            probability = "1.0"
        lines.append(f"images/cell{number:04d}.png  {probability:<20}{'mono' if number <= 12 else 'poly'}\n")
        picture(root / "images" / f"cell{number:04d}.png", 10 * number, (6, 6), "L", "PNG")
    (root / "labels.csv").write_text("".join(lines))
    return root


# The names of the sets, as on the command line.
LAYOUTS = {
    "imagenet": write_imagenet,
    "cub-200-2011": write_cub,
    "flowers-102": write_flowers,
    "fgvc-aircraft": write_aircraft,
    "stanford-cars": write_cars,
    "stanford-dogs": write_dogs,
    "elpv": write_elpv,
}
