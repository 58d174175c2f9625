"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747): 28x28 grey pictures of clothes, MIT licence.

The IDX format: a big-endian header (two zero bytes, the type code 8 for uint8, the number of dimensions, then each
dimension as uint32) and the bytes in C order.
"""

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from bcdnet.data.dataset import ArrayImages, DataError, Dataset
from bcdnet.files import assets_dir

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SYSTEM_DIR = Path("/usr/share/datasets/fashion-mnist")
Split = Literal["train", "test"]

_PREFIX = {"train": "train", "test": "t10k"}
_MAX_IMAGES = 60_000


def load(split: Split, root: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (N, 28, 28), and labels, int64 (N,), of a split: 60,000 for training, 10,000 for testing.

    Looked for in `root` alone if given, else in `$BCDNET_DATA` (or its folder fashion-mnist), in the shipped
    `assets/data/fashion-mnist` (test split) and where Debian's package installs them.
    Raises DataError when the files are missing, damaged or not what their headers say.
    """
    if split not in _PREFIX:
        raise DataError(f"Fashion-MNIST has the splits 'train' and 'test', not {split!r}.")
    folder = _find(split, root)
    images_file, labels_file = _files(split)
    images = _read_idx(folder / images_file, dimensions=3)
    labels = _read_idx(folder / labels_file, dimensions=1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise DataError(f"{folder} holds images of shape {images.shape} with {len(labels)} labels; fetch it again.")
    if labels.max() >= len(CLASSES):
        raise DataError(f"{folder / labels_file} holds the label {labels.max()}, above 9; fetch it again.")
    return images, labels.astype(np.int64)


def dataset(split: Split = "test", root: Path | None = None) -> Dataset:
    """A split as a `Dataset`; searches and raises like `load`."""
    images, labels = load(split, root)
    return Dataset("fashion-mnist", CLASSES, ArrayImages(images), labels)


def _files(split: Split) -> tuple[str, str]:
    return f"{_PREFIX[split]}-images-idx3-ubyte.gz", f"{_PREFIX[split]}-labels-idx1-ubyte.gz"


def _find(split: Split, root: Path | None) -> Path:
    if root is not None:
        candidates = [Path(root)]
    else:
        candidates = [assets_dir() / "data" / "fashion-mnist", SYSTEM_DIR]
        if named := os.environ.get("BCDNET_DATA"):
            candidates = [Path(named), Path(named) / "fashion-mnist", *candidates]
    for folder in candidates:
        if all((folder / name).is_file() for name in _files(split)):
            return folder
    raise DataError(
        f"The {split} files of Fashion-MNIST ({', '.join(_files(split))}) are not in "
        f"{' or '.join(map(str, candidates))}; install the Debian package dataset-fashion-mnist "
        "or name their folder in the environment variable BCDNET_DATA."
    )


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    try:
        with gzip.open(path, "rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
                raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimension(s); fetch it again.")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            if not 0 < shape[0] <= _MAX_IMAGES or any(side != 28 for side in shape[1:]):
                raise DataError(f"{path} announces the shape {shape}, which is not Fashion-MNIST's; fetch it again.")
            size = int(np.prod(shape))
            # One byte more than announced is enough to notice a surplus, and a gzip bomb never unfolds.
            content = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); fetch it again.") from error
    if len(content) != size:
        raise DataError(f"{path} does not hold the {size} bytes that its header announces; fetch it again.")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()  # a copy, because torch wants writable memory
