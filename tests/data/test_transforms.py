import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bcdnet.data import FASHION_MNIST, IMAGENET, Preprocess

PLAIN = Preprocess((4, 6), 3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("preprocess", [PLAIN, IMAGENET, FASHION_MNIST])
def test_json_round_trip(preprocess: Preprocess) -> None:
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": (0, 4)},
        {"image_size": (4,)},
        {"image_size": ("4", 4)},
        {"channels": 2},
        {"mean": (0.5,)},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"mean": ("a", 0.0, 0.0)},
        {"resize": 5},
        {"crop": "random"},
        {"invert": "always"},
        {"flip": True},
        {"std": None},
    ],
)
def test_impossible_fields_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Preprocess.from_dict({**PLAIN.to_dict(), **change})


def test_missing_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size"):
        Preprocess.from_dict({"channels": 1})


def test_a_native_grey_image_is_seen_as_it_is() -> None:
    pixels = np.random.default_rng(1).integers(0, 100, (5, 28, 28), dtype=np.uint8)
    batch = FASHION_MNIST.batch(pixels)
    assert batch.shape == (5, 1, 28, 28) and batch.dtype == torch.float32 and batch.is_contiguous()
    for i in range(5):
        for image in (Image.fromarray(pixels[i]), Image.fromarray(pixels[i]).convert("RGB")):
            view = FASHION_MNIST.view(image)
            assert np.array_equal(np.asarray(view.image), pixels[i])
            assert view.box == (0, 0, 28, 28) and view.notes == ()
            assert torch.equal(FASHION_MNIST.tensor(image), batch[i])


def test_normalisation_by_hand() -> None:
    preprocess = Preprocess((1, 2), 3, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    x = preprocess.batch(np.array([[[[255, 0, 0], [0, 255, 255]]]], dtype=np.uint8))
    expected = torch.tensor([[[[1.0, -1.0]], [[-1.0, 3.0]], [[0.0, 0.5]]]])
    assert torch.equal(x, expected)


def test_grey_batches_serve_networks_of_three_channels() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 4, 6), dtype=np.uint8)
    x = PLAIN.batch(pixels)
    assert x.shape == (2, 3, 4, 6)
    assert torch.equal(x[0], PLAIN.tensor(Image.fromarray(pixels[0])))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 4, 6), np.float32),
        np.zeros((4, 6), np.uint8),
        np.zeros((1, 6, 4), np.uint8),
        np.zeros((1, 4, 6, 1), np.uint8),
    ],
)
def test_batch_refuses_other_types_and_shapes(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="batch"):
        PLAIN.batch(pixels)


def test_denormalise_undoes_normalisation() -> None:
    image = noise(224, 224)
    preprocess = dataclasses.replace(IMAGENET, resize=None)
    restored = preprocess.denormalise(preprocess.tensor(image).requires_grad_())
    assert restored.shape == (224, 224, 3) and restored.dtype == np.float32
    assert np.array_equal(np.rint(restored * 255).astype(np.uint8), np.asarray(image))
    with pytest.raises(ValueError):
        preprocess.denormalise(torch.zeros(1, 4, 4))
    assert FASHION_MNIST.denormalise(torch.full((1, 2, 2), 1e6)).max() == 1


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (231, 1000), (300, 301), (64, 80)])
def test_imagenet_view_equals_resizing_then_cropping(size: tuple[int, int]) -> None:
    image = noise(*size)
    width, height = size
    long = 256 * max(size) // min(size)
    resized = (256, long) if width <= height else (long, 256)
    left, top = round((resized[0] - 224) / 2), round((resized[1] - 224) / 2)
    two_steps = image.resize(resized, Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
    one_step = IMAGENET.view(image).image
    difference = np.abs(np.asarray(two_steps).astype(int) - np.asarray(one_step))
    # Pillow rounds to 8 bits between its two passes, whose order depends on the sizes: one level either way.
    assert difference.max() <= 1


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((60, 40), (0, 0, 60, 40)),
        ((100, 40), (20, 0, 80, 40)),
        ((6, 10), (0, 3, 6, 7)),
        ((3, 1), (0.75, 0, 2.25, 1)),
        ((1, 1), (0, 1 / 6, 1, 5 / 6)),
    ],
)
def test_covering_box_by_hand(size: tuple[int, int], box: tuple[float, float, float, float]) -> None:
    assert PLAIN.view(Image.new("RGB", size)).box == pytest.approx(box, abs=1e-12)


def test_imagenet_box_by_hand() -> None:
    assert IMAGENET.view(Image.new("RGB", (512, 1024))).box == (32, 288, 480, 736)


@pytest.mark.parametrize("preprocess", [PLAIN, IMAGENET, FASHION_MNIST])
@pytest.mark.parametrize("size", [(1, 1), (1, 1_000_000), (1_000_000, 1), (7, 3), (333, 777)])
def test_any_size_gives_the_right_size_and_a_box_inside(preprocess: Preprocess, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    view = preprocess.view(image)
    left, top, right, bottom = view.box
    assert view.image.size == preprocess.image_size[::-1]
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert len(set(view.image.tobytes())) <= 3  # one colour stays one colour


def test_cropping_enlarging_and_lost_colour_are_named() -> None:
    notes = " ".join(FASHION_MNIST.view(Image.new("RGB", (20, 10), (60, 0, 0))).notes)
    assert "50.0%" in notes and "20 × 10" in notes and "grey" in notes


def test_bright_backgrounds_are_inverted_and_reported() -> None:
    photo = Image.new("L", (56, 56), 250)
    photo.paste(40, (14, 14, 42, 42))
    view = FASHION_MNIST.view(photo)
    seen = np.asarray(view.image)
    assert seen[0, 0] == 5 and seen[14, 14] == 215
    assert any("swapped" in note for note in view.notes)
    assert np.asarray(dataclasses.replace(FASHION_MNIST, invert="never").view(photo).image)[0, 0] == 250
    # A bright thing before black is what the network knows: nothing happens.
    known = Image.new("L", (56, 56), 0)
    known.paste(250, (14, 14, 42, 42))
    assert FASHION_MNIST.view(known).notes == ()


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="I;16"):
        FASHION_MNIST.view(Image.new("I;16", (28, 28)))
