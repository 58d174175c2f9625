"""Stanford Dogs (Khosla, Jayadevaprakash, Yao and Fei-Fei, FGVC 2011): photographs of 120 breeds of dogs."""

from pathlib import Path

from bcdnet.data.annotations import read_mat, zero_based
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import FileImages
from bcdnet.data.source import Download, Source
from bcdnet.data.transforms import IMAGENET

LEAK = (
    "The images come from ImageNet, test images too: a network or teacher that was trained on ImageNet may have seen "
    "them with their labels."
)

_SPLITS = {"train": 12_000, "test": 8_580}
_SITE = "http://vision.stanford.edu/aditya86/ImageNetDogs/"

SOURCE = Source(
    name="stanford-dogs",
    title="Stanford Dogs",
    splits=_SPLITS,
    classes=120,
    origin="Khosla et al. 2011, vision.stanford.edu/aditya86/ImageNetDogs",
    licence="ImageNet's: for non-commercial research and education",
    obtain="run `bcdnet data fetch stanford-dogs`",
    markers=dict.fromkeys(_SPLITS, ("Images", "train_list.mat", "test_list.mat")),
    preprocess=IMAGENET,
    downloads=(
        Download(
            _SITE + "images.tar",
            "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
            793_579_520,
        ),
        Download(
            _SITE + "lists.tar", "sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c", 481_280
        ),
    ),
)


def dataset(split: str = "test", root: str | Path | None = None) -> Dataset:
    """A split, in the order of its list; classes are the breeds, from the folders that the training list names.

    Searches as `Source.locate`; raises DataError for lists that are damaged or give one label to two folders.
    """
    folder = SOURCE.locate(split, root)
    breeds: dict[int, str] = {}
    for label, name in zip(*_columns(folder / "train_list.mat"), strict=True):
        breed = name.split("/", 1)[0]
        if breeds.setdefault(label, breed) != breed:
            raise DataError(f"train_list.mat in {folder} gives the label {label:g} to two folders; fetch it again.")
    if sorted(breeds) != list(range(1, len(breeds) + 1)):
        raise DataError(f"train_list.mat in {folder} does not number the breeds from 1 on; fetch it again.")
    labels, names = _columns(file := folder / f"{split}_list.mat")
    # "n02085620-Chihuahua" is the breed's synset and its name.
    classes = tuple(breeds[i + 1].split("-", 1)[-1].replace("_", " ") for i in range(len(breeds)))
    return Dataset(
        SOURCE.name, classes, FileImages(folder / "Images", names), zero_based(labels, len(classes), file), (LEAK,)
    )


def _columns(path: Path) -> tuple[list[int], list[str]]:
    labels, names = read_mat(path, "labels").tolist(), read_mat(path, "file_list").tolist()
    if len(labels) != len(names):
        raise DataError(f"{path} names {len(names)} images and labels {len(labels)}; fetch it again.")
    return labels, [str(name) for name in names]
