"""Every augmentation on pictures small enough to be worked out by hand."""

import colorsys
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bcdnet.training import augment


class Script:
    """Stands in for a random generator: gives the numbers it was made with, in turn."""

    def __init__(self, integers: Iterable[int] = (), uniform: Iterable[float] = (), order: Iterable[int] = ()) -> None:
        self._integers, self._uniform, self._order = iter(integers), iter(uniform), list(order)

    def integers(self, *_: Any) -> int:
        return next(self._integers)

    def uniform(self, *_: Any) -> float:
        return next(self._uniform)

    def permutation(self, n: int) -> list[int]:
        assert n == len(self._order)
        return self._order


def picture(*rows: list[int]) -> Image.Image:
    return Image.fromarray(np.array(rows, np.uint8))


def pixels(image: Image.Image) -> list[list[int]]:
    return np.asarray(image).tolist()


NINE = picture([1, 2, 3], [4, 5, 6], [7, 8, 9])


def test_shift_fills_with_black() -> None:
    # One pixel is a third of the side. The window moves right and up, so the picture moves left and down.
    assert pixels(augment.shift(NINE, Script(integers=[1, -1]), share=1 / 3)) == [[0, 0, 0], [2, 3, 0], [5, 6, 0]]
    assert pixels(augment.shift(NINE, Script(integers=[-1, 0]), share=1 / 3)) == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert pixels(augment.shift(NINE, Script(integers=[0, 0]), share=1 / 3)) == pixels(NINE)


def test_shift_reaches_a_fourteenth_of_each_side_and_no_further() -> None:
    dot = np.zeros((28, 56), np.uint8)
    dot[14, 28] = 255
    places = set()
    for seed in range(600):
        moved = np.asarray(augment.shift(Image.fromarray(dot), np.random.default_rng(seed)))
        ((y, x),) = np.argwhere(moved == 255).tolist()
        places.add((y - 14, x - 28))
    # 28 / 14 = 2 rows and 56 / 14 = 4 columns each way, every combination.
    assert places == set(itertools.product(range(-2, 3), range(-4, 5)))


def test_flips() -> None:
    assert pixels(augment.flip(NINE)) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert pixels(augment.flip_vertical(NINE)) == [[7, 8, 9], [4, 5, 6], [1, 2, 3]]


def test_a_crop_of_everything_is_the_picture() -> None:
    whole = augment.resized_crop(NINE, (3, 3), np.random.default_rng(0), area=(1, 1), ratio=(1, 1))
    assert pixels(whole) == pixels(NINE)


def test_a_crop_by_hand() -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    # A quarter of 64 pixels at ratio exp(0) = 1 is 4x4; its corner is at column 3, row 2.
    crop = augment.resized_crop(image, (4, 4), Script(uniform=[0.25, 0.0], integers=[3, 2]))
    assert pixels(crop) == np.arange(64).reshape(8, 8)[2:6, 3:7].tolist()


@pytest.mark.parametrize(("width", "height", "pixel"), [(101, 1, 50), (1, 101, 50)])
def test_a_strip_falls_back_to_its_middle(width: int, height: int, pixel: int) -> None:
    # 8 % of 101 pixels at a ratio of at most 4/3 are more than 2 pixels high: nothing fits. The central part is 1x1.
    strip = Image.fromarray(np.arange(101, dtype=np.uint8).reshape(height, width))
    assert set(np.asarray(augment.resized_crop(strip, (4, 6), np.random.default_rng(0))).ravel()) == {pixel}


def test_the_fallback_is_the_largest_central_part_of_an_allowed_ratio() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 40), np.uint8))
    # All of the area never fits; 9 rows at 4/3 are 12 columns, (40 - 12) / 2 = 14 from the left.
    crop = augment.resized_crop(image, (9, 12), np.random.default_rng(0), area=(1, 1))
    assert pixels(crop) == np.asarray(image)[:, 14:26].tolist()


def test_crops_keep_to_the_picture_the_area_and_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[tuple[int, int, int, int]] = []
    resize = Image.Image.resize

    def recording(self: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        boxes.append(options["box"])
        return resize(self, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", recording)
    image = Image.new("RGB", (1000, 800))
    for seed in range(400):
        assert augment.resized_crop(image, (5, 7), np.random.default_rng(seed)).size == (7, 5)
    assert len(boxes) == 400
    assert all(0 <= left < right <= 1000 and 0 <= top < bottom <= 800 for left, top, right, bottom in boxes)
    sizes = [(right - left, bottom - top) for left, top, right, bottom in boxes]
    areas = [width * height / 800_000 for width, height in sizes]
    ratios = [width / height for width, height in sizes]
    # Whole pixels: a side of at least 219 is rounded by half a pixel, 0.3 % at the most.
    assert 0.0795 < min(areas) < 0.1 and 0.9 < max(areas) <= 1
    assert 0.747 < min(ratios) < 0.77 and 1.3 < max(ratios) < 1.338


def test_colour_changes_a_grey_by_its_brightness_alone() -> None:
    for mode, value in (("L", 100), ("RGB", (100, 100, 100))):
        seen = set()
        for seed in range(200):
            changed = np.asarray(augment.colour(Image.new(mode, (2, 2), value), np.random.default_rng(seed)))
            assert changed.min() == changed.max()  # also over red, green and blue: a grey has no hue
            seen.add(int(changed.min()))
        # 100 times 0.8 to 1.2; the contrast of an even picture is around its own grey.
        assert 79 <= min(seen) < 83 and 117 < max(seen) <= 120


def test_colour_turns_the_hue_by_a_tenth_of_the_circle_at_most() -> None:
    red, hues = Image.new("RGB", (1, 1), (255, 0, 0)), []
    for seed in range(200):
        turned = augment.colour(red, np.random.default_rng(seed), brightness=0, contrast=0, saturation=0)
        hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in turned.getpixel((0, 0))))
        assert (saturation, value) == (1, 1)
        hues.append((hue + 0.5) % 1 - 0.5)
    # The picture library keeps 256 hues, so a tenth is 26 / 255 of its circle.
    assert -0.105 < min(hues) < -0.09 and 0.09 < max(hues) < 0.105


def test_colour_by_hand() -> None:
    ones = [1.0, 1.0, 1.0]
    red = Image.new("RGB", (1, 1), (255, 0, 0))
    third = augment.colour(red, Script(order=[3, 0, 1, 2], uniform=[1 / 3, *ones]))
    assert third.getpixel((0, 0)) == (0, 255, 0)
    # Pillow's grey of pure red is 255 * 0.299 = 76; a saturation of 0.8 goes a fifth of the way there.
    pale = augment.colour(red, Script(order=[2, 0, 1, 3], uniform=[0.8, 1.0, 1.0, 0.0]))
    assert pale.getpixel((0, 0)) == pytest.approx((255 * 0.8 + 76 * 0.2, 76 * 0.2, 76 * 0.2), abs=1)
    # Contrast around the mean of 100 and 200.
    two = picture([100, 200])
    flat = augment.colour(two, Script(order=[1, 0, 2, 3], uniform=[0.8, 1.0, 1.0, 0.0]))
    assert pixels(flat) == [[110, 190]]
