"""CUB-200-2011 (Wah, Branson, Welinder, Perona and Belongie, CNS-TR-2011-001): photographs of 200 kinds of birds.

Every list numbers the images and the classes from 1; a 1 in `train_test_split.txt` means training.
"""

from pathlib import Path

from bcdnet.data.annotations import integer, read_numbered, zero_based
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import FileImages
from bcdnet.data.source import Download, Source
from bcdnet.data.transforms import IMAGENET

_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_SPLITS = {"train": 5_994, "test": 5_794}

SOURCE = Source(
    name="cub-200-2011",
    title="CUB-200-2011",
    splits=_SPLITS,
    classes=200,
    origin="Wah et al. 2011, data.caltech.edu/records/65de6-vp158",
    licence="for non-commercial research and education; the photographers keep their rights",
    obtain="run `bcdnet data fetch cub-200-2011`",
    markers=dict.fromkeys(_SPLITS, (*_LISTS, "images")),
    preprocess=IMAGENET,
    folders=("CUB_200_2011",),
    downloads=(
        Download(
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            "sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            1_150_585_339,
        ),
    ),
)


def dataset(split: str = "test", root: str | Path | None = None) -> Dataset:
    """A split, in the order of `images.txt`; a few greyscale photographs come as RGB like the others.

    Searches as `Source.locate`; raises DataError when lists are missing, damaged or at odds with each other.
    """
    folder = SOURCE.locate(split, root)
    images, labels, parts, names = (read_numbered(folder / name) for name in _LISTS)
    if not images.keys() == labels.keys() == parts.keys():
        raise DataError(f"The lists in {folder} do not number the same images; fetch them again.")
    if sorted(names) != list(range(1, len(names) + 1)):
        raise DataError(f"{folder / 'classes.txt'} does not number the classes from 1 on; fetch it again.")
    strange = {part for part in parts.values() if part not in ("0", "1")}
    if strange:
        raise DataError(f"{folder / _LISTS[2]} holds {min(strange)!r} where 0 or 1 belongs; fetch it again.")
    wanted = "1" if split == "train" else "0"
    chosen = [number for number, part in parts.items() if part == wanted]
    file = folder / "image_class_labels.txt"
    numbers = zero_based([integer(labels[number], file) for number in chosen], len(names), file)
    # "001.Black_footed_Albatross" reads better without its number.
    classes = tuple(names[i + 1].split(".", 1)[-1].replace("_", " ") for i in range(len(names)))
    return Dataset(SOURCE.name, classes, FileImages(folder / "images", (images[number] for number in chosen)), numbers)
