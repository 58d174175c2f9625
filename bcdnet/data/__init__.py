"""Images and data sets: decoding, preprocessing, and the sets that a model can be trained and measured on."""

from bcdnet.data.dataset import ArrayImages, DataError, Dataset, ImageSource
from bcdnet.data.images import DecodedImage, ImageError, decode_image
from bcdnet.data.registry import SOURCES, default_preprocess, get_source, open_dataset
from bcdnet.data.source import Download, MissingData, Source
from bcdnet.data.transforms import ELPV, FASHION_MNIST, IMAGENET, Preprocess, View

__all__ = [
    "ELPV",
    "FASHION_MNIST",
    "IMAGENET",
    "SOURCES",
    "ArrayImages",
    "DataError",
    "Dataset",
    "DecodedImage",
    "Download",
    "ImageError",
    "ImageSource",
    "MissingData",
    "Preprocess",
    "Source",
    "View",
    "decode_image",
    "default_preprocess",
    "get_source",
    "open_dataset",
]
