"""The maths of one bit: sign, its two straight-through estimators (STE) and the weight scale.

Every binarization in the project, in training graphs, reference operators and packed kernels alike, follows one
convention: ``sign(0) = +1``, because a bit has no third state.
"""

from typing import Any

import torch
from torch import Tensor


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
