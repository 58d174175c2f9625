"""Training data that fits in memory: shuffled, mirrored and handed out by whole batches."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class EpochSampler(Sampler[tuple[Tensor, Tensor]]):
    """Batches of (image indices, which to mirror) that depend on seed and epoch alone, so that a run can resume."""

    def __init__(self, n: int, batch_size: int, seed: int, flip: bool) -> None:
        self.n, self.batch_size, self.seed, self.flip = n, min(batch_size, n), seed, flip
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n // self.batch_size  # the rest joins the next epoch's shuffle

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(self.n, generator=generator)[: len(self) * self.batch_size]
        mirror = (torch.rand(len(order), generator=generator) < 0.5) & self.flip
        yield from zip(order.split(self.batch_size), mirror.split(self.batch_size), strict=True)


class MemoryBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Indexed by what :class:`EpochSampler` yields: images (B, C, H, W), labels (B,), teacher logits (B, K or 0).

    Args:
        images: float32 (N, C, H, W), normalised.
        labels: int64 (N,).
        teacher: float32 (2, N, K), the teacher's logits of each image as it is and mirrored; None: no teacher.
    """

    def __init__(self, images: Tensor, labels: Tensor, teacher: Tensor | None) -> None:
        self.images, self.labels = images, labels
        self.teacher = torch.empty(2, len(labels), 0) if teacher is None else teacher

    def __getitem__(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        index, mirror = batch
        images = self.images[index]
        images[mirror] = images[mirror].flip(-1)
        return images, self.labels[index], self.teacher[mirror.long(), index]


def loader(dataset: MemoryBatches, batch_size: int, seed: int, flip: bool) -> DataLoader:
    """A loader whose sampler yields whole batches, so nothing is collated."""
    sampler = EpochSampler(len(dataset.labels), batch_size, seed, flip)
    return DataLoader(dataset, sampler=sampler, batch_size=None)
