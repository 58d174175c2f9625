"""The maths of one bit: sign, its two straight-through estimators (STE) and the weight scale.

Every binarization in the project, in training graphs, reference operators and packed kernels alike, follows one
convention: ``sign(0) = +1``, because a bit has no third state.
"""

from typing import Any

import torch
from torch import Tensor

from bcdnet import kernels


def sign(x: Tensor) -> Tensor:
    """Return +1 where ``x >= 0`` and -1 elsewhere, in the shape and dtype of ``x``. It has no useful gradient."""
    # One comparison, then arithmetic: 2 * [x >= 0] - 1 vectorises better than `where` and is never 0.
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


class _ActivationSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.abs().mul_(-2).add_(2).clamp_(min=0).mul_(grad)


class _WeightSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return sign(weight).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return grad * (weight.abs() <= 1), None


def binarize_activation(x: Tensor) -> Tensor:
    """Sign of the activations with the piecewise polynomial gradient of Bi-Real Net (paper, Eq. 9).

    Forward: ``sign(x)``. Backward: ``dQ/dx = 2 + 2x`` on [-1, 0), ``2 - 2x`` on [0, 1), else 0.

    Args:
        x: real activations, any shape.

    Returns:
        Values in {-1, +1}, same shape and dtype.
    """
    return _ActivationSign.apply(x)


def weight_scale(weight: Tensor) -> Tensor:
    """Scale ``alpha_o = mean |W_o|`` of each output channel (paper, Eq. 1), live but detached from the graph.

    Args:
        weight: latent weights, shape (C_out, C_in, k, k).

    Returns:
        Shape (C_out, 1, 1, 1).
    """
    return weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True)


def binarize_weight(weight: Tensor) -> Tensor:
    """Scaled sign of latent weights, ``alpha * sign(W)``, with a clipped straight-through gradient.

    Backward: the gradient passes unchanged where ``|W| <= 1`` and is 0 elsewhere; it is not multiplied by alpha.

    Args:
        weight: latent weights, shape (C_out, C_in, k, k).

    Returns:
        Same shape, two values per output channel: ``+alpha_o`` and ``-alpha_o``.
    """
    return _WeightSign.apply(weight, weight_scale(weight))


# Sums as 256 * high + low: they are kept for the backward pass, and the compiler has vectors of bytes, not of 16 bits.
# The name says the types: compiled code is kept on disk by names, and code for others would read beyond the sums.
@torch.library.custom_op("bcdnet::sign_conv2d_int8_uint8", mutates_args=())
def _sign_conv2d(x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    sums = kernels.sign_conv2d(x, weight, stride, torch.get_num_threads()).permute(0, 3, 1, 2)
    return (sums >> 8).to(torch.int8), sums.to(torch.uint8)


@_sign_conv2d.register_fake
def _(x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    n, _, height, width = x.shape
    shape = (n, weight.shape[0], -(-height // stride), -(-width // stride))
    sums = torch.empty(shape, device=x.device, memory_format=torch.channels_last)
    return sums.to(torch.int8), sums.to(torch.uint8)


class _BinaryConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x.to(torch.int8), weight, scale)  # +-1, in a quarter of the memory
        ctx.stride = stride
        high, low = _sign_conv2d(x, weight, stride)
        return high.to(x.dtype).mul_(256).add_(low).mul_(scale.view(1, -1, 1, 1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        real, padding, needed = sign(weight).mul_(scale), weight.shape[-1] // 2, (*ctx.needs_input_grad[:2], False)
        strides, paddings = [ctx.stride] * 2, [padding] * 2
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, x.to(grad.dtype), real, None, strides, paddings, [1, 1], False, [0, 0], 1, needed
        )
        return of_x, of_weight * (weight.abs() <= 1) if needed[1] else None, None, None


def binary_conv2d(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """``conv2d(x, binarize_weight(weight))`` with the products counted by the XNOR kernels, which are exact.

    The gradients are those of :func:`binarize_weight` and of a convolution of real numbers.

    Args:
        x: +-1, float32 (N, C, H, W) on the CPU.
        weight: latent weights, (C_out, C, k, k), :func:`bcdnet.kernels.countable`; the padding is k // 2.
        stride: 1 or 2.

    Returns:
        (N, C_out, H/stride, W/stride), channels last.
    """
    return _BinaryConv2d.apply(x, weight, weight_scale(weight), stride)
