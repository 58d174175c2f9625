"""Teachers, whose softmax ``fc_dist`` learns: a checkpoint of ours, or any image classifier of Hugging Face."""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bcdnet.checkpoint import listing, load
from bcdnet.data import Dataset, Preprocess
from bcdnet.evaluate import model_preprocess
from bcdnet.training.samples import Samples
from bcdnet.training.state import write_or_stop

#: What names a Hugging Face model in a recipe: ``hf:NAME`` or ``hf:FOLDER``.
HUGGING_FACE = "hf:"


class TeacherError(ValueError):
    """A teacher that is missing or cannot teach this network; the message is one sentence that says what to do."""


class Teacher(nn.Module):
    """Logits of a frozen network for images that were normalised for another one.

    Args:
        network: float images (N, C', H', W') -> logits (N, K).
        ours: preprocessing of the images that come in.
        mean, std: per channel, of those the network was trained on.
        size: (height, width) it needs; None if it takes any.
    """

    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        network: nn.Module,
        ours: Preprocess,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.size, self.channels = network, size, len(mean)
        # (x * s + m - m') / s' = x * scale + bias, with one grey channel serving three.
        shape = (1, -1, 1, 1)
        inner, outer = torch.tensor(std).reshape(shape), torch.tensor(ours.std).reshape(shape)
        self.same = tuple(mean) == ours.mean and tuple(std) == ours.std
        self.register_buffer("scale", outer / inner)
        apart = torch.tensor(ours.mean).reshape(shape) - torch.tensor(mean).reshape(shape)
        self.register_buffer("bias", apart / inner)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in eval mode: running statistics, no dropout."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        x = images if self.same else images * self.scale + self.bias
        if self.size is not None and tuple(x.shape[-2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.network(x.to(memory_format=torch.channels_last))


def load_teacher(name: str, path: Path, ours: Preprocess, num_classes: int) -> Teacher:
    """The teacher that a recipe names.

    Args:
        name: as in the recipe.
        path: of the checkpoint, unless the name starts with ``hf:``.
        ours: preprocessing of the images it will be given.
        num_classes: logits it must have.

    Raises:
        TeacherError, CheckpointError: it is missing, or does not fit.
    """
    if name.startswith(HUGGING_FACE):
        teacher, classes = _hugging_face(name.removeprefix(HUGGING_FACE), ours)
    else:
        network = load(path)
        how, classes = model_preprocess(network), network.config.num_classes
        if how.channels not in (1, 3) or (how.channels < ours.channels):
            raise TeacherError(f"the teacher {name} reads {how.channels} channel, the network {ours.channels}.")
        size = None if how.image_size == ours.image_size else how.image_size
        teacher = Teacher(network, ours, how.mean, how.std, size)
    if classes != num_classes:
        raise TeacherError(f"the teacher {name} knows {classes} classes, the network {num_classes}; name another one.")
    return teacher


class _Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).logits


def _hugging_face(source: str, ours: Preprocess) -> tuple[Teacher, int]:
    try:
        from transformers import AutoModelForImageClassification
        from transformers.image_processing_base import ImageProcessingMixin
    except ImportError as error:
        raise TeacherError("teachers of Hugging Face need the package transformers; install it with pip.") from error
    try:
        how: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(source)[0]
        # Weights as safetensors only, and no code from the model's folder.
        network, report = AutoModelForImageClassification.from_pretrained(
            source, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        if absent := sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])}):
            raise ValueError(f"its weights lack {listing(absent)}")  # they would be random
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TeacherError(
            f"the teacher {HUGGING_FACE}{source} cannot be had ({reason}); name a folder with config.json, "
            "preprocessor_config.json and model.safetensors, or a model's name where the network can be reached."
        ) from error
    if how.get("do_normalize", True):
        mean, std = (tuple(map(float, how.get(key, (0.5, 0.5, 0.5)))) for key in ("image_mean", "image_std"))
    else:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if ours.channels not in (1, len(mean)):
        raise TeacherError(f"the teacher {source} reads {len(mean)} channels, the network {ours.channels}.")
    fixed = getattr(network.config, "image_size", None)  # transformers of images know one size only
    size = (fixed, fixed) if isinstance(fixed, int) else tuple(fixed) if fixed else None
    return Teacher(_Logits(network), ours, mean, std, size), int(network.config.num_labels)


def kept_logits(path: Path, digest: str, teacher: Teacher, dataset: Dataset, how: Preprocess, makes: bool) -> Tensor:
    """:func:`cached_logits` from a file of a run, which one process makes once for all that train, now or resumed.

    Args:
        path: of the file.
        digest: of the teacher's weights.
        teacher, dataset, how: as for :func:`cached_logits`.
        makes: False for the processes that wait for the file.

    Raises:
        TeacherError: it would not fit into the memory.
        NotSaved: the disk does not take it.
    """
    whole = hashlib.sha256(json.dumps([digest, dataset.name, dataset.classes, how.to_dict()]).encode())
    whole.update(dataset.labels.tobytes() + dataset.images.identity())
    size = 2 * len(dataset) * len(dataset.classes) * 4
    while (logits := _read_logits(path, whole.hexdigest())) is None:
        if not makes:
            time.sleep(1)
            continue
        free = _free_memory()
        if free is not None and 2 * size > free:  # once as numbers and once as the file's content
            raise TeacherError(
                f"teacher_cache takes {size / 1e9:,.1f} GB, and as much again while it is written, but only "
                f"{free / 1e9:,.1f} GB of memory are free; leave it out."
            )
        print(
            f"the teacher answers in advance for {len(dataset):,} images and their mirror images: {size / 1e6:,.1f} MB",
            file=sys.stderr,
        )
        answers = cached_logits(teacher, dataset, how)
        write_or_stop(path, safetensors.torch.save({"logits": answers}, {"digest": whole.hexdigest()}))
    return logits


def _read_logits(path: Path, digest: str) -> Tensor | None:
    try:
        with safe_open(path, "pt") as file:
            same = (file.metadata() or {}).get("digest") == digest
            return file.get_tensor("logits") if same else None
    except (OSError, SafetensorError):
        return None  # not there, or damaged


def _free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


@torch.inference_mode()
def cached_logits(teacher: Teacher, dataset: Dataset, preprocess: Preprocess, batch_size: int = 250) -> Tensor:
    """Logits (2, N, K) of every image as it is and mirrored, so that the teacher runs once, not once an epoch."""
    samples = Samples(dataset, preprocess)
    device = teacher.scale.device
    answers: Tensor | None = None
    for start in range(0, len(dataset), batch_size):
        keys = [(0, index) for index in range(start, min(start + batch_size, len(dataset)))]
        images = samples.__getitems__(keys).images.to(device)
        both = torch.stack([teacher(images), teacher(images.flip(-1))]).float().cpu()
        if answers is None:  # made once, as it may take half the memory
            answers = both.new_empty(2, len(dataset), both.shape[-1])
        answers[:, start : start + len(keys)] = both
    assert answers is not None
    return answers
