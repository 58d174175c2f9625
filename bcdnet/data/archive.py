"""A zip file of images that somebody hands in: in class folders, `<class>/<image>`, or side by side.

Nothing is unpacked to disk, and what the file says about itself is not trusted: entries, bytes and pixels are counted
while they are read.
"""

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.images import MAX_BYTES, ImageError, decode_image

#: Images taken from one file, entries looked at, and bytes of the images taken.
MAX_IMAGES, MAX_ENTRIES, MAX_TOTAL = 1000, 20_000, 2**27

#: The one class of images that lie side by side.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class EncodedImages:
    """Images in memory as the files they were, decoded at each access into mode RGB."""

    names: tuple[str, ...]
    files: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Image.Image:
        return decode_image(self.files[index]).image


def read_archive(
    content: bytes, name: str, progress: Callable[[int, int], object] | None = None, most: int = MAX_IMAGES
) -> Dataset:
    """The images of a zip file, in the order of their names, as a data set.

    Images that all lie in folders have the innermost folders' names as classes; otherwise all are of the one class
    :data:`UNKNOWN`. Every image is decoded once; what is none is left out and counted in `Dataset.notes`. Of more than
    ``most`` images, ``most`` are taken evenly over the names, so that every class keeps its share.

    Args:
        content: bytes of the file.
        name: what the set shall be called.
        progress: called with (done, total) after every image.
        most: images that are taken.

    Raises:
        DataError: no zip file, a damaged or encrypted one, one with too many entries or bytes, or without any image.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = sorted((entry for entry in archive.infolist() if _visible(entry)), key=lambda e: e.filename)
            if len(entries) > MAX_ENTRIES:
                raise DataError(f"{name} holds {len(entries):,} files; leave all but {MAX_ENTRIES:,} out.")
            step = max(1.0, len(entries) / most)
            taken = [entries[int(k * step)] for k in range(min(len(entries), most))]
            names, files, left_out, total = [], [], 0, 0
            for done, entry in enumerate(taken, 1):
                with archive.open(entry) as stream:
                    data = stream.read(MAX_BYTES + 1)  # whatever size the entry claims
                total += len(data)
                if total > MAX_TOTAL:
                    raise DataError(f"The images of {name} take more than {MAX_TOTAL >> 20} MB; choose fewer.")
                try:
                    decode_image(data)
                except ImageError:
                    left_out += 1
                else:
                    names.append(entry.filename)
                    files.append(data)
                if progress is not None:
                    progress(done, len(taken))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{name} is no zip file that can be read ({error}); pack it again, unencrypted.") from error
    if not files:
        raise DataError(f"{name} holds no image in a format that can be read.")
    folders = [PurePosixPath(path).parent.name for path in names]
    classes = tuple(sorted(set(folders))) if all(folders) else (UNKNOWN,)
    labels = [classes.index(folder) if folder in classes else 0 for folder in folders]
    notes = []
    if len(entries) > len(taken):
        notes.append(f"{len(taken):,} of {len(entries):,} files were taken, evenly over their names.")
    if left_out:
        notes.append(f"{left_out:,} file{' is' if left_out == 1 else 's are'} no image and left out.")
    images = EncodedImages(tuple(names), tuple(files))
    return Dataset(name, classes, images, np.asarray(labels, dtype=np.int64), tuple(notes))


def _visible(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a file that its owner put there: Macs add folders of hidden ones."""
    parts = PurePosixPath(entry.filename).parts
    return not entry.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts)
