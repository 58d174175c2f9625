"""What is known of a data set before it is opened: how large it is, where it comes from and where it may lie."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bcdnet.data.dataset import DataError
from bcdnet.data.transforms import Preprocess

PART_OF_TRAIN = "These images are part of the split 'train', so choose settings by training on 'fit'."


class MissingData(DataError):
    """A data set, or a split of it, is not where it was looked for."""


@dataclass(frozen=True)
class Download:
    """A file that its owners offer to everybody.

    `checksum` is `md5:` or `sha256:` and hexadecimal digits, as published for the file; `size` is in bytes, None if
    unknown. `unpack` is for tar archives, compressed or not.
    """

    url: str
    checksum: str
    size: int | None = None
    unpack: bool = True

    @property
    def file(self) -> str:
        """The name under which the file is kept."""
        return self.url.split("?")[0].rsplit("/", 1)[1]


@dataclass(frozen=True)
class Source:
    """One data set.

    `splits` gives the official number of images of each split, `classes` that of classes. `origin` says who made it
    and where it is published, `obtain` what somebody does who lacks it. `markers` are the paths, relative to the set's
    folder, that must be there for a split to be opened. `folders` are names that its archives give that folder.
    `installed` lists the places where it may lie without anybody having said so.
    """

    name: str
    title: str
    splits: Mapping[str, int]
    classes: int
    origin: str
    licence: str
    obtain: str
    markers: Mapping[str, tuple[str, ...]]
    preprocess: Preprocess
    folders: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    installed: Callable[[], tuple[Path, ...]] = tuple

    def locate(self, split: str, root: str | Path | None = None) -> Path:
        """The set's folder: `root` or its folder `<name>` if given, else in `$BCDNET_DATA` likewise, else installed.

        Raises DataError for a split that there is not and a BCDNET_DATA that is no folder, MissingData when the
        split's markers are nowhere.
        """
        if split not in self.splits:
            known = ", ".join(map(repr, self.splits))
            raise DataError(f"{self.title} has no split {split!r}; it has {known}.")
        places = self._places(root)
        for place in places:
            for folder in (place, *(place / sub for sub in self.folders)):
                if all(_exists(folder / marker) for marker in self.markers[split]):
                    return folder
        nowhere = (
            f"is not in {' or '.join(map(str, places))}" if places else "cannot be found, as BCDNET_DATA is not set"
        )
        raise MissingData(
            f"The {split} split of {self.title} ({', '.join(self.markers[split])}) {nowhere}; it comes from "
            f"{self.origin}: {self.obtain}, or let the environment variable BCDNET_DATA name the folder that holds it."
        )

    def _places(self, root: str | Path | None) -> list[Path]:
        if root is not None:
            return _with_own_folder(Path(root), self.name, "there is no folder {}; name one that holds the data set.")
        places = list(self.installed())
        if named := os.environ.get("BCDNET_DATA"):
            complaint = "BCDNET_DATA names {}, which is no folder; correct the variable or unset it."
            places = _with_own_folder(Path(named), self.name, complaint) + places
        return places


def _with_own_folder(folder: Path, name: str, complaint: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(complaint.format(folder))
    return [folder / name, folder]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that may not be entered
        return False
