"""Everything the pages share and keep: models behind locks, pictures, and the results of the analyses.

This file and ``app/engines.py``, which keeps packed engines and times, are the only ones of the dashboard that touch
``bcdnet`` and have ``st.cache_*``. Three rules:

* A network is shared by all users, so no forward pass happens outside :func:`locked`: one user's hooks must not touch
  another's result. Work of many seconds runs on a :func:`private_copy` instead, so that nobody waits for it.
* Results are found again by the digests of model and picture, never by hashing arrays (Streamlit samples large ones).
* Every cache is bounded. What it holds is shared: pages never change an array or a table that they were given.

A page asks a question of `analysis` with :func:`ask`; one that takes longer than a second, with ``app.jobs.answer``.
"""

import copy
import gc
import hashlib
import json
import math
import os
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import streamlit as st
import torch
from PIL import Image

import bcdnet
from analysis import attribution, binarization, comparison, sampling, tradeoffs
from bcdnet import cost
from bcdnet.checkpoint import CheckpointError, inspect
from bcdnet.data import SOURCES, DataError, Dataset, ImageError, Preprocess, Source, decode_image, open_dataset
from bcdnet.data.archive import UNKNOWN, EncodedImages
from bcdnet.files import assets_dir
from bcdnet.model import Network, map_sizes
from bcdnet.variants import VARIANTS, Config

__all__ = ["Config", "ImageError"]

# Half of the processor for one user's work: threads that wait for one another on a full machine cost more than they
# bring, and small networks gain little from many.
torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))

T = TypeVar("T")
#: Called with (done, total); whatever it raises, a rerun of the page included, stops the work.
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Model:
    """A checkpoint on offer: what its file says about itself, without the weights. ``key`` changes with the file.

    ``note`` is a sentence on what of its card could not be read and is left out of ``card``, "" if nothing.
    """

    id: str
    title: str
    path: Path
    key: str
    config: Config
    card: dict[str, Any] = field(hash=False, compare=False)
    log: Path | None = None
    note: str = field(default="", compare=False)

    @property
    def classes(self) -> list[str]:
        """Class names, numbers where the card has none."""
        names: list[str] = self.card.get("classes") or []
        return names if len(names) == self.config.num_classes else [str(n) for n in range(self.config.num_classes)]

    @property
    def dataset(self) -> str:
        """Name of the data set that it was trained for, Fashion-MNIST where the card names none that is known."""
        name = self.card.get("dataset", "")
        return name if name in SOURCES else DEFAULT_DATASET

    @property
    def recipe(self) -> dict[str, Any]:
        """How it was trained, empty where the card does not say."""
        return self.card.get("recipe") or {}

    @property
    def epochs(self) -> int:
        """Passes over the training data that its recipe asks for, those of the model it started from left out."""
        return sum(step["epochs"] for step in self.recipe.get("steps", []))

    @property
    def bytes(self) -> int:
        """Size of the checkpoint file, which holds latent weights at 32 bits."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Picture:
    """A picture somebody looks at. ``key`` names it in caches; ``label`` is the true class, if known.

    ``dataset`` and ``test_index`` are a known data set and its number in that set's test split, None for others;
    ``images`` and ``index`` a reader's own set and its number there.
    """

    key: str
    image: Image.Image = field(compare=False)
    label: int | None = None
    notes: tuple[str, ...] = ()
    dataset: str | None = None
    test_index: int | None = None
    images: "ImageSet | None" = field(default=None, compare=False)
    index: int = 0


@dataclass(frozen=True)
class Seen:
    """What a network is given: the normalised tensor (1, C, H, W), as a picture, and its box in the original."""

    x: torch.Tensor
    image: Image.Image
    box: tuple[float, float, float, float]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ImageSet:
    """Images to be asked about together, in an order of their own. ``key`` names the set in caches.

    ``test_of`` names the known data set whose test split it is, None for a reader's own.
    """

    key: str
    title: str
    data: Dataset = field(hash=False, compare=False)
    test_of: str | None = None

    def __len__(self) -> int:
        return len(self.data)

    def picture(self, index: int) -> Picture:
        """One image of the set; its ``label`` stays None unless the set is the networks' own test set."""
        if self.test_of is not None:
            return test_picture(index, self.test_of)
        return Picture(f"{self.key}-{index}", self.data.images[index], images=self, index=index)

    def labels(self, model: Model) -> np.ndarray:
        """True classes, int64 (N,), as the model counts them; ValueError if they are not known or not the model's."""
        if self.data.classes == (UNKNOWN,):
            raise DataError(f"the images of {self.title} lie in no class folders.")
        return np.asarray(self.data.class_indices(model.classes))[self.data.labels]

    def first(self, n: int) -> "First":
        """The first ``n`` images, to be given to :func:`ask` or ``app.jobs.answer`` as one tensor."""
        return First(self, min(n, len(self)))

    def batches(self, n: int) -> "First":
        """The first ``n`` images, to be given as batches of at most :data:`BATCH`, one at a time."""
        return First(self, min(n, len(self)), together=False)


