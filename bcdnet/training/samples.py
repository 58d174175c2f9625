"""What a run reads, and in which order: a function of seed, iteration and process alone, so that it can stop anywhere.

Epoch ``e`` is a permutation of the images drawn from (seed, e). Iteration ``i`` takes the next ``batch_size`` of them;
what is left at the end of an epoch, fewer than a batch, waits for the next permutation. Processes and accumulated parts
share one batch out among them.
"""

import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from bcdnet.data import DataError, Dataset, Preprocess
from bcdnet.training import augment

Key = tuple[int, int]  # epoch, image
#: Decoded pictures of a set smaller than this are kept.
KEPT_BYTES = 512 << 20
#: How long a worker goes on loading after a SIGTERM, so that the iteration can end.
GRACE_SECONDS = 60


@dataclass(frozen=True)
class Batch:
    """``images`` float32 (B, C, H, W), normalised; ``labels``, ``indices`` int64 (B,); ``mirrored`` bool (B,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    mirrored: Tensor

    def pin_memory(self) -> "Batch":
        """For the loader, which copies pinned memory to a GPU while it computes."""
        return Batch(*(part.pin_memory() for part in (self.images, self.labels, self.indices, self.mirrored)))


class BatchSampler(Sampler[list[Key]]):
    """The parts of iterations ``start`` to ``stop`` that one process reads.

    Args:
        n: images.
        batch_size: images of an iteration, over all processes; a multiple of ``parts * processes``.
        seed: of the permutations.
        start, stop: iterations.
        parts: of an iteration, whose gradients are accumulated.
        process, processes: which of how many.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        parts: int = 1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.start, self.stop, self.parts = start, stop, parts
        self.process, self.processes = process, processes

    def __len__(self) -> int:
        return (self.stop - self.start) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        each, drawn = self.n // self.batch_size, -1
        order = np.empty(0, np.int64)
        for iteration in range(self.start, self.stop):
            epoch, place = divmod(iteration, each)
            if epoch != drawn:
                order, drawn = np.random.default_rng((self.seed, epoch)).permutation(self.n), epoch
            batch = order[place * self.batch_size : (place + 1) * self.batch_size]
            for part in batch.reshape(self.parts, self.processes, -1):
                yield [(epoch, int(index)) for index in part[self.process]]


class Samples(TorchDataset[Batch]):
    """Images of a data set as a network is trained on them; indexed by lists of keys, whole batches at once.

    Args:
        dataset: labelled images.
        preprocess: size and normalisation. Nothing is inverted: training images are the network's own kind.
        augmentations: names from :data:`augment.AUGMENTATIONS`.
        seed: of their random numbers.
    """

    def __init__(
        self, dataset: Dataset, preprocess: Preprocess, augmentations: tuple[str, ...] = (), seed: int = 0
    ) -> None:
        self.dataset, self.preprocess = dataset, replace(preprocess, invert="never")
        self.augmentations, self.seed = augmentations, seed
        height, width = preprocess.image_size
        fixed = "resized_crop" not in augmentations
        self._kept: dict[int, Image.Image] | None = (
            {} if fixed and len(dataset) * height * width * preprocess.channels <= KEPT_BYTES else None
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[Key]) -> Batch:
        """The batch of these keys."""
        pictures, mirrored = zip(*(self._picture(epoch, index) for epoch, index in keys), strict=True)
        indices = np.array([index for _, index in keys], np.int64)
        images = self.preprocess.batch(np.stack([np.asarray(picture) for picture in pictures]))
        labels = torch.from_numpy(self.dataset.labels[indices])
        return Batch(images, labels, torch.from_numpy(indices), torch.tensor(mirrored))

    def _picture(self, epoch: int, index: int) -> tuple[Image.Image, bool]:
        wanted = self.augmentations
        if not wanted:
            return self._view(index), False
        random = np.random.default_rng((self.seed, epoch, index))
        if "resized_crop" in wanted:
            mode = "L" if self.preprocess.channels == 1 else "RGB"
            whole = self.dataset.images[index].convert(mode)
            image = augment.resized_crop(whole, self.preprocess.image_size, random)
        else:
            image = self._view(index)
        if "shift" in wanted:
            image = augment.shift(image, random)
        if "colour" in wanted:
            image = augment.colour(image, random)
        if "flip_vertical" in wanted and random.random() < 0.5:
            image = augment.flip_vertical(image)
        mirrored = "flip" in wanted and bool(random.random() < 0.5)
        return augment.flip(image) if mirrored else image, mirrored

    def _view(self, index: int) -> Image.Image:
        if self._kept is None:
            return self.preprocess.view(self.dataset.images[index]).image
        if index not in self._kept:
            self._kept[index] = self.preprocess.view(self.dataset.images[index]).image
        return self._kept[index]


Batches = Generator[Batch, None, None]


def training_loader(samples: Samples, sampler: BatchSampler, workers: int, pin: bool) -> Batches:
    """Loads what the sampler yields. Close it to end its workers; raises DataError for a picture that is damaged."""
    return _loader(samples, sampler, workers, pin)


def test_loader(
    samples: Samples, batch_size: int, workers: int, pin: bool, process: int = 0, processes: int = 1
) -> Batches:
    """One process's share of a test set, each image once; to be closed, and raises, as :func:`training_loader`."""
    keys = [(0, index) for index in range(process, len(samples), processes)]
    return _loader(samples, [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)], workers, pin)


def _loader(samples: Samples, batches: Sampler[list[Key]] | list[list[Key]], workers: int, pin: bool) -> Batches:
    # The batch comes whole from Samples.__getitems__, so there is nothing to collate.
    ahead = 4 if workers else None
    loader = DataLoader(
        _Tried(samples),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_as_it_is,
        prefetch_factor=ahead,
        worker_init_fn=_leave_signals_alone,
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


@dataclass(frozen=True)
class _Tried(TorchDataset[Batch | DataError]):
    """Samples whose complaint is handed over: raised in a worker, it would arrive as the text of a traceback."""

    samples: Samples

    def __getitems__(self, keys: list[Key]) -> Batch | DataError:
        try:
            return self.samples.__getitems__(keys)
        except DataError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_alone(_: int) -> None:
    # A terminal sends Ctrl+C to all processes, a batch system SIGTERM; the one that trains decides when to end, and
    # still needs its images. It closes its loader then, and a worker that nobody closes ends by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
