"""What a run reads, and in which order."""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bcdnet.data import ArrayImages, Dataset, Preprocess
from bcdnet.training import samples as reading
from bcdnet.training.augment import AUGMENTATIONS
from bcdnet.training.samples import Batch, BatchSampler, Samples, training_loader

PLAIN = Preprocess((14, 14), 1, mean=(0.0,), std=(1.0,))
ALL_BUT_CROP = ("shift", "colour", "flip_vertical", "flip")


def dataset(n: int = 12, shape: tuple[int, ...] = (14, 14)) -> Dataset:
    pixels = np.random.default_rng(1).integers(0, 256, (n, *shape), np.uint8)
    return Dataset("noise", ("a", "b", "c"), ArrayImages(pixels), np.arange(n, dtype=np.int64) % 3)


def keys(batch_size: int, stop: int, n: int = 50, seed: int = 3, start: int = 0, **share: int) -> list[list[Any]]:
    return list(BatchSampler(n, batch_size, seed, start, stop, **share))


def equal(one: Batch, other: Batch) -> bool:
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("images", "labels", "indices", "mirrored"))
    return all(torch.equal(first, second) for first, second in pairs)


def test_the_order_depends_on_seed_and_iteration_alone() -> None:
    whole = keys(16, 9)
    assert whole == keys(16, 9)
    assert whole != keys(16, 9, seed=4)
    for start in range(9):  # resumed at any iteration
        assert keys(16, 9, start=start) == whole[start:]
    assert [{epoch for epoch, _ in batch} for batch in whole] == [{0}] * 3 + [{1}] * 3 + [{2}] * 3
    assert whole[:3] != [[(0, index) for _, index in batch] for batch in whole[3:6]]


def test_an_epoch_holds_no_image_twice() -> None:
    for n, batch_size in ((50, 16), (48, 16), (16, 16)):
        each = n // batch_size
        for epoch in range(4):
            drawn = list(chain(*keys(batch_size, each * (epoch + 1), n=n, start=each * epoch)))
            assert len({index for _, index in drawn}) == len(drawn) == each * batch_size
            assert {index for _, index in drawn} <= set(range(n))
    left_out = [set(range(50)) - {i for _, i in chain(*keys(16, 3 * e + 3, start=3 * e))} for e in range(40)]
    # Two of 50 wait each time; which ones changes, so that in 40 epochs nearly all images have their turn.
    assert all(len(two) == 2 for two in left_out) and len(set.union(*left_out)) > 35


