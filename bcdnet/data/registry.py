"""The table of known data sets, and the one way to open any of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bcdnet.data import aircraft, cars, cub200, dogs, elpv, fashion_mnist, flowers102, folder, imagenet
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.source import Source
from bcdnet.data.transforms import IMAGENET, Preprocess

Loader = Callable[[str, str | Path | None], Dataset]

# Each module holds a SOURCE and a dataset(split, root).
_MODULES = (imagenet, cub200, flowers102, aircraft, cars, dogs, fashion_mnist, elpv)

SOURCES: Mapping[str, Source] = MappingProxyType({module.SOURCE.name: module.SOURCE for module in _MODULES})
_LOADERS: dict[str, Loader] = {module.SOURCE.name: module.dataset for module in _MODULES}

# How bright red, green and blue are to Pillow when it turns colours into grey (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


def get_source(name: str) -> Source:
    """The row of a data set. Raises DataError for a name that there is not."""
    if name not in SOURCES:
        raise DataError(f"{name!r} is no known data set; known are {', '.join(SOURCES)}.")
    return SOURCES[name]


def open_dataset(name_or_folder: str | Path, split: str = "test", root: str | Path | None = None) -> Dataset:
    """A known data set by name, else a folder of class folders (`bcdnet.data.folder`).

    A known set is looked for in `root` if given, else in the folder that BCDNET_DATA names and where it is installed;
    a folder is its own root and takes no other. Raises DataError with one sentence for that, and for a name, split or
    set that there is not.
    """
    if str(name_or_folder) in _LOADERS:
        return _LOADERS[str(name_or_folder)](split, root)
    if not str(name_or_folder) or not Path(name_or_folder).exists():
        raise DataError(
            f"{str(name_or_folder)!r} is neither a folder nor a known data set; known are {', '.join(SOURCES)}."
        )
    if root is not None:
        raise DataError(f"{name_or_folder} is a folder, so it needs no root; leave {root} (data_root in a recipe) out.")
    return folder.dataset(name_or_folder, split)


def default_preprocess(name: str, image_size: tuple[int, int], channels: int) -> Preprocess:
    """How a data set's pictures become input of another size, (height, width), or of another number of channels.

    Folders and unknown names get ImageNet's. The margin around the centre crop keeps its proportion (256 to 224). Grey
    constants serve each of three channels; those of three channels are weighted as brightness, which gives the mean of
    the grey pictures and, as colours go together, nearly their deviation. Raises ValueError for impossible sizes.
    """
    base = SOURCES[name].preprocess if name in SOURCES else IMAGENET
    mean, std = base.mean, base.std
    if channels == 3 and base.channels == 1:
        mean, std = mean * 3, std * 3
    elif channels == 1 and base.channels == 3:
        mean, std = ((sum(w * v for w, v in zip(_LUMA, values, strict=True)),) for values in (mean, std))
    resize = None
    if base.resize is not None:
        resize = round(base.resize * max(image_size) / max(base.image_size))
    return replace(base, image_size=image_size, channels=channels, mean=mean, std=std, resize=resize)
