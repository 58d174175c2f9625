"""The small geometry that the tests share: 28x28 grey images, ten classes, a last map of 7x7."""

from typing import Any

TINY: dict[str, Any] = {
    "image_size": 28,
    "in_channels": 1,
    "num_classes": 10,
    "width": 1 / 8,
    "stem_stride": 1,
    "strides": (1, 2, 1, 2, 1),
    "blocks": (1, 1, 1, 2, 2),
}
