"""Images that somebody hands in, as a zip file or a folder: in class folders, `<class>/<image>`, or side by side.

Nothing is unpacked to disk, and what a zip file says about itself is not trusted: entries, bytes and pixels are counted
while they are read.
"""

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from bcdnet.data import folder
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import FileImages, image_names
from bcdnet.data.images import FORMATS, MAX_BYTES, ImageError, decode_image

#: Images taken from one file or folder; entries looked at in a file, and bytes of the images taken.
MAX_IMAGES, MAX_ENTRIES, MAX_TOTAL = 1000, 20_000, 2**27

#: What :mod:`zipfile` and its decompressors raise at damaged, encrypted or unknown contents.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, RuntimeError, NotImplementedError, struct.error),
)

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

    def identity(self) -> bytes:
        """All files, in order."""
        return b"".join(self.files)


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
            taken = [entries[k] for k in _evenly(len(entries), most)]
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
    except DataError:
        raise
    except _UNREADABLE as error:
        raise DataError(f"{name} is no zip file that can be read ({error}); pack it again, unencrypted.") from error
    if not files:
        raise DataError(f"{name} holds no image in a format that can be read.")
    folders = [PurePosixPath(path).parent.name for path in names]
    classes = tuple(sorted(set(folders))) if all(folders) else (UNKNOWN,)
    labels = [classes.index(folder) if folder in classes else 0 for folder in folders]
    notes = _left(len(taken), len(entries))
    if left_out:
        notes.append(f"{left_out:,} file{' is' if left_out == 1 else 's are'} no image and left out.")
    images = EncodedImages(tuple(names), tuple(files))
    return Dataset(name, classes, images, np.asarray(labels, dtype=np.int64), tuple(notes))


def read_folder(root: str | Path, most: int = MAX_IMAGES) -> Dataset:
    """The images of a folder as a data set, left where they lie and decoded at each access.

    Images in the folder itself are all of the one class :data:`UNKNOWN`; without any it is a folder of class folders
    (:func:`bcdnet.data.folder.dataset`). Of more than ``most`` images, ``most`` are taken evenly over the names.

    Raises:
        DataError: there is no such folder, it holds no images, or a file's beginning is not that of an image; one that
            is damaged further on raises it when it is asked for.
    """
    root = Path(root)
    if root.is_dir() and (found := image_names(root)):
        data = Dataset(root.resolve().name, (UNKNOWN,), FileImages(root, found), np.zeros(len(found), np.int64))
    else:
        data = folder.dataset(root)
    images, taken = data.images, _evenly(len(data), most)
    assert isinstance(images, FileImages)
    paths = [images.path(k) for k in taken]
    for path in paths:
        try:
            with Image.open(path, formats=FORMATS):
                pass
        except Exception as error:  # decoders raise almost anything on damaged data
            raise DataError(f"{path} is not a picture that can be read; take it out of the folder.") from error
    names = [str(path.relative_to(images.root)) for path in paths]
    notes = (*_left(len(taken), len(data)), *data.notes)
    return Dataset(data.name, data.classes, FileImages(images.root, names), data.labels[taken], notes)


def _evenly(count: int, most: int) -> list[int]:
    """Of the indices of ``count`` things all, or ``most`` evenly spread ones."""
    step = max(1.0, count / most)
    return [int(k * step) for k in range(min(count, most))]


def _left(taken: int, count: int) -> list[str]:
    """A note if only some of the files were taken."""
    return [f"{taken:,} of {count:,} files were taken, evenly over their names."] if taken < count else []


def _visible(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a file that its owner put there: Macs add folders of hidden ones."""
    parts = PurePosixPath(entry.filename).parts
    return not entry.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts)
