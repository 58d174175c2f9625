"""Sign, its two straight-through gradients and the weight scale, against values written by hand."""

import pytest
import torch

from bcdnet.binarize import binarize_activation, binarize_weight, binary_conv2d, sign, weight_scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sign_is_never_zero(dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0], dtype=dtype)
    assert sign(x).tolist() == [-1, -1, 1, 1, 1, 1]
    assert sign(x).dtype == dtype


@pytest.mark.parametrize(
    ("x", "gradient"),
    [
        # Eq. 9: 2 + 2x on [-1, 0), 2 - 2x on [0, 1), else 0.
        (-1.5, 0.0),
        (-1.0, 0.0),
        (-0.75, 0.5),
        (-0.25, 1.5),
        (0.0, 2.0),
        (0.25, 1.5),
        (0.75, 0.5),
        (1.0, 0.0),
        (1.5, 0.0),
    ],
)
def test_gradient_of_activation_sign(x: float, gradient: float) -> None:
    a = torch.tensor([x], requires_grad=True)
    (3 * binarize_activation(a)).sum().backward()
    assert a.grad is not None
    assert a.grad.item() == 3 * gradient
    assert binarize_activation(a).item() == (1 if x >= 0 else -1)


@pytest.mark.parametrize(("w", "gradient"), [(-1.25, 0), (-1.0, 1), (-0.5, 1), (0.0, 1), (1.0, 1), (1.25, 0)])
def test_gradient_of_weight_sign_is_clipped_and_not_scaled(w: float, gradient: float) -> None:
    # The second weight sets the scale: alpha = (|w| + 3) / 2, which must not appear in the gradient.
    weight = torch.tensor([w, 3.0]).reshape(1, 2, 1, 1).requires_grad_()
    binary = binarize_weight(weight)
    (binary * torch.tensor([5.0, 7.0]).reshape(1, 2, 1, 1)).sum().backward()
    alpha = (abs(w) + 3) / 2
    assert binary.flatten().tolist() == [alpha if w >= 0 else -alpha, alpha]
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [5.0 * gradient, 0.0]


def test_weight_scale_is_the_mean_magnitude_of_each_filter() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -6.0], [0.5, 0.5, -0.5, 0.5]]).reshape(2, 1, 2, 2).requires_grad_()
    scale = weight_scale(weight)
    assert scale.shape == (2, 1, 1, 1)
    assert scale.flatten().tolist() == [3.0, 0.5]
    assert not scale.requires_grad


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_counted_convolution_equals_the_real_one(side: int, stride: int, compiled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = binarize_activation(torch.randn(2, 64, 6, 5, generator=generator)).requires_grad_()
    weight = torch.randn(48, 64, side, side, generator=generator).requires_grad_()
    convolution = torch.compile(binary_conv2d) if compiled else binary_conv2d
    got = convolution(x, weight, stride)
    want = torch.nn.functional.conv2d(x, binarize_weight(weight), stride=stride, padding=side // 2)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    grad = torch.randn(want.shape, generator=generator)
    for mine, theirs in zip(*(torch.autograd.grad(y, (x, weight), grad) for y in (got, want)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
