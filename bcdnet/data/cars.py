"""Stanford Cars (Krause, Stark, Deng and Fei-Fei, 3dRR 2013): photographs of 196 models of cars.

The devkit's own annotations of the test images leave their labels out; those came later, in a file of their own.
"""

from pathlib import Path

from bcdnet.data.annotations import read_mat, zero_based
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import FileImages
from bcdnet.data.source import Source
from bcdnet.data.transforms import IMAGENET

_META = "devkit/cars_meta.mat"
_TEST = "cars_test_annos_withlabels.mat"

SOURCE = Source(
    name="stanford-cars",
    title="Stanford Cars",
    splits={"train": 8_144, "test": 8_041},
    classes=196,
    origin="Krause et al. 2013, ai.stanford.edu/~jkrause/cars/car_dataset.html",
    licence="for non-commercial research and education",
    # Its page has been out of reach for years.
    obtain="its own site no longer offers it, so copy cars_train, cars_test, devkit and "
    f"{_TEST} from somebody who has them",
    markers={"train": ("cars_train", "devkit/cars_train_annos.mat", _META), "test": ("cars_test", _META)},
    preprocess=IMAGENET,
    folders=("stanford_cars",),
)


def dataset(split: str = "test", root: str | Path | None = None) -> Dataset:
    """A split, in the order of its annotations. `cars_test_annos_withlabels.mat` may lie beside `devkit` or in it.

    Searches as `Source.locate`; raises DataError for annotations without labels or at odds with the class names.
    """
    folder = SOURCE.locate(split, root)
    file = folder / "devkit" / "cars_train_annos.mat"
    if split == "test":
        file = next((path for path in (folder / _TEST, folder / "devkit" / _TEST) if path.is_file()), folder / _TEST)
        if not file.is_file():
            raise DataError(
                f"The devkit's own annotations of the test images lack labels; put {_TEST}, with them, into {folder}."
            )
    classes = tuple(map(str, read_mat(folder / _META, "class_names")))
    annotations = read_mat(file, "annotations")
    if not all(hasattr(row, "fname") and hasattr(row, "class") for row in annotations):
        raise DataError(f"{file} has no labels; put the file {_TEST} that has them into {folder}.")
    labels = zero_based([getattr(row, "class") for row in annotations], len(classes), file)
    images = FileImages(folder / f"cars_{split}", (str(row.fname) for row in annotations))
    return Dataset(SOURCE.name, classes, images, labels)