@pytest.mark.parametrize(("parts", "processes"), [(1, 2), (2, 1), (2, 2), (4, 2)])
def test_parts_and_processes_share_a_batch_out(parts: int, processes: int) -> None:
    shares = [keys(16, 6, start=1, parts=parts, process=p, processes=processes) for p in range(processes)]
    assert all(len(share) == 5 * parts for share in shares)
    for iteration, batch in enumerate(keys(16, 6, start=1)):
        mine = [share[iteration * parts + part] for part in range(parts) for share in shares]
        assert all(len(piece) == 16 // parts // processes for piece in mine)
        assert list(chain(*mine)) == batch


def test_the_length_is_what_it_yields() -> None:
    sampler = BatchSampler(50, 16, 0, start=4, stop=11, parts=2)
    assert len(sampler) == len(list(sampler)) == 14


def test_pictures_are_normalised_with_their_labels_and_never_inverted() -> None:
    bright = Dataset("bright", ("a", "b"), ArrayImages(np.full((2, 14, 14), 255, np.uint8)), np.array([1, 0]))
    how = Preprocess((14, 14), 1, mean=(0.25,), std=(0.5,), invert="auto")  # would turn a bright border dark
    batch = Samples(bright, how).__getitems__([(0, 1), (0, 0)])
    assert torch.equal(batch.images, torch.full((2, 1, 14, 14), 1.5))  # (1 - 0.25) / 0.5
    assert batch.labels.tolist() == [0, 1] and batch.indices.tolist() == [1, 0]
    assert batch.mirrored.tolist() == [False, False]
    assert (batch.images.dtype, batch.labels.dtype, batch.mirrored.dtype) == (torch.float32, torch.int64, torch.bool)


def test_mirrored_says_which_pictures_are() -> None:
    samples = Samples(dataset(), PLAIN, ("flip",))
    plain = Samples(dataset(), PLAIN).__getitems__([(0, index) for index in range(12)]).images
    mirrored = 0
    for epoch in range(20):
        batch = samples.__getitems__([(epoch, index) for index in range(12)])
        for image, original, flipped in zip(batch.images, plain, batch.mirrored, strict=True):
            assert torch.equal(image, original.flip(-1) if flipped else original)
            mirrored += int(flipped)
    assert 90 < mirrored < 150  # half of 240, give or take four standard deviations


@pytest.mark.parametrize("augmentations", [ALL_BUT_CROP, AUGMENTATIONS], ids=["kept", "decoded"])
def test_a_picture_depends_on_seed_epoch_and_index_alone(augmentations: tuple[str, ...]) -> None:
    data = dataset(shape=(14, 14, 3))
    colours = Preprocess((14, 14), 3, mean=(0.0,) * 3, std=(1.0,) * 3)

    def draw(wanted: list[tuple[int, int]], seed: int = 5, samples: Samples | None = None) -> Batch:
        return (samples or Samples(data, colours, augmentations, seed)).__getitems__(wanted)

    wanted = [(epoch, index) for epoch in range(3) for index in range(12)]
    used = Samples(data, colours, augmentations, 5)
    backwards = draw(wanted[::-1], samples=used).images.flip(0)  # another order, and other draws before
    again = draw(wanted, samples=used)
    assert torch.equal(again.images, backwards)
    assert equal(again, draw(wanted))
    assert len({image.numpy().tobytes() for image in again.images}) == 36  # no epoch repeats another
    assert not torch.equal(again.images, draw(wanted, seed=6).images)


def test_kept_pictures_stay_as_they_are() -> None:
    samples = Samples(dataset(), PLAIN, ALL_BUT_CROP)
    first = {}
    for index in range(12):
        samples.__getitems__([(0, index)])
        assert samples._kept is not None
        first[index] = samples._kept[index].tobytes()
    samples.__getitems__([(epoch, index) for epoch in range(1, 20) for index in range(12)])
    assert {index: image.tobytes() for index, image in samples._kept.items()} == first
    originals = dataset().images
    assert all(first[index] == originals[index].tobytes() for index in range(12))


def test_what_is_cropped_anew_or_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Samples(dataset(), PLAIN, ("resized_crop", "flip"))._kept is None
    monkeypatch.setattr("bcdnet.training.samples.KEPT_BYTES", 12 * 14 * 14 - 1)
    assert Samples(dataset(), PLAIN, ("flip",))._kept is None
    monkeypatch.setattr("bcdnet.training.samples.KEPT_BYTES", 12 * 14 * 14)
    assert Samples(dataset(), PLAIN, ("flip",))._kept == {}


def test_workers_load_what_one_process_loads() -> None:
    def batches(workers: int) -> list[Batch]:
        samples = Samples(dataset(), PLAIN, AUGMENTATIONS, seed=2)
        return list(training_loader(samples, BatchSampler(12, 4, 2, 1, 7, parts=2), workers, pin=False))

    alone = batches(0)
    assert len(alone) == 12 and all(batch.images.shape == (2, 1, 14, 14) for batch in alone)
    assert all(equal(one, other) for one, other in zip(alone, batches(2), strict=True))


@pytest.mark.parametrize("processes", [1, 2, 3, 13])
def test_processes_share_a_test_set_out(processes: int) -> None:
    samples = Samples(dataset(), PLAIN)
    shares = [
        [batch.indices.tolist() for batch in reading.test_loader(samples, 5, 0, False, process, processes)]
        for process in range(processes)
    ]
    assert sorted(chain(*chain(*shares))) == list(range(12))
    assert all(len(batch) <= 5 for share in shares for batch in share)


@dataclass(frozen=True)
class Photographs:
    """Pictures of several sizes, as files are."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int, /) -> Image.Image:
        return Image.new("RGB", (30 + 10 * index, 20), (index, 100, 200))


def test_pictures_of_any_size_become_one_batch() -> None:
    data = Dataset("photographs", ("a",), Photographs(), np.zeros(3, np.int64))
    colours = Preprocess((14, 14), 3, mean=(0.0,) * 3, std=(1.0,) * 3)
    wanted = [(0, 0), (0, 1), (0, 2)]
    for augmentations in ((), ("resized_crop",)):
        images = Samples(data, colours, augmentations).__getitems__(wanted).images
        assert images.shape == (3, 3, 14, 14)
        # One colour stays that colour however it is cropped: (index, 100, 200) / 255.
        expected = torch.tensor([[index, 100, 200] for index in range(3)]) / 255
        torch.testing.assert_close(images, expected[:, :, None, None].expand(3, 3, 14, 14))
    grey = Samples(data, PLAIN, ("resized_crop",)).__getitems__(wanted).images
    assert grey.shape == (3, 1, 14, 14)
