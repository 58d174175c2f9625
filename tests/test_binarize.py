"""Sign, its two straight-through gradients and the weight scale, against values written by hand."""

from typing import Any

import pytest
import torch

from bcdnet.binarize import binarize_activation, binarize_weight, binary_conv2d, sign, weight_scale
from bcdnet.layers import BinaryConv2d


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


@pytest.mark.parametrize("frozen", ["weight", "x"])
@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_frozen_gets_no_gradient_and_changes_none(
    frozen: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = sign(torch.randn(2, 32, 6, 6, generator=generator))
    weight = torch.randn(8, 32, 3, 3, generator=generator)
    backward, computed = torch.ops.aten.convolution_backward, []

    def recording(*arguments: Any) -> Any:
        computed.append(list(arguments[-1]))
        return backward(*arguments)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", recording)
    gradients = []
    for names in (("x", "weight"), tuple({"x", "weight"} - {frozen})):
        operands = {"x": x.clone(), "weight": weight.clone()}
        for name in names:
            operands[name].requires_grad_()
        binary_conv2d(**operands, stride=stride).square().sum().backward()
        gradients.append({name: operand.grad for name, operand in operands.items()})
    both, one = gradients
    assert one[frozen] is None
    (trained,) = {"x", "weight"} - {frozen}
    assert torch.equal(one[trained], both[trained]) and float(one[trained].abs().max()) > 0
    assert computed == [[True, True, False], [frozen != "x", frozen != "weight", False]]  # nothing in vain


def test_a_layer_with_frozen_weights_trains_what_is_before_it() -> None:
    layer = BinaryConv2d(32, 8, 3)
    layer.xnor = True
    layer.weight.requires_grad_(False)
    x = torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    layer(binarize_activation(x)).sum().backward()
    assert x.grad is not None and float(x.grad.abs().max()) > 0 and layer.weight.grad is None
