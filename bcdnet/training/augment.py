"""Random changes of training images, each a pure function of the picture and of its own random numbers.

The numbers come from a generator that is seeded with the run's seed, the epoch and the image's index, so what a network
sees depends on none of: the number of processes, the number of workers, where a run was stopped.
"""

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

#: What a recipe's key ``augment`` may list; applied in this order.
AUGMENTATIONS = ("resized_crop", "shift", "colour", "flip_vertical", "flip")


def resized_crop(
    image: Image.Image,
    size: tuple[int, int],
    random: np.random.Generator,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image.Image:
    """A random part of the picture at ``size`` (height, width), as in Szegedy et al., 2015, for ImageNet.

    Area is a share of the picture's, ratio is width to height, uniform in its logarithm. After ten parts that do not
    fit into the picture, the largest central one whose ratio is allowed.
    """
    for _ in range(10):
        pixels = image.width * image.height * random.uniform(*area)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = int(random.integers(image.width - width + 1))
            top = int(random.integers(image.height - height + 1))
            break
    else:
        width = max(1, min(image.width, round(image.height * ratio[1])))
        height = max(1, min(image.height, round(image.width / ratio[0])))
        left, top = (image.width - width) // 2, (image.height - height) // 2
    box = (left, top, left + width, top + height)
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)


def shift(image: Image.Image, random: np.random.Generator, share: float = 1 / 14) -> Image.Image:
    """The picture moved by up to ``share`` of its sides each way; what comes in from outside is black."""
    most_x, most_y = round(image.width * share), round(image.height * share)
    left, top = int(random.integers(-most_x, most_x + 1)), int(random.integers(-most_y, most_y + 1))
    return image.crop((left, top, left + image.width, top + image.height))


def colour(
    image: Image.Image,
    random: np.random.Generator,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue: float = 0.1,
) -> Image.Image:
    """Brightness, contrast and saturation by factors 1 +- strength, hue by +- ``hue`` turns, in random order."""
    enhancers = (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    )
    for which in random.permutation(4):
        if which < 3:
            enhancer, strength = enhancers[which]
            image = enhancer(image).enhance(random.uniform(1 - strength, 1 + strength))
        else:
            image = _turn_hue(image, random.uniform(-hue, hue))
    return image


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    if image.mode != "RGB":  # grey has no hue
        return image
    h, s, v = image.convert("HSV").split()
    return Image.merge("HSV", (h.point(lambda value: (value + round(255 * turn)) % 256), s, v)).convert("RGB")


def flip(image: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return ImageOps.mirror(image)


def flip_vertical(image: Image.Image) -> Image.Image:
    """Top and bottom exchanged."""
    return ImageOps.flip(image)
