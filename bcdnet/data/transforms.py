"""From a picture to what a network reads, and back to the picture's own pixels."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class View:
    """What a network sees of a picture before normalisation.

    `image` (mode L or RGB) has exactly the network's input size. `box` is the part of the original that it shows, as
    (left, top, right, bottom) in original pixels, fractions allowed; the whole view maps linearly onto it.
    """

    image: Image.Image
    box: tuple[float, float, float, float]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Preprocess:
    """How pictures become input: resize, centre crop, normalise. Travels inside checkpoints as plain JSON.

    `image_size` is (height, width). `resize` is the length of the shorter side before the crop; None resizes as little
    as covers `image_size`. `mean` and `std` are per channel, of values in 0..1. `invert="auto"` turns bright
    backgrounds dark, for networks trained on bright things before black. Raises ValueError for impossible fields.
    """

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    crop: Literal["centre"] = "centre"
    invert: Literal["never", "auto"] = "never"

    def __post_init__(self) -> None:
        # Fields may come from a file, so their types are not taken for granted.
        sizes: tuple[Any, ...] = self.image_size
        if len(sizes) != 2 or not all(isinstance(side, int) and side >= 1 for side in sizes):
            raise ValueError(f"image_size must be (height, width), both at least 1, not {self.image_size}.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, not {self.channels}.")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} value(s) each.")
        if not all(map(math.isfinite, self.mean)) or not all(0 < s < math.inf for s in self.std):
            raise ValueError("mean must be finite, and std finite and above 0.")
        if self.resize is not None and self.resize < max(self.image_size):
            raise ValueError(f"resize={self.resize} is smaller than the crop {self.image_size}.")
        if self.crop != "centre":
            raise ValueError(f"crop must be 'centre', not {self.crop!r}.")
        if self.invert not in ("never", "auto"):
            raise ValueError(f"invert must be 'never' or 'auto', not {self.invert!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` restores an equal object."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `to_dict`. Raises ValueError for unknown, missing or impossible fields."""
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"These are not the fields of a Preprocess: {error}.") from error

    def view(self, image: Image.Image) -> View:
        """What the network sees of `image` (mode L or RGB, any size). Raises ValueError for other modes."""
        if image.mode not in ("L", "RGB"):
            raise ValueError(f"view() takes pictures in mode L or RGB, not {image.mode}; decode_image makes them.")
        height, width = self.image_size
        box = self._box(*image.size)
        notes = []
        if image.mode == "RGB" and self.channels == 1:
            red, green, blue = image.split()
            if red.tobytes() != green.tobytes() or green.tobytes() != blue.tobytes():
                notes.append("Colours were turned into grey: the network reads brightness only.")
        seen = image.convert("L" if self.channels == 1 else "RGB")
        # One resampling of the box equals resizing the whole and cropping, and stays small for a 1 x 1,000,000 strip.
        seen = seen.resize((width, height), Image.Resampling.BILINEAR, box=box)
        share = (box[2] - box[0]) * (box[3] - box[1]) / (image.width * image.height)
        if share < 0.995:
            notes.append(f"Only the middle is seen: {max(share, 0.001):.1%} of the picture's area.")
        if box[2] - box[0] < width / 2 or box[3] - box[1] < height / 2:
            notes.append(f"The picture was enlarged from {image.width} × {image.height} pixels: it has little detail.")
        if self.invert == "auto" and _border_median(seen) > 127.5:
            seen = Image.eval(seen, lambda value: 255 - value)
            notes.append("Dark and bright were swapped: the background is bright, the training images' is black.")
        return View(seen, box, tuple(notes))

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """The normalised network input of `image` (mode L or RGB): float32 (C, H, W)."""
        return self.batch(np.asarray(self.view(image).image)[None])[0]

    def batch(self, pixels: np.ndarray) -> torch.Tensor:
        """Normalises images that have the right size already: uint8 (N, H, W) or (N, H, W, C) -> float32 (N, C, H, W).

        Never resizes, crops or inverts. Grey images are repeated for a network of three channels.
        Raises ValueError for another type or shape.
        """
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[1:3] != self.image_size:
            raise ValueError(
                f"batch() takes uint8 (N, {self.image_size[0]}, {self.image_size[1]}[, {self.channels}]), "
                f"not {pixels.dtype} {pixels.shape}."
            )
        if pixels.ndim == 3:
            pixels = np.broadcast_to(pixels[..., None], (*pixels.shape, self.channels))
        if pixels.shape[3] != self.channels:
            raise ValueError(f"batch() takes {self.channels} channel(s), not {pixels.shape[3]}.")
        x = torch.from_numpy(pixels.astype(np.float32, order="C").transpose(0, 3, 1, 2))  # (N, H, W, C) -> (N, C, H, W)
        mean, std = self._constants()
        return x.div(255).sub(mean).div(std).contiguous()

    def denormalise(self, tensor: torch.Tensor) -> np.ndarray:
        """A normalised input (C, H, W) back as float32 (H, W, C), clipped to 0..1."""
        if tensor.ndim != 3 or tensor.shape[0] != self.channels:
            raise ValueError(f"denormalise() takes ({self.channels}, H, W), not {tuple(tensor.shape)}.")
        mean, std = self._constants()
        values = tensor.detach().cpu().to(torch.float32) * std + mean
        return values.clamp(0, 1).permute(1, 2, 0).contiguous().numpy()  # (C, H, W) -> (H, W, C)

    def _constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (self.channels, 1, 1)
        return torch.tensor(self.mean).reshape(shape), torch.tensor(self.std).reshape(shape)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        crop_height, crop_width = self.image_size
        if self.resize is None:
            scale = max(crop_height / height, crop_width / width)
            box_width, box_height = min(crop_width / scale, width), min(crop_height / scale, height)
            left, top = (width - box_width) / 2, (height - box_height) / 2
            return left, top, min(left + box_width, width), min(top + box_height, height)
        # The usual ImageNet evaluation: whole pixels for the resized picture and for the crop's corner.
        short, long = min(width, height), max(width, height)
        resized_long = self.resize * long // short
        resized = (self.resize, resized_long) if width <= height else (resized_long, self.resize)
        left, top = round((resized[0] - crop_width) / 2), round((resized[1] - crop_height) / 2)
        x, y = width / resized[0], height / resized[1]
        return left * x, top * y, min((left + crop_width) * x, width), min((top + crop_height) * y, height)


def _border_median(image: Image.Image) -> float:
    grey = np.asarray(image.convert("L"))
    inner = np.zeros(grey.shape, dtype=bool)
    inner[1:-1, 1:-1] = True
    return float(np.median(grey[~inner]))


IMAGENET = Preprocess((224, 224), 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256)

# Mean and (population) standard deviation of all 47,040,000 pixels of the 60,000 training images, in exact integers:
# sum 3,431,114,169, sum of squares 631,470,052,347; tests/data/test_fashion_mnist.py recomputes them.
FASHION_MNIST = Preprocess((28, 28), 1, mean=(0.2860405969887955,), std=(0.3530242445149226,), invert="auto")

# The same of all 177,120,000 pixels of the 1,968 training pictures: sum 26,930,407,702, sum of squares
# 4,394,050,600,638; tests/data/test_sets.py recomputes them. The whole cell is seen: cracks reach its edges.
ELPV = Preprocess((224, 224), 1, mean=(0.5962592703739129,), std=(0.16122868610848315,))