@dataclass(frozen=True)
class First:
    """Stands for the first ``n`` images of a set among the arguments of a question.

    The question gets float32 (n, C, H, W), or with ``together`` false an iterable of pairs of float32 (b, C, H, W) and
    int64 (b,), made while it is read.
    """

    images: ImageSet
    n: int
    together: bool = True


#: Images of a batch.
BATCH = 100
#: The data set of models whose card names none.
DEFAULT_DATASET = "fashion-mnist"

#: How caches find models and pictures again.
HASH: dict[str | type, Any] = {
    Model: lambda model: (model.key, model.id, model.title),
    Picture: lambda picture: picture.key,
    ImageSet: lambda images: images.key,
}


_modules = 0


def settle() -> None:
    """Take what was imported since the last call out of the garbage collector's sight.

    Streamlit collects garbage after every run. With torch and Plotly in memory that takes a quarter of a second, in
    which no reader's page goes on; and modules are never garbage.
    """
    global _modules
    if len(sys.modules) > _modules:
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()


# -- models -----------------------------------------------------------------------------------------------------------


def catalogue() -> tuple[tuple[Model, ...], tuple[str, ...]]:
    """The checkpoints on offer, and one sentence for each that cannot be used.

    `$BCDNET_CHECKPOINTS`, a folder, takes the place of the shipped ones. A manifest.json there says order and titles;
    without one every *.safetensors file counts.
    """
    folder = root()
    try:
        rows = _rows(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        return (), (f"The list of models {folder.name}/manifest.json cannot be read ({type(error).__name__}).",)
    models: dict[str, Model] = {}
    problems = []
    for row in rows:
        path = (folder / row["file"]).resolve()
        try:
            stat = path.stat()
            model = _described(row, str(folder), path, f"{path}:{stat.st_mtime_ns}:{stat.st_size}")
            if models.setdefault(model.id, model) is not model:
                problems.append(f"{path.name} is left out, because another model has its id, {model.id}.")
            elif model.note:
                problems.append(model.note)
        except OSError:
            problems.append(f"{path.name} is listed but missing.")
        except CheckpointError as error:
            problems.append(str(error))
    return told_apart(models.values()), tuple(problems)


def told_apart(models: Iterable[Model]) -> tuple[Model, ...]:
    """The models with their id behind a title that several have: charts and tables know a model by its title."""
    models = list(models)
    while len(titles := Counter(model.title for model in models)) < len(models):
        models = [
            replace(model, title=f"{model.title} ({model.id})") if titles[model.title] > 1 else model
            for model in models
        ]
    return tuple(models)


def _rows(folder: Path) -> list[dict[str, Any]]:
    manifest = folder / "manifest.json"
    if manifest.is_file():
        rows = json.loads(manifest.read_text(encoding="utf-8"))["models"]
        for row in rows:
            # The list must not lead out of its folder.
            for name in (row["file"], row.get("log") or ""):
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise ValueError(name)
        return rows
    checkpoints = folder if os.environ.get("BCDNET_CHECKPOINTS") else folder / "checkpoints"
    return [{"file": str(path.relative_to(folder))} for path in sorted(checkpoints.glob("*.safetensors"))]


def described(row: dict[str, Any], path: Path, key: str) -> Model:
    """A checkpoint outside the list of models, with its ``id`` and ``title``. CheckpointError if it cannot be used."""
    return _described(row, str(path.parent), path, key)


@st.cache_resource(show_spinner=False, max_entries=256)
def _described(row: dict[str, Any], folder: str, path: Path, key: str) -> Model:
    about = inspect(path)
    if row.get("sha256") and _digest(path) != row["sha256"]:
        raise CheckpointError(f"{path.name} is not the file that the list of models was written for; fetch it again.")
    config, card = about["config"], about["card"]
    _check_preprocess(path, config, card)
    identity = str(row.get("id") or path.stem)
    title = str(row.get("title") or card.get("title") or identity)
    log = Path(folder) / row["log"] if row.get("log") else None
    note = ""
    if wrong := [part for part, fits in _PARTS.items() if card.get(part) is not None and not fits(card[part])]:
        card = {part: value for part, value in card.items() if part not in wrong}
        note = f"{title} is shown without what its card says of {', '.join(wrong)}: that is not as bcdnet writes it."
    return Model(identity, title, path, key, config, card, log, note)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _metrics(found: Any) -> bool:
    """Whether "top1" and "top5" are numbers, "n" a count of images, and "ci95" two numbers, where they are there."""
    if not isinstance(found, dict):
        return False
    interval, n = found.get("ci95", [0, 0]), found.get("n", 1)
    if not isinstance(interval, list) or len(interval) != 2 or type(n) is not int or n < 1:
        return False
    return all(map(_number, [found.get("top1", 0), found.get("top5", 0), *interval]))


def _recipe(found: Any) -> bool:
    """Whether a recipe is a mapping whose steps, if it has any, say how many epochs they take."""
    steps = found.get("steps", []) if isinstance(found, dict) else None
    return isinstance(steps, list) and all(isinstance(step, dict) and _number(step.get("epochs")) for step in steps)


def _names(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(name, str) for name in found)


#: What pages read of a card, and whether it is as they need it; a file may say anything.
_PARTS: dict[str, Callable[[Any], bool]] = {
    "classes": _names,
    "dataset": lambda found: isinstance(found, str),
    "metrics": _metrics,
    "recipe": _recipe,
}


def _check_preprocess(path: Path, config: Config, card: dict[str, Any]) -> None:
    """CheckpointError unless the card says how pictures become the input that the network takes."""
    try:
        how = Preprocess.from_dict(card["preprocess"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} is left out, because its card does not say how pictures are prepared ({error}); "
            "save the model with its preprocessing."
        ) from error
    if (how.image_size, how.channels) != (config.image_size, config.in_channels):
        (height, width), (our_height, our_width) = how.image_size, config.image_size
        raise CheckpointError(
            f"{path.name} is left out, because its card prepares pictures of {height}x{width} pixels, of "
            f"{how.channels} channels, for a network that takes {our_height}x{our_width} and {config.in_channels}."
        )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class _Shared:
    network: Network
    lock: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(show_spinner=False, max_entries=8, hash_funcs=HASH)
def _shared(model: Model) -> _Shared:
    return _Shared(bcdnet.load(model.path))


@contextmanager
def locked(model: Model) -> Iterator[Network]:
    """The shared network, for one thread at a time. CheckpointError if its file is damaged."""
    shared = _shared(model)
    with shared.lock:
        yield shared.network


def private_copy(model: Model) -> Network:
    """A network of one's own, for work that would keep others waiting."""
    with locked(model) as network:
        return copy.deepcopy(network)


@st.cache_data(show_spinner=False, max_entries=256)
def _cost(config: str, image_size: tuple[int, int] | None) -> cost.NetworkCost:
    return cost.network_cost(Config.from_json(config), image_size)


def network_cost(config: Config, image_size: tuple[int, int] | None = None) -> cost.NetworkCost:
    """See :func:`bcdnet.cost.network_cost`."""
    return _cost(config.to_json(), image_size)


def root() -> Path:
    """The folder that holds the list of models."""
    return Path(os.environ.get("BCDNET_CHECKPOINTS") or assets_dir())


def checkpoint_name(model: Model) -> str:
    """The file of a model as one would name it from the project's folder; nothing of the server's own folders."""
    if not model.path.is_relative_to(root().resolve()):
        return "your-checkpoint.safetensors"
    inside = model.path.relative_to(root().resolve())
    return str(inside if os.environ.get("BCDNET_CHECKPOINTS") else Path("assets") / inside)


def opening(images: ImageSet) -> str:
    """Python that makes the set ``data`` again; a reader's own from a file or folder that stands for theirs."""
    if images.test_of is not None:
        return f"from bcdnet.data import open_dataset\n\ndata = open_dataset({images.test_of!r})\n"
    if isinstance(images.data.images, EncodedImages):
        return (
            "from pathlib import Path\n\nfrom bcdnet.data.archive import read_archive\n\n"
            f"data = read_archive(Path('your-images.zip').read_bytes(), {images.title!r})\n"
        )
    return "from bcdnet.data.archive import read_folder\n\ndata = read_folder('your-images')\n"


@st.cache_data(show_spinner=False, max_entries=8, hash_funcs=HASH)
def scatter_points(models: tuple[Model, ...]) -> pd.DataFrame:
    """See :func:`analysis.tradeoffs.scatter_points`, with the models on offer."""
    return tradeoffs.scatter_points([(model.id, model.title, model.config, model.card) for model in models])


@st.cache_data(show_spinner=False, max_entries=1)
def paper_vs_computed() -> pd.DataFrame:
    """See :func:`analysis.tradeoffs.paper_vs_computed`."""
    return tradeoffs.paper_vs_computed()


def variants() -> dict[str, Config]:
    """The rows of the table of variants."""
    return dict(VARIANTS)


def configured(name: str, changes: dict[str, Any]) -> Config:
    """A variant with some fields changed. ValueError, with a sentence for the reader, if it describes no network."""
    config = VARIANTS[name].replace(**changes)
    map_sizes(config)
    return config


@st.cache_data(show_spinner=False, max_entries=256)
def _custom(config: str) -> tuple[pd.Series, pd.DataFrame]:
    network = Config.from_json(config)
    return tradeoffs.custom_cost(network), tradeoffs.layer_costs(network)


def custom_cost(config: Config) -> tuple[pd.Series, pd.DataFrame]:
    """See :func:`analysis.tradeoffs.custom_cost` and :func:`analysis.tradeoffs.layer_costs`."""
    return _custom(config.to_json())


@st.cache_data(show_spinner=False, max_entries=32)
def training_log(path: Path) -> pd.DataFrame:
    """The training log, one row an epoch."""
    return pd.read_csv(path)


# -- pictures ---------------------------------------------------------------------------------------------------------


@st.cache_resource(show_spinner=False, max_entries=8)
def test_set(dataset: str = DEFAULT_DATASET) -> Dataset | None:
    """The test images of a known data set, if they are there."""
    try:
        return open_dataset(dataset)
    except DataError:
        return None


def test_picture(index: int, dataset: str = DEFAULT_DATASET) -> Picture:
    """One image of a known data set's test split, which must be there."""
    data = test_set(dataset)
    assert data is not None
    return Picture(f"{dataset}-{index}", data.images[index], int(data.labels[index]), (), dataset, index)


def dataset_source(dataset: str) -> Source:
    """What is known of a data set: its title, and what somebody does who lacks it."""
    return SOURCES[dataset]


@st.cache_data(show_spinner=False, max_entries=4, scope="session")
def _uploaded(digest: str, _content: bytes) -> Picture:
    decoded = decode_image(_content)
    return Picture(digest, decoded.image, None, decoded.notes)


def uploaded_picture(content: bytes) -> Picture:
    """An uploaded file as a picture. ImageError, with a sentence for the reader, if it is none."""
    return _uploaded(hashlib.sha256(content).hexdigest(), content)


def preprocess(model: Model) -> Preprocess:
    """How pictures become input of this model, from its card; :func:`catalogue` offers none without."""
    return Preprocess.from_dict(model.card["preprocess"])


@st.cache_data(show_spinner=False, max_entries=256, hash_funcs=HASH)
def seen(model: Model, picture: Picture) -> Seen:
    """The exact input the network gets for a picture. Images of the test set are never inverted."""
    how = preprocess(model)
    if picture.label is not None:
        how = replace(how, invert="never")
    view = how.view(picture.image)
    x = how.batch(np.asarray(view.image)[None])  # (1, H, W[, 3]) -> (1, C, H, W)
    return Seen(x, view.image, view.box, (*picture.notes, *view.notes))


#: Most bytes that the images of a question may take together, and pixels of a batch: more would keep a job from
#: being cancelled within a second.
_MOST, _PIXELS = 256 * 2**20, 32 * 224**2


@st.cache_resource(show_spinner=False, max_entries=8, hash_funcs=HASH)
def _together(model: Model, images: ImageSet, n: int) -> torch.Tensor:
    how = preprocess(model)
    size = 4 * how.channels * how.image_size[0] * how.image_size[1]
    if n * size > _MOST:
        raise ValueError(f"{n:,} images of this size take too much memory; choose at most {_MOST // size:,}.")
    return next(images.data.batches(how, n))[0]


def _batches(model: Model, images: ImageSet, n: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    left, how = n, preprocess(model)
    for x, labels in images.data.batches(how, max(1, min(n, BATCH, _PIXELS // math.prod(how.image_size)))):
        yield x[:left], labels[:left]
        left -= len(x)
        if left <= 0:
            return


# -- questions --------------------------------------------------------------------------------------------------------


def ask(question: Callable[..., T], model: Model, *arguments: Any, **options: Any) -> T:
    """``question(network, *arguments, **options)``, kept for the next who asks; nobody else uses the network meanwhile.

    For questions of well under a second; ``app.jobs.answer`` is for all others.

    Args:
        question: a function of `analysis` whose first argument is a network.
        model: which network.
        *arguments, **options: hashable; a :class:`Picture` becomes the model's input, float32 (1, C, H, W), and a
            :class:`First` the images it stands for.
    """

    def compute() -> T:
        given, named = resolved(model, arguments, options)
        with locked(model) as network:
            return question(network, *given, **named)

    return remember(question_key(question, model, arguments, options), compute)


def question_key(
    question: Callable[..., Any], model: Model, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, ...]:
    """Under what :func:`remember` keeps the answer to a question."""

    def name(value: Any) -> Any:
        if isinstance(value, Picture):
            return value.key
        if isinstance(value, First):
            return value.images.key, value.n, value.together
        return value

    named = sorted((option, name(value)) for option, value in options.items())
    return question.__module__, question.__qualname__, model.key, *map(name, arguments), *named


def resolved(
    model: Model, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments and options with tensors in place of pictures and sets."""

    def tensor(value: Any) -> Any:
        if isinstance(value, Picture):
            return seen(model, value).x
        if isinstance(value, First):
            return (_together if value.together else _batches)(model, value.images, value.n)
        return value

    return tuple(map(tensor, arguments)), {option: tensor(value) for option, value in options.items()}


# -- analyses ---------------------------------------------------------------------------------------------------------


@st.cache_data(show_spinner=False, max_entries=1024, hash_funcs=HASH)
def probabilities(model: Model, picture: Picture) -> np.ndarray:
    """Softmax of the logits, (num_classes,)."""
    with locked(model) as network, torch.no_grad():
        return network(seen(model, picture).x).softmax(1)[0].double().numpy()


@st.cache_data(show_spinner=False, max_entries=512, hash_funcs=HASH)
def top_k(model: Model, picture: Picture) -> pd.DataFrame:
    """See :func:`analysis.comparison.top_k`: the five likeliest classes."""
    with locked(model) as network:
        return comparison.top_k(network, seen(model, picture).x, model.classes)


@st.cache_data(show_spinner=False, max_entries=64, hash_funcs=HASH)
def seconds_per_image(model: Model) -> float:
    """Time of a forward pass on this machine, per image of a small batch; the shorter of two, as the first warms up."""
    batch = 8
    x = torch.zeros(batch, model.config.in_channels, *preprocess(model).image_size)
    times = []
    with locked(model) as network, torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            network(x)
            times.append((time.perf_counter() - start) / batch)
    return min(times)


@dataclass(frozen=True)
class Layer:
    """One row of :func:`analysis.sampling.layers`: sizes in tokens of the output and of the input map."""

    kind: str
    branches: tuple[str, ...]
    height: int
    width: int
    in_height: int
    in_width: int
    stride: int
    kernel: int


@st.cache_resource(show_spinner=False, max_entries=64, hash_funcs=HASH)
def layers(model: Model) -> Mapping[str, Layer]:
    """The layers of a model by name, in order."""
    counts = ("height", "width", "in_height", "in_width", "stride", "kernel")
    with locked(model) as network:
        rows = sampling.layers(network).to_dict("records")
    return {
        str(row["name"]): Layer(str(row["kind"]), tuple(row["branches"]), *(int(row[name]) for name in counts))
        for row in rows
    }


@st.cache_data(show_spinner=False, max_entries=512, hash_funcs=HASH)
def token_sources(model: Model, layer: str, row: int, col: int) -> pd.DataFrame:
    """See :func:`analysis.sampling.token_sources`."""
    with locked(model) as network:
        return sampling.token_sources(network, layer, row, col)


@st.cache_data(show_spinner=False, max_entries=64, hash_funcs=HASH)
def thresholds(model: Model, pictures: tuple[Picture, ...]) -> pd.DataFrame:
    """See :func:`analysis.binarization.thresholds`; one image a picture."""
    with locked(model) as network:
        return binarization.thresholds(network, torch.cat([seen(model, picture).x for picture in pictures]))


@st.cache_data(show_spinner=False, max_entries=64, hash_funcs=HASH)
def method_status(model: Model) -> pd.DataFrame:
    """See :func:`analysis.attribution.method_status`."""
    with locked(model) as network:
        return attribution.method_status(network)


@st.cache_data(show_spinner=False, max_entries=64, hash_funcs=HASH)
def target_layers(model: Model) -> list[str]:
    """See :func:`analysis.attribution.target_layers`."""
    with locked(model) as network:
        return attribution.target_layers(network)


def cost_estimate(model: Model, method: str, **options: Any) -> int:
    """See :func:`analysis.attribution.cost_estimate`."""
    with locked(model) as network:
        return attribution.cost_estimate(network, method, **options)


# -- work that shows its progress -------------------------------------------------------------------------------------


class _Results:
    """The latest results of slow work. Not ``st.cache_data``, inside which no progress may be drawn."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def get(self, key: tuple[Any, ...]) -> Any:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[Any, ...], value: Any) -> None:
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)

    def drop(self, unwanted: Callable[[tuple[Any, ...]], bool]) -> None:
        with self._lock:
            for key in [key for key in self._kept if unwanted(key)]:
                del self._kept[key]


@st.cache_resource(show_spinner=False)
def _results() -> _Results:
    return _Results(512)


def kept(key: tuple[Any, ...]) -> Any:
    """What :func:`remember` holds of a key; None if nothing."""
    return _results().get(key)


def known(key: tuple[Any, ...]) -> bool:
    """Whether :func:`remember` holds the result of a key."""
    return kept(key) is not None


def forget_model(model: Model) -> None:
    """Drop a network, and what :func:`remember` holds of it."""
    _shared.clear(model)
    _results().drop(lambda key: model.key in repr(key))


def forget_images(images: ImageSet) -> None:
    """Drop what :func:`remember` holds of a set or one of its pictures, and sets that were made one tensor."""
    _together.clear()
    _results().drop(lambda key: images.key in repr(key))


def remember(key: tuple[Any, ...], compute: Callable[[], T], anew: bool = False) -> T:
    """The kept result of a key, else, or with ``anew``, that of ``compute``, which may draw its progress."""
    results = _results()
    if (found := None if anew else results.get(key)) is None:
        found = compute()
        results.put(key, found)
    return found
