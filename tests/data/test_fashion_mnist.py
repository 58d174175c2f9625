import dataclasses
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bcdnet.data import FASHION_MNIST, DataError, MissingData, decode_image, fashion_mnist, open_dataset
from bcdnet.files import assets_dir

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def write_set(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    (root / IMAGES).write_bytes(gzip.compress(struct.pack(">4I", 0x0803, *images.shape) + images.tobytes()))
    (root / LABELS).write_bytes(gzip.compress(struct.pack(">2I", 0x0801, len(labels)) + labels.tobytes()))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    write_set(tmp_path, rng.integers(0, 256, (7, 28, 28), dtype=np.uint8), np.arange(7, dtype=np.uint8))
    return tmp_path


def test_the_shipped_test_set_is_complete() -> None:
    images, labels = fashion_mnist.load("test")
    assert images.shape == (10_000, 28, 28) and images.dtype == np.uint8
    assert labels.dtype == np.int64 and np.bincount(labels).tolist() == [1000] * 10
    assert labels[:5].tolist() == [9, 2, 1, 1, 6]  # ankle boot, pullover, trouser, trouser, shirt


def test_no_shipped_image_would_be_taken_for_one_on_a_bright_background() -> None:
    # `view` of an exported test image must equal `batch` of it, and `batch` never inverts.
    images, _ = fashion_mnist.load("test")
    border = np.concatenate([images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1)
    assert np.median(border, axis=1).max() <= 127.5


def test_the_normalisation_is_that_of_the_training_set() -> None:
    try:
        images, labels = fashion_mnist.load("train")
    except MissingData as error:
        pytest.skip(str(error))
    assert images.shape == (60_000, 28, 28) and np.bincount(labels).tolist() == [6000] * 10
    counts = np.bincount(images.reshape(-1), minlength=256)
    values = np.arange(256)
    total, squares = int(counts @ values), int(counts @ values**2)
    assert (images.size, total, squares) == (47_040_000, 3_431_114_169, 631_470_052_347)
    mean = total / images.size / 255
    std = (squares / images.size - (total / images.size) ** 2) ** 0.5 / 255
    assert FASHION_MNIST.mean == pytest.approx((mean,), abs=1e-15)
    assert FASHION_MNIST.std == pytest.approx((std,), abs=1e-15)


def test_root_and_environment(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(fashion_mnist.load("test", tiny)[1]) == 7
    monkeypatch.setenv("BCDNET_DATA", str(tiny))
    assert len(fashion_mnist.load("test")[1]) == 7
    nested = tmp_path / "sets" / "fashion-mnist"
    nested.mkdir(parents=True)
    for name in (IMAGES, LABELS):
        (tiny / name).rename(nested / name)
    monkeypatch.setenv("BCDNET_DATA", str(nested.parent))
    assert len(fashion_mnist.load("test")[1]) == 7


def test_missing_files_are_named_with_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCDNET_DATA", raising=False)
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        fashion_mnist.load("test", tmp_path)
    monkeypatch.setattr(fashion_mnist, "SYSTEM_DIR", tmp_path)
    with pytest.raises(DataError, match=r"train-images.*dataset-fashion-mnist"):
        fashion_mnist.load("train")


def test_unknown_split() -> None:
    with pytest.raises(DataError, match="'val'"):
        fashion_mnist.load("val")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"not gzip at all", "cannot be unpacked"),
        (gzip.compress(b"\0" * 200)[:-9], "cannot be unpacked|not an IDX"),
        (gzip.compress(b""), "not an IDX"),
        (gzip.compress(struct.pack(">4I", 0x0D03, 7, 28, 28)), "not an IDX"),
        (gzip.compress(struct.pack(">4I", 0x0803, 7, 32, 28)), "announces"),
        (gzip.compress(struct.pack(">4I", 0x0803, 2**31, 28, 28)), "announces"),
        (gzip.compress(struct.pack(">4I", 0x0803, 7, 28, 28) + bytes(7 * 784 - 1)), "does not hold"),
        (gzip.compress(struct.pack(">4I", 0x0803, 7, 28, 28) + bytes(7 * 784 + 1)), "does not hold"),
        (gzip.compress(struct.pack(">4I", 0x0803, 6, 28, 28) + bytes(6 * 784)), "7 labels"),
    ],
)
def test_damaged_files_are_refused(tiny: Path, content: bytes, complaint: str) -> None:
    (tiny / IMAGES).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        fashion_mnist.load("test", tiny)


def test_truncated_gzip_is_refused(tiny: Path) -> None:
    whole = (tiny / IMAGES).read_bytes()
    (tiny / IMAGES).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"):
        fashion_mnist.load("test", tiny)


def test_a_label_above_nine_is_refused(tiny: Path) -> None:
    write_set(tiny, np.zeros((1, 28, 28), np.uint8), np.array([10], np.uint8))
    with pytest.raises(DataError, match="label 10"):
        fashion_mnist.load("test", tiny)


def test_dataset_and_its_batches() -> None:
    data = open_dataset("fashion-mnist")
    assert data.name == "fashion-mnist" and data.classes == fashion_mnist.CLASSES
    assert len(data) == len(data.images) == len(data.labels) == 10_000
    batches = list(data.batches(FASHION_MNIST, 3000))
    assert [len(y) for _, y in batches] == [3000, 3000, 3000, 1000]
    x, y = batches[3]
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and y.tolist() == data.labels[9000:].tolist()
    assert torch.equal(x[5], FASHION_MNIST.tensor(data.images[9005]))


def test_batches_of_another_size_are_resized(tiny: Path) -> None:
    data = fashion_mnist.dataset("test", tiny)
    larger = dataclasses.replace(FASHION_MNIST, image_size=(56, 42))
    (x, _), *_ = data.batches(larger, 4)
    assert x.shape == (4, 1, 56, 42)
    assert torch.equal(x[2], dataclasses.replace(larger, invert="never").tensor(data.images[2]))
    with pytest.raises(ValueError, match="batch_size"):
        next(data.batches(larger, 0))


def test_sample_images_are_the_test_images_they_are_named_after() -> None:
    images, labels = fashion_mnist.load("test")
    samples = sorted((assets_dir() / "images").glob("*.png"))
    classes = set()
    for path in samples:
        slug, index = path.stem.rsplit("-", 1)
        decoded = decode_image(path)
        assert np.array_equal(np.asarray(decoded.image.convert("L")), images[int(index)])
        assert fashion_mnist.CLASSES[labels[int(index)]].lower().replace("/", "-").replace(" ", "-") == slug
        assert torch.equal(FASHION_MNIST.tensor(decoded.image), FASHION_MNIST.batch(images[int(index)][None])[0])
        classes.add(slug)
    assert len(classes) == 10
    assert Image.open(samples[0]).mode == "L"
