"""How many images an effective receptive field takes, counted against what it runs."""

import pytest
import torch
from nets import TINY

import bcdnet
from analysis.receptive_field import effective_receptive_field, passes


@pytest.mark.parametrize(
    ("method", "block", "expected"),
    # 28 x 56 pixels in blocks of 56 / 14 = 4: 7 x 14 of them. In blocks of 20: 2 x 3.
    [("gradient", None, 2), ("perturbation", None, 2 * (1 + 7 * 14)), ("perturbation", 20, 2 * (1 + 2 * 3))],
)
def test_the_estimate_is_the_number_of_images_that_are_run(method: str, block: int | None, expected: int) -> None:
    model = bcdnet.create_model("reactnet_a", **{**TINY, "image_size": (28, 56)})
    seen = []
    model.stem.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    effective_receptive_field(model, torch.randn(2, 1, 28, 56), "stem", method=method, block=block)
    assert passes((28, 56), 2, method, block) == expected == sum(seen)
