"""ELPV (Buerhop-Lutz et al., EU PVSEC 2018; Deitsch et al., Solar Energy 185, 2019): solar cells, sound and defective.

2,624 grey electroluminescence pictures of 300x300 pixels, cut from 44 modules, mono- and polycrystalline. Experts gave
each a probability of a defect: 0, 1/3, 2/3 or 1; from 1/2 on a cell counts as defective here. There is no official
split, so this one is drawn once for all: a quarter for testing within each label and type of module, in the order of a
hash of the name, which no library's random generator can change. Which module a cell was cut from is not published, so
cells of one module lie on both sides.
"""

import hashlib
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bcdnet.data.annotations import read_lines
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import FileImages
from bcdnet.data.source import Source
from bcdnet.data.transforms import ELPV

CLASSES = ("functional", "defective")
SEED = "elpv-1"

_SPLITS = {"train": 1_968, "test": 656}


class Cell(NamedTuple):
    """One line of `labels.csv`: the picture's path beside it, the probability of a defect, `mono` or `poly`."""

    path: str
    probability: float
    module: str

    @property
    def label(self) -> int:
        """Index into CLASSES."""
        return int(self.probability >= 0.5)


def _installed() -> tuple[Path, ...]:
    # find_spec does not run the package, and the set needs none of its code.
    spec = find_spec("elpv_dataset")
    return tuple(Path(place) / "data" for place in spec.submodule_search_locations or ()) if spec else ()


SOURCE = Source(
    name="elpv",
    title="ELPV solar cells",
    splits=_SPLITS,
    classes=len(CLASSES),
    origin="Buerhop-Lutz et al. 2018, github.com/zae-bayern/elpv-dataset",
    licence="CC BY-NC-SA 4.0, also for what is made from it",
    obtain="run `pip install elpv-dataset`",
    markers=dict.fromkeys(_SPLITS, ("labels.csv", "images")),
    preprocess=ELPV,
    folders=("src/elpv_dataset/data", "elpv-dataset"),
    installed=_installed,
)


def dataset(split: str = "test", root: str | Path | None = None) -> Dataset:
    """A split, in the order of `labels.csv`, pictures in mode L.

    Searches as `Source.locate`; raises DataError for a label file that is damaged.
    """
    folder = SOURCE.locate(split, root)
    cells = read_labels(folder / "labels.csv")
    test = test_paths(cells)
    chosen = [cell for cell in cells if (cell.path in test) == (split == "test")]
    labels = np.array([cell.label for cell in chosen], dtype=np.int64)
    return Dataset(SOURCE.name, CLASSES, FileImages(folder, (cell.path for cell in chosen), grey=True), labels)


def read_labels(path: Path) -> list[Cell]:
    """The lines of `labels.csv`, which are parted by spaces, not commas. Raises DataError for other lines."""
    cells = []
    for line in read_lines(path):
        try:
            name, probability, module = line.split()
            cell = Cell(name, float(probability), module)
        except ValueError as error:
            raise DataError(
                f"{path} has the line {line!r}, which is no path, number and type; fetch it again."
            ) from error
        if not 0 <= cell.probability <= 1 or module not in ("mono", "poly"):
            raise DataError(f"{path} has the line {line!r}, whose number or type cannot be; fetch it again.")
        cells.append(cell)
    if len({cell.path for cell in cells}) != len(cells):
        raise DataError(f"{path} names a picture twice; fetch it again.")
    return cells


def test_paths(cells: list[Cell]) -> set[str]:
    """The pictures of the test split: a quarter of each label and type of module, chosen by the names alone."""
    strata: dict[tuple[int, str], list[str]] = defaultdict(list)
    for cell in cells:
        strata[cell.label, cell.module].append(cell.path)
    chosen: set[str] = set()
    for paths in strata.values():
        drawn = sorted(paths, key=lambda path: hashlib.sha256(f"{SEED}/{path}".encode()).digest())
        chosen.update(drawn[: (len(paths) + 2) // 4])
    return chosen
