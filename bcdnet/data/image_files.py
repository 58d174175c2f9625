"""Images that lie in files: listed fast, kept small, decoded when asked for."""

import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from bcdnet.data.dataset import DataError
from bcdnet.data.images import ImageError, decode_image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

# Data sets are their owner's files, not uploads: photographs of 60 megapixels lie in ImageNet. Pillow's own bound.
MAX_BYTES = 2**27
MAX_PIXELS = 89_478_485


class FileImages:
    """Image files below one folder, by index, decoded at each access into mode RGB, or L if `grey`.

    `names` are relative paths. They are kept as one block of bytes: a million Python strings would take ten times the
    memory, and every worker process of a loader would come to hold a copy of its own. `cut_bottom` rows of pixels are
    left out at the lower edge. Raises DataError naming the file when one cannot be read.
    """

    def __init__(self, root: Path, names: Iterable[str], *, grey: bool = False, cut_bottom: int = 0) -> None:
        self.root, self.grey, self.cut_bottom = root, grey, cut_bottom
        block, ends = bytearray(), array("q", [0])
        for name in names:
            block += os.fsencode(name)
            ends.append(len(block))
        self._names, self._ends = bytes(block), np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def identity(self) -> bytes:
        """All names, in order, without the folder: it may be mounted elsewhere."""
        return b"".join((self._names, self._ends.tobytes()))

    def path(self, index: int) -> Path:
        """Where image `index` lies. Raises IndexError outside 0 <= index < len."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no image {index} among {len(self)}.")
        return self.root / os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])

    def __getitem__(self, index: int, /) -> Image.Image:
        path = self.path(index)
        try:
            image = decode_image(path, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS).image
        except ImageError as error:
            raise DataError(f"{path}: {error}") from error
        if self.cut_bottom:
            if image.height <= self.cut_bottom:
                raise DataError(f"{path}: the picture has no rows above its banner; fetch it again.")
            image = image.crop((0, 0, image.width, image.height - self.cut_bottom))
        return image.convert("L") if self.grey else image


def class_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in `folder`, hidden ones left out. Raises DataError when it cannot be read."""
    return [name for name, is_file in _entries(folder) if not is_file and (folder / name).is_dir()]


def image_names(folder: Path) -> list[str]:
    """The sorted names of the image files in `folder`. Raises DataError when it cannot be read."""
    return [name for name, is_file in _entries(folder) if is_file and _is_image(name)]


def read_class_folders(
    root: Path, folders: Iterable[tuple[str, int]]
) -> tuple[FileImages, np.ndarray, tuple[str, ...]]:
    """The images in some folders below `root`, each folder with its label; folders in order, files sorted within each.

    Returns the images, their labels as int64 (N,), and notes on what is no image by name and left out; hidden files
    are passed over. Raises DataError when a folder cannot be read.
    """
    labels, others = array("q"), []

    def names() -> Iterator[str]:
        for folder, label in folders:
            for name, is_file in _entries(root / folder):
                if is_file and _is_image(name):
                    labels.append(label)
                    yield f"{folder}/{name}"
                else:
                    others.append(f"{folder}/{name}")

    images = FileImages(root, names())
    notes: tuple[str, ...] = ()
    if others:
        verb = "entry is" if len(others) == 1 else "entries are"
        notes = (f"{len(others)} {verb} no image by name and left out, {others[0]!r} first.",)
    return images, np.array(labels, dtype=np.int64), notes


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Sorted names and whether each is a file, without the hidden ones."""
    try:
        # scandir knows what is a file without asking the disk again for each of a million.
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_file()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read ({error.strerror}); check its permissions.") from error


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (a million Path objects take seconds)
