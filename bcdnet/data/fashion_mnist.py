"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747): 28x28 grey pictures of clothes, MIT licence.

The IDX format: a big-endian header (two zero bytes, the type code 8 for uint8, the number of dimensions, then each
dimension as uint32) and the bytes in C order.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from bcdnet.data.dataset import ArrayImages, DataError, Dataset
from bcdnet.data.source import Download, Source
from bcdnet.data.transforms import FASHION_MNIST
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

_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_MAX_IMAGES = 60_000
_SITE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # the address that its authors give

SOURCE = Source(
    name="fashion-mnist",
    title="Fashion-MNIST",
    splits={"train": 60_000, "test": 10_000},
    classes=10,
    origin="Xiao, Rasul and Vollgraf 2017, github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    obtain="install the Debian package dataset-fashion-mnist or run `bcdnet data fetch fashion-mnist`",
    markers=_FILES,
    preprocess=FASHION_MNIST,
    # The shipped folder holds the test split only.
    installed=lambda: (assets_dir() / "data" / "fashion-mnist", SYSTEM_DIR),
    downloads=tuple(
        Download(_SITE + file, f"sha256:{digest}", size, unpack=False)
        for file, size, digest in (
            (_FILES["train"][0], 26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            (_FILES["train"][1], 29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            (_FILES["test"][0], 4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            (_FILES["test"][1], 5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        )
    ),
)


def load(split: str, root: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (N, 28, 28), and labels, int64 (N,), of a split: 60,000 for training, 10,000 for testing.

    Looked for as `Source.locate` says; the installed places are the shipped `assets/data/fashion-mnist` (test split)
    and where Debian's package puts them.
    Raises DataError when the files are missing, damaged or not what their headers say.
    """
    folder = SOURCE.locate(split, root)
    images_file, labels_file = _FILES[split]
    images = _read_idx(folder / images_file, dimensions=3)
    labels = _read_idx(folder / labels_file, dimensions=1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise DataError(f"{folder} holds images of shape {images.shape} with {len(labels)} labels; fetch it again.")
    if labels.max() >= len(CLASSES):
        raise DataError(f"{folder / labels_file} holds the label {labels.max()}, above 9; fetch it again.")
    return images, labels.astype(np.int64)


def dataset(split: str = "test", root: str | Path | None = None) -> Dataset:
    """A split as a `Dataset`; searches and raises like `load`."""
    images, labels = load(split, root)
    return Dataset(SOURCE.name, CLASSES, ArrayImages(images), labels)


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
