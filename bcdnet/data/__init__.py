"""Images and data sets: decoding, preprocessing, and the sets that a model can be trained and measured on."""

from pathlib import Path

from bcdnet.data import fashion_mnist, folder
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.images import DecodedImage, ImageError, decode_image
from bcdnet.data.transforms import FASHION_MNIST, IMAGENET, Preprocess, View

__all__ = [
    "FASHION_MNIST",
    "IMAGENET",
    "DataError",
    "Dataset",
    "DecodedImage",
    "ImageError",
    "Preprocess",
    "View",
    "decode_image",
    "open_dataset",
]


def open_dataset(name_or_folder: str | Path, split: fashion_mnist.Split = "test") -> Dataset:
    """A known data set by name (`fashion-mnist`), else a folder of class folders, where `split` means nothing.

    Raises DataError with one sentence when there is neither.
    """
    if str(name_or_folder) == "fashion-mnist":
        return fashion_mnist.dataset(split)
    if not str(name_or_folder) or not Path(name_or_folder).exists():
        raise DataError(f"{str(name_or_folder)!r} is neither a folder nor a known data set; known is 'fashion-mnist'.")
    return folder.dataset(name_or_folder)
