"""How many images an effective receptive field takes, counted against what it runs."""

import pytest
import torch
from nets import TINY

import bcdnet
from analysis.receptive_field import effective_receptive_field, passes


@pytest.mark.parametrize(
    ("name", "method", "block", "expected"),
    # 28 x 56 pixels in blocks of 56 / 14 = 4: 7 x 14 of them. In blocks of 20: 2 x 3. MLPs run twice what is changed.
    [
        ("reactnet_a", "gradient", None, 2),
        ("bcdnet_a", "gradient", None, 2 * 2),
        ("reactnet_a", "perturbation", None, 2 * (1 + 7 * 14)),
        ("reactnet_a", "perturbation", 20, 2 * (1 + 2 * 3)),
        ("bcdnet_a", "perturbation", 20, 2 * (1 + 2 * 2 * 3)),
    ],
)
def test_the_estimate_is_the_number_of_images_that_are_run(
    name: str, method: str, block: int | None, expected: int
) -> None:
    model = bcdnet.create_model(name, **{**TINY, "image_size": (28, 56), "mlp_groups": int(name == "bcdnet_a")})
    seen = []
    model.stem.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    effective_receptive_field(model, torch.randn(2, 1, 28, 56), "stem", method=method, block=block)
    assert passes(model, 2, method, block) == expected == sum(seen)
