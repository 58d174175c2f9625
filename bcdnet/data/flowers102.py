"""Oxford Flowers-102 (Nilsback and Zisserman, ICVGIP 2008): photographs of 102 kinds of flowers.

The set's own training and validation part have 1,020 images each and the test part 6,149. Benchmarks train on the
first two together, so that is the split `train`; `fit` and `val` are its halves, for choosing settings without looking
at the test images.
"""

from pathlib import Path

import numpy as np

from bcdnet.data.annotations import read_mat, zero_based
from bcdnet.data.dataset import DataError, Dataset
from bcdnet.data.image_files import FileImages
from bcdnet.data.source import PART_OF_TRAIN, Download, Source
from bcdnet.data.transforms import IMAGENET

_SPLITS = {"train": 2_040, "fit": 1_020, "val": 1_020, "test": 6_149}
_PARTS = {"train": ("trnid", "valid"), "fit": ("trnid",), "val": ("valid",), "test": ("tstid",)}
_SITE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"

# The set's files number the classes only; these names, in their order, are those that its users settled on.
# fmt: off
CLASSES = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold", "tiger lily",
    "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot", "king protea",
    "spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth",
    "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation",
    "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya", "cape flower",
    "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia",
    "bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia",
    "pink-yellow dahlia", "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush", "californian poppy",
    "osteospermum", "spring crocus", "bearded iris", "windflower", "tree poppy", "gazania", "azalea", "water lily",
    "rose", "thorn apple", "morning glory", "passion flower", "lotus", "toad lily", "anthurium", "frangipani",
    "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia", "cyclamen", "watercress",
    "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove", "bougainvillea", "camellia", "mallow",
    "mexican petunia", "bromelia", "blanket flower", "trumpet creeper", "blackberry lily",
)
# fmt: on

SOURCE = Source(
    name="flowers-102",
    title="Oxford Flowers-102",
    splits=_SPLITS,
    classes=len(CLASSES),
    origin="Nilsback and Zisserman 2008, robots.ox.ac.uk/~vgg/data/flowers/102",
    licence="none stated; used for research",
    obtain="run `bcdnet data fetch flowers-102`",
    markers=dict.fromkeys(_SPLITS, ("jpg", "imagelabels.mat", "setid.mat")),
    preprocess=IMAGENET,
    downloads=(
        Download(
            _SITE + "102flowers.tgz",
            "sha256:2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
            344_862_509,
        ),
        Download(
            _SITE + "imagelabels.mat",
            "sha256:4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
            502,
            unpack=False,
        ),
        Download(
            _SITE + "setid.mat",
            "sha256:46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
            14_989,
            unpack=False,
        ),
    ),
)


def dataset(split: str = "test", root: str | Path | None = None) -> Dataset:
    """A split, in the order of `setid.mat`. Searches as `Source.locate`; raises DataError for files at odds."""
    folder = SOURCE.locate(split, root)
    labels = zero_based(read_mat(folder / "imagelabels.mat", "labels"), len(CLASSES), folder / "imagelabels.mat")
    ids = np.concatenate([read_mat(folder / "setid.mat", part) for part in _PARTS[split]]).astype(np.int64)
    if ids.min() < 1 or ids.max() > len(labels):
        raise DataError(f"{folder / 'setid.mat'} names images that imagelabels.mat has no label for; fetch both again.")
    images = FileImages(folder / "jpg", (f"image_{number:05d}.jpg" for number in ids.tolist()))
    notes = (PART_OF_TRAIN,) if split == "val" else ()
    return Dataset(SOURCE.name, CLASSES, images, labels[ids - 1], notes)
