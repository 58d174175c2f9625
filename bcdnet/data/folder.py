"""Any folder of class folders, `folder/<class>/<image>`, or of splits: `folder/train/<class>/<image>` and so on."""

from pathlib import Path

from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import class_folders, read_class_folders


def splits(folder: Path) -> tuple[str, ...]:
    """The splits that `folder` holds: `train` beside `test`, `val` or both; none for a folder of class folders.

    A class may be called train, so that alone it says nothing. Raises DataError when the folder cannot be read.
    """
    names = set(class_folders(folder))
    if "train" not in names or not names & {"test", "val"} or not class_folders(folder / "train"):
        return ()
    return tuple(name for name in ("train", "val", "test") if name in names)


def dataset(folder: str | Path, split: str = "test") -> Dataset:
    """The images in `folder/<class>/`, classes and files in sorted order; names are the classes' names.

    With `train/` beside `val/` or `test/` they are `folder/<split>/<class>/`, `test` meaning `val/` where there is no
    `test/`; the classes are then those of `train/` in every split. Without, every split is the whole folder.
    Hidden files are passed over; other files that are no images by name are counted in `Dataset.notes`.
    Files are decoded when they are asked for, and one that cannot be decoded raises DataError then.
    Raises DataError when there is no such folder, split, class folder or image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; name one that holds a folder of images for each class.")
    notes: tuple[str, ...] = ()
    if found := splits(root):
        chosen = "val" if split == "test" and "test" not in found else split
        if chosen not in found:
            raise DataError(f"The folder {root} has no split {split!r}; it has {', '.join(map(repr, found))}.")
        classes, place = class_folders(root / "train"), root / chosen
        if strange := sorted(set(class_folders(place)) - set(classes)):
            raise DataError(f"{place / strange[0]} has no folder of that name in {root / 'train'}; add or remove it.")
    else:
        classes, place = class_folders(root), root
        if split != "test":
            notes = (f"{root} has no folders train and test: its split {split!r} is all of it, test images too.",)
    if not classes:
        raise DataError(f"The folder {root} holds no folders; it needs one folder of images for each class.")
    there = set(class_folders(place))
    images, labels, left_out = read_class_folders(
        place, [(name, label) for label, name in enumerate(classes) if name in there]
    )
    if not len(images):
        raise DataError(
            f"No images lie in the class folders of {place}; it needs <class>/<image>, so name the split's own folder."
        )
    return Dataset(root.resolve().name, tuple(classes), images, labels, notes + left_out)
