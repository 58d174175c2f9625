"""ImageNet-1K (Russakovsky et al., arXiv:1409.0575), the classes of the challenge ILSVRC 2012-2017.

Labels are the positions of the sorted WordNet ids (n01440764 is 0), as every published network has them. The devkit
counts its classes from 1 in an order of its own; `meta.mat` translates.
"""

import re
from pathlib import Path

import numpy as np

from bcdnet.data.annotations import integer, read_lines, read_mat
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import FileImages, class_folders, image_names, read_class_folders
from bcdnet.data.source import Source
from bcdnet.data.transforms import IMAGENET

_DEVKITS = ("ILSVRC2012_devkit_t12/data", "devkit/data", "data")
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"

SOURCE = Source(
    name="imagenet",
    title="ImageNet-1K",
    splits={"train": 1_281_167, "test": 50_000},
    classes=1_000,
    origin="Russakovsky et al. 2015, image-net.org/challenges/LSVRC/2012",
    licence="for non-commercial research and education, by agreement",
    obtain="register at image-net.org, download the training and validation images and the devkit of ILSVRC 2012 and "
    "unpack them into train, val and ILSVRC2012_devkit_t12",
    # The labels of the challenge's test images were never published: its validation images are everybody's test.
    markers={"train": ("train",), "test": ("val",)},
    preprocess=IMAGENET,
)


def dataset(split: str = "test", root: str | Path | None = None) -> Dataset:
    """`train/<wnid>/*.JPEG`, and for testing `val/<wnid>/*.JPEG`, or all in `val` with the devkit beside it.

    Classes are wnids, with the first of their words where the devkit is there. Searches as `Source.locate`; raises
    DataError for a flat `val` without a devkit, and when train, val and devkit name different classes.
    """
    folder = SOURCE.locate(split, root)
    synsets = _synsets(folder)
    train = class_folders(folder / "train") if (folder / "train").is_dir() else []
    place = folder / ("train" if split == "train" else "val")
    there = class_folders(place)
    wnids = train or there or sorted(wnid for wnid, _ in synsets.values())
    if strange := sorted(set(there) - set(wnids)):
        raise DataError(
            f"{place / strange[0]} is no class of {folder / 'train'}; complete the one or remove the other."
        )
    # Any folder may hold a train and a val; the names of its classes tell.
    if other := next((name for name in wnids if not re.fullmatch(r"n\d{8}", name)), None):
        raise DataError(f"{folder} is not ImageNet: {other!r} is no WordNet id such as n01440764; name another folder.")
    label = {wnid: number for number, wnid in enumerate(wnids)}
    if there:
        images, labels, notes = read_class_folders(place, [(wnid, label[wnid]) for wnid in there])
    elif split == "train":
        raise DataError(f"{place} holds no class folders; unpack the training images into {place / 'n01440764'} etc.")
    else:
        images, labels = _flat(folder, place, synsets, label)
        notes = ()
    if not len(images):
        raise DataError(f"No images lie in {place}; unpack ImageNet's archives there.")
    words = dict(synsets.values())
    classes = tuple(f"{wnid} {words[wnid].split(',')[0]}" if wnid in words else wnid for wnid in wnids)
    if len(classes) != SOURCE.classes:
        notes += (f"{len(classes)} classes instead of {SOURCE.classes:,}: these labels are not those of ImageNet-1K.",)
    return Dataset(SOURCE.name, classes, images, labels, notes)


def _devkit(folder: Path, file: str) -> Path | None:
    return next((path for sub in _DEVKITS if (path := folder / sub / file).is_file()), None)


def _synsets(folder: Path) -> dict[int, tuple[str, str]]:
    """The devkit's id of each class -> its wnid and words; empty without a devkit."""
    if (path := _devkit(folder, "meta.mat")) is None:
        return {}
    try:
        # Synsets with children are the hierarchy above the classes.
        return {
            int(row.ILSVRC2012_ID): (str(row.WNID), str(row.words))
            for row in read_mat(path, "synsets")
            if int(row.num_children) == 0
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not describe ImageNet's classes; fetch it again.") from error


def _flat(
    folder: Path, place: Path, synsets: dict[int, tuple[str, str]], label: dict[str, int]
) -> tuple[FileImages, np.ndarray]:
    """Validation images without class folders: number N's class is on line N of the devkit's ground truth."""
    path = _devkit(folder, _TRUTH)
    if path is None or not synsets:
        raise DataError(
            f"{place} has no class folders, so the devkit is needed; unpack ILSVRC2012_devkit_t12.tar.gz into {folder}."
        )
    if label.keys() != {wnid for wnid, _ in synsets.values()}:
        raise DataError(f"The devkit and {folder / 'train'} name different classes; complete the training images.")
    truth = [integer(line, path) for line in read_lines(path)]
    if strange := sorted(set(truth) - synsets.keys()):
        raise DataError(f"{path} names the class {strange[0]}, which meta.mat lacks; fetch the devkit again.")
    names = image_names(place)
    # The number is in the name, so that a missing image does not shift the labels of those after it.
    numbers = [integer(Path(name).stem.rsplit("_", 1)[-1], place / name) for name in names]
    if numbers and not 1 <= min(numbers) <= max(numbers) <= len(truth):
        raise DataError(
            f"{place} holds images numbered outside 1 to {len(truth)}, the lines of {path}; fetch it again."
        )
    labels = [label[synsets[truth[number - 1]][0]] for number in numbers]
    return FileImages(place, names), np.array(labels, dtype=np.int64)
