"""FGVC-Aircraft (Maji, Kannala, Rahtu, Blaschko and Vedaldi, arXiv:1306.5151): photographs of 100 aircraft variants.

Its own training, validation and test part have 3,334, 3,333 and 3,333 images. Benchmarks train on the first two
together, so that is the split `train`; `fit` and `val` are its halves, for choosing settings without looking at the
test images. The lowest 20 rows of every picture name the photographer; its authors ask that they be cut off.
"""

from pathlib import Path

import numpy as np

from bcdnet.data.annotations import read_lines, read_pairs
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import FileImages
from bcdnet.data.source import PART_OF_TRAIN, Download, Source
from bcdnet.data.transforms import IMAGENET

BANNER_ROWS = 20

_SPLITS = {"train": 6_667, "fit": 3_334, "val": 3_333, "test": 3_333}
_LISTS = {
    split: f"data/images_variant_{part}.txt"
    for split, part in {"train": "trainval", "fit": "train", "val": "val", "test": "test"}.items()
}

SOURCE = Source(
    name="fgvc-aircraft",
    title="FGVC-Aircraft",
    splits=_SPLITS,
    classes=100,
    origin="Maji et al. 2013, robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
    licence="for non-commercial research; the photographers keep their rights",
    obtain="run `bcdnet data fetch fgvc-aircraft`",
    markers={split: ("data/images", "data/variants.txt", file) for split, file in _LISTS.items()},
    preprocess=IMAGENET,
    folders=("fgvc-aircraft-2013b",),
    downloads=(
        Download(
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            "md5:d4acdd33327262359767eeaa97a4f732",
        ),
    ),
)


def dataset(split: str = "test", root: str | Path | None = None) -> Dataset:
    """A split, labelled by variant, in the order of its list, without the banner.

    Searches as `Source.locate`; raises DataError for a list that names an unknown variant or is damaged.
    """
    folder = SOURCE.locate(split, root)
    classes = tuple(read_lines(folder / "data" / "variants.txt"))
    number = {name: label for label, name in enumerate(classes)}
    pairs = read_pairs(folder / _LISTS[split])
    if strange := next((variant for _, variant in pairs if variant not in number), None):
        raise DataError(f"{folder / _LISTS[split]} names the variant {strange!r}, which variants.txt lacks.")
    labels = np.array([number[variant] for _, variant in pairs], dtype=np.int64)
    images = FileImages(folder / "data" / "images", (f"{image}.jpg" for image, _ in pairs), cut_bottom=BANNER_ROWS)
    notes = (PART_OF_TRAIN,) if split == "val" else ()
    return Dataset(SOURCE.name, classes, images, labels, notes)
