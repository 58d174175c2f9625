"""Any folder of class folders: `folder/<class>/<image>`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.images import MAX_BYTES, MAX_PIXELS, ImageError, decode_image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class FileImages:
    """Image files, decoded at each access. Raises DataError naming the file when one cannot be read."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Image.Image:
        path = self.paths[index]
        try:
            return decode_image(path, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS).image
        except ImageError as error:
            raise DataError(f"{path}: {error}") from error


def dataset(folder: str | Path) -> Dataset:
    """The images in `folder/<class>/`, classes and files in sorted order; names are the classes' names.

    Hidden files are passed over; other files that are no images by name are counted in `Dataset.notes`.
    Files are decoded when they are asked for, and one that cannot be decoded raises DataError then.
    Raises DataError when there is no such folder, no class folder or no image.
    """
    root = Path(folder)
    try:
        if not root.is_dir():
            raise DataError(f"There is no folder {root}; name one that holds a folder of images for each class.")
        class_dirs = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        paths: list[Path] = []
        labels: list[int] = []
        others: list[str] = []
        for label, class_dir in enumerate(class_dirs):
            for path in sorted(class_dir.iterdir()):
                if path.name.startswith("."):
                    continue
                if path.is_file() and path.suffix.lower() in SUFFIXES:
                    paths.append(path)
                    labels.append(label)
                else:
                    others.append(f"{class_dir.name}/{path.name}")
    except OSError as error:
        raise DataError(f"The folder {root} cannot be read ({error.strerror}); check its permissions.") from error
    if not class_dirs:
        raise DataError(f"The folder {root} holds no folders; it needs one folder of images for each class.")
    if not paths:
        raise DataError(
            f"No images lie in the class folders of {root}; it needs <class>/<image>, so name the split's own folder."
        )
    notes: tuple[str, ...] = ()
    if others:
        verb = "entry is" if len(others) == 1 else "entries are"
        notes = (f"{len(others)} {verb} no image by name and left out, {others[0]!r} first.",)
    classes = tuple(entry.name for entry in class_dirs)
    return Dataset(root.resolve().name, classes, FileImages(tuple(paths)), np.array(labels, dtype=np.int64), notes)
