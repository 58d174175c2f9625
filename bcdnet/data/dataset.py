"""What every data set looks like to the rest of the project."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from bcdnet.data.transforms import Preprocess


class DataError(ValueError):
    """A data set is missing or unusable; the message is one sentence that says what to do."""


class ImageSource(Protocol):
    """Images by index, decoded when asked for: mode L or RGB."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Image.Image: ...

    def identity(self) -> bytes:
        """What tells these images from others: the pixels in memory, else the names of their files."""
        ...


@dataclass(frozen=True)
class ArrayImages:
    """Images that lie in memory: `pixels` is uint8 (N, H, W) or (N, H, W, 3)."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int, /) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def identity(self) -> bytes:
        """All pixels, in order."""
        return self.pixels.tobytes()


@dataclass(frozen=True)
class Dataset:
    """Labelled images. `labels` is int64 (N,), each an index into `classes`; `notes` says what was left out."""

    name: str
    classes: tuple[str, ...]
    images: ImageSource
    labels: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def class_indices(self, names: Sequence[str]) -> list[int]:
        """For each class its index among ``names``, the classes of a network.

        Names of folders cannot hold every character, so letters and digits may do: "tshirttop" is "T-shirt/top".
        Raises DataError for a class that is not among them.
        """
        index = {_plain(name): number for number, name in enumerate(names)}
        index |= {name: number for number, name in enumerate(names)}
        found = [index.get(name, index.get(_plain(name))) for name in self.classes]
        if None in found:
            unknown = self.classes[found.index(None)]
            raise DataError(f"the network has no class {unknown!r} as {self.name} does; it has {', '.join(names)}.")
        return [number for number in found if number is not None]

    def batches(self, preprocess: Preprocess, batch_size: int = 256) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images once, in order: pairs of float32 (n, C, H, W) and int64 (n,), n <= batch_size.

        Images in memory are the network's own kind and are never inverted; files are read as uploads would be.
        Raises ValueError for batch_size < 1 and DataError at the first file that cannot be read.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        in_memory = self.images.pixels if isinstance(self.images, ArrayImages) else None
        if in_memory is not None:
            preprocess = replace(preprocess, invert="never")
        for start in range(0, len(self), batch_size):
            stop = min(start + batch_size, len(self))
            if in_memory is not None and _fits(in_memory, preprocess):
                x = preprocess.batch(in_memory[start:stop])
            else:
                x = torch.stack([preprocess.tensor(self.images[i]) for i in range(start, stop)])
            yield x, torch.from_numpy(self.labels[start:stop].copy())


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _fits(pixels: np.ndarray, preprocess: Preprocess) -> bool:
    """Whether `batch` gives what `tensor` would: same size, no rescaling before the crop, no change of colours."""
    return (
        preprocess.resize is None
        and pixels.shape[1:3] == preprocess.image_size
        and pixels.shape[3:] in ((), (preprocess.channels,))
    )
