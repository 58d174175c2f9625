"""What readers bring along: checkpoints of their own and sets of images. Kept with their session, seen by nobody else.

Nothing that is handed in is executed or unpickled: checkpoints are safetensors and checked like those of a folder,
images are decoded by the one decoder that all pictures go through.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from app import cache
from app.cache import ImageSet, Model, Progress
from bcdnet.checkpoint import CheckpointError
from bcdnet.data import DataError, Dataset, open_dataset
from bcdnet.data.archive import MAX_IMAGES, UNKNOWN, read_archive
from bcdnet.data.image_files import FileImages, image_names
from bcdnet.files import write_atomically

#: Largest files, in megabytes.
PICTURE_MB, CHECKPOINT_MB, IMAGES_MB = 10, 100, 100
#: Models and sets that a session may hold, and images of a set.
MOST, MOST_IMAGES = 4, MAX_IMAGES


class UploadError(ValueError):
    """What was handed in cannot be used; the message is one sentence for the person who did."""


def _own(kind: str) -> dict[str, Any]:
    kept: dict[str, Any] = st.session_state.setdefault(f"own_{kind}", {})
    return kept


# -- checkpoints ------------------------------------------------------------------------------------------------------


def models() -> tuple[Model, ...]:
    """The reader's own models."""
    return tuple(_own("models").values())


def add_model(content: bytes, name: str) -> Model:
    """Take a checkpoint; it then stands among the models on offer. UploadError if it cannot be used."""
    digest = hashlib.sha256(content).hexdigest()
    identity = f"own-{digest[:8]}"
    if identity in _own("models"):
        return _own("models")[identity]
    if len(_own("models")) >= MOST:
        raise UploadError(f"You have {MOST} models here already; remove one first.")
    if len(content) > CHECKPOINT_MB * 2**20:
        raise UploadError(f"The file is larger than {CHECKPOINT_MB} MB; start the dashboard on its folder instead.")
    # The folder goes with the session: nothing of it is left on the server's disk.
    folder = st.session_state.setdefault("own_folder", tempfile.TemporaryDirectory(prefix="bcdnet-own-"))
    path = Path(folder.name) / f"{identity}.safetensors"
    write_atomically(path, content)
    try:
        model = cache.described({"id": identity, "title": _title(name)}, path, digest)
        with cache.locked(model):
            pass  # every tensor was read and checked
    except CheckpointError as error:
        path.unlink()
        raise UploadError(str(error).replace(path.name, name)) from error
    _own("models")[identity] = model
    return model


def remove_model(identity: str) -> None:
    """Forget a model of the reader's."""
    model = _own("models").pop(identity, None)
    if model is not None:
        model.path.unlink(missing_ok=True)


def _title(name: str) -> str:
    """A file's name as plain words: nothing in it is markup, and none is endless."""
    plain = "".join(c if c.isalnum() or c in " ._-+" else " " for c in Path(name).stem)
    return " ".join(plain.split())[:60] or "Unnamed"


# -- images -----------------------------------------------------------------------------------------------------------


def image_sets(model: Model | None) -> list[ImageSet]:
    """A model's test set, the folder that `$BCDNET_IMAGES` names, and the reader's own, in this order."""
    sets = []
    if model is not None and (data := cache.test_set(model.dataset)) is not None:
        title = f"{cache.dataset_source(model.dataset).title}, test"
        sets.append(ImageSet(f"test-{model.dataset}", title, data, model.dataset))
    folder = os.environ.get("BCDNET_IMAGES")
    if folder and not isinstance(found := _folder(folder), str):
        sets.append(found)
    return [*sets, *_own("sets").values()]


def folder_problem() -> str:
    """Why the folder of `$BCDNET_IMAGES` cannot be used, in a sentence; empty if it can or none is named."""
    folder = os.environ.get("BCDNET_IMAGES")
    found = _folder(folder) if folder else ""
    return found if isinstance(found, str) else ""


@st.cache_resource(show_spinner=False, max_entries=2)
def _folder(folder: str) -> ImageSet | str:
    root = Path(folder)
    try:
        if root.is_dir() and (names := image_names(root)):
            names = names[:: -(-len(names) // MOST_IMAGES)]
            data = Dataset(root.name, (UNKNOWN,), FileImages(root, names), np.zeros(len(names), np.int64))
        else:
            data = _some(open_dataset(root))
        for index in range(len(data)):
            data.images[index]  # a file that cannot be read is named now, not in the middle of a question
    except DataError as error:
        return str(error)
    return ImageSet(f"folder-{root}", root.name, data)


def _some(data: Dataset) -> Dataset:
    """At most as many images as a set may have, evenly over the classes' order."""
    step = -(-len(data) // MOST_IMAGES)
    if step == 1:
        return data
    images = data.images
    assert isinstance(images, FileImages)
    names = [str(images.path(k).relative_to(images.root)) for k in range(0, len(data), step)]
    return Dataset(data.name, data.classes, FileImages(images.root, names), data.labels[::step], data.notes)


def add_images(content: bytes, name: str, progress: Progress | None = None) -> ImageSet:
    """Take a zip file of images; it can then be chosen as the set of a question. UploadError if it cannot be used."""
    digest = hashlib.sha256(content).hexdigest()
    key = f"images-{digest[:8]}"
    if key in _own("sets"):
        return _own("sets")[key]
    if len(_own("sets")) >= MOST:
        raise UploadError(f"You have {MOST} sets here already; remove one first.")
    if len(content) > IMAGES_MB * 2**20:
        raise UploadError(f"The file is larger than {IMAGES_MB} MB; start the dashboard on the folder instead.")
    try:
        data = read_archive(content, _title(name), progress)
    except DataError as error:
        raise UploadError(str(error)) from error
    images = _own("sets")[key] = ImageSet(key, data.name, data)
    return images


def remove_images(key: str) -> None:
    """Forget a set of the reader's."""
    _own("sets").pop(key, None)
