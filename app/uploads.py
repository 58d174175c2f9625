"""What readers bring along: checkpoints of their own and sets of images. Held by their session, shown to nobody else.

Nothing that is handed in is executed or unpickled: checkpoints are safetensors and checked like those of a folder,
images are decoded by the one decoder that all pictures go through.
"""

import hashlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import streamlit as st

from app import cache
from app.cache import ImageSet, Model, Progress
from bcdnet.checkpoint import CheckpointError
from bcdnet.data import DataError
from bcdnet.data.archive import MAX_IMAGES, read_archive, read_folder
from bcdnet.files import write_atomically

#: Largest files, in megabytes.
PICTURE_MB, CHECKPOINT_MB, IMAGES_MB = 10, 100, 100
#: Models and sets that a session may hold, and images of a set.
MOST, MOST_IMAGES = 4, MAX_IMAGES
#: Pixels that a network may take, and megabytes that the maps of all its layers may take for one image.
MOST_PIXELS, MAPS_MB = 1024 * 1024, 2048


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
        if math.prod(model.config.image_size) > MOST_PIXELS:
            raise UploadError(f"{name} takes images of more than {MOST_PIXELS:,} pixels, which is too many for here.")
        with cache.locked(model):
            pass  # every tensor was read and checked
        values = sum(math.prod(layer.output) for layer in cache.network_cost(model.config).layers)
        if 4 * values > MAPS_MB * 2**20:
            raise UploadError(f"The maps of {name} take more than {MAPS_MB:,} MB for one image, too many for here.")
    except (CheckpointError, UploadError) as error:
        path.unlink()
        raise UploadError(str(error).replace(path.name, name)) from error
    _own("models")[identity] = model
    return model


def remove_model(identity: str) -> None:
    """Forget a model of the reader's, and what was computed with it."""
    model = _own("models").pop(identity, None)
    if model is not None:
        model.path.unlink(missing_ok=True)
        cache.forget_model(model)


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
    try:
        data = read_folder(folder, MOST_IMAGES)
    except DataError as error:
        return str(error)
    return ImageSet(f"folder-{folder}", data.name, data)


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
        data = read_archive(content, _title(name), progress, MOST_IMAGES)
    except DataError as error:
        raise UploadError(str(error)) from error
    images = _own("sets")[key] = ImageSet(key, data.name, data)
    return images


def remove_images(key: str) -> None:
    """Forget a set of the reader's, and what was computed with it."""
    images = _own("sets").pop(key, None)
    if images is not None:
        cache.forget_images(images)
