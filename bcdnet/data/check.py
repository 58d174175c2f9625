"""Looks a data set through: what there is, and what is wrong with it."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bcdnet.data import folder
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import FileImages
from bcdnet.data.registry import get_source, open_dataset
from bcdnet.data.source import MissingData

# Stands for the name where there is none: any folder of class folders.
FOLDER = "folder"

# How many files of one kind of trouble are named; the rest are counted.
NAMED = 5
_BLOCK = 256

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class SplitReport:
    """A split that could be opened: where, its images by class, and the official number of images, if there is one."""

    split: str
    path: Path
    classes: dict[str, int]
    official: int | None

    @property
    def images(self) -> int:
        """How many images the split has."""
        return sum(self.classes.values())


@dataclass(frozen=True)
class Report:
    """What was found. `problems` are sentences; without any, the set is usable and complete."""

    name: str
    splits: tuple[SplitReport, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        splits = {
            part.split: {
                "path": str(part.path),
                "images": part.images,
                "official": part.official,
                "classes": part.classes,
            }
            for part in self.splits
        }
        return {
            "name": self.name,
            "usable": not self.problems,
            "splits": splits,
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def check(name: str, root: str | Path | None = None, quick: bool = False, progress: Progress | None = None) -> Report:
    """Open every split of a data set and look at every image.

    Args:
        name: of a known set, or `folder` for any folder of class folders.
        root: where it lies; None looks where `open_dataset` does.
        quick: only ask whether the files are there, instead of decoding them.
        progress: called with the split, images done and images in all every now and then.

    Raises:
        DataError: there is no such set, or nothing of it in that place.
    """
    places, problems = _places(name, root)
    reports, notes = [], []
    for split, place in places.items():
        official = classes = None
        try:
            if name == FOLDER:
                data = folder.dataset(place, split)
            else:
                source = get_source(name)
                official, classes = source.splits[split], source.classes
                data = open_dataset(name, split, root)
        except DataError as error:
            problems.append(f"{split}: {error}")
            continue
        counts = np.bincount(data.labels, minlength=len(data.classes)).tolist()
        reports.append(SplitReport(split, place, dict(zip(data.classes, counts, strict=True)), official))
        notes += [note for note in data.notes if note not in notes]
        problems += [f"{split}: {problem}" for problem in _problems(data, counts, official, classes)]
        problems += [f"{split}: {problem}" for problem in _bad_files(data, split, quick, progress)]
    return Report(name, tuple(reports), tuple(problems), tuple(notes))


def _places(name: str, root: str | Path | None) -> tuple[dict[str, Path], list[str]]:
    """Where each split lies, and a sentence for each that is missing while others are there."""
    if name == FOLDER:
        if root is None or not Path(root).is_dir():
            raise DataError(f"name a folder to check, as in `bcdnet data check {FOLDER} pictures`; {root} is none.")
        return dict.fromkeys(folder.splits(Path(root)) or ("test",), Path(root)), []
    source = get_source(name)
    places, missing = {}, []
    for split in source.splits:
        try:
            places[split] = source.locate(split, root)
        except MissingData as error:
            missing.append(error)
    if not places:
        raise missing[0]
    return places, list(map(str, missing))


def _problems(data: Dataset, counts: list[int], official: int | None, classes: int | None) -> Iterator[str]:
    if classes is not None and len(data.classes) != classes:
        yield f"there are {len(data.classes):,} classes, officially {classes:,}."
    if official is not None and len(data) != official:
        yield f"there are {len(data):,} images, officially {official:,}."
    if empty := [name for name, count in zip(data.classes, counts, strict=True) if not count]:
        yield f"{len(empty):,} class(es) have no image, {empty[0]!r} first."


def _bad_files(data: Dataset, split: str, quick: bool, progress: Progress | None) -> list[str]:
    images = data.images
    if not isinstance(images, FileImages):
        return []  # in memory, so read and checked already

    def trouble(index: int) -> str | None:
        if not images.path(index).is_file():
            return "missing"
        if not quick:
            try:
                images[index]
            except DataError as error:
                return f"unreadable: {error}"
        return None

    found: list[tuple[int, str]] = []
    # Pillow lets other threads run while it decodes. Blocks, because a million pending tasks would fill the memory.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if progress:
            progress(split, 0, len(images))
        for start in range(0, len(images), _BLOCK):
            block = range(start, min(start + _BLOCK, len(images)))
            found += [(i, what) for i, what in zip(block, pool.map(trouble, block), strict=True) if what]
            if progress:
                progress(split, block.stop, len(images))
    sentences = []
    missing = [index for index, what in found if what == "missing"]
    if missing:
        first = ", ".join(str(images.path(index)) for index in missing[:NAMED])
        sentences.append(f"{len(missing):,} image(s) are not there, first {first}.")
    unreadable = [what for _, what in found if what != "missing"]
    sentences += unreadable[:NAMED]
    if len(unreadable) > NAMED:
        sentences.append(f"{len(unreadable) - NAMED:,} more image(s) are unreadable.")
    return sentences
