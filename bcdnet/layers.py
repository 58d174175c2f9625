"""The layers of a contextual binary network, and the one residual unit every network is a stack of.

``y = RPReLU(shortcut(x) + BN(op(RSign(x))))`` (paper, Fig. 4), where ``op`` is a binary convolution, a binary
long-short range MLP, or, in ReActNet-B/C, a real 1x1 convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcdnet.binarize import binarize_activation, binarize_weight, binary_conv2d

#: A branch is one letter: pointwise, short-range or long-range tokens.
BRANCH_NAMES = {"P": "point", "S": "short", "L": "long"}


def branch_offsets(branch: str, height: int, width: int, long_range: int | str = "half") -> list[tuple[int, int]]:
    """Offsets (d_row, d_col) of the tokens one branch reads, one per channel quarter (paper, Eq. 12-13).

    Args:
        branch: "P", "S" or "L".
        height, width: size of the map in tokens.
        long_range: distance of the long branch in tokens, or "half" for half of the actual map.

    Returns:
        Four offsets; the token at (i, j) reads channel quarter q at ((i + d_row) mod height, (j + d_col) mod width).
        On an even map with "half", +h/2 and -h/2 are the same token.
    """
    if branch == "P":
        return [(0, 0)] * 4
    if branch == "S":
        rows = cols = 1
    elif long_range == "half":
        rows, cols = height // 2, width // 2
    else:
        rows = cols = int(long_range)
    return [(-rows, 0), (rows, 0), (0, -cols), (0, cols)]


def sample_tokens(x: Tensor, branch: str, long_range: int | str = "half") -> Tensor:
    """Rebuild one token per location from a quarter of the channels of each sampled token (paper, Eq. 11-13).

    Args:
        x: map of shape (N, C, H, W), C a multiple of 4.
        branch: "P" (returns ``x`` itself), "S" or "L".
        long_range: see :func:`branch_offsets`.

    Returns:
        Shape (N, C, H, W); indices out of range wrap round.
    """
    if branch == "P":
        return x
    offsets = branch_offsets(branch, x.shape[-2], x.shape[-1], long_range)
    # A[(i + d) mod h] is a roll by -d.
    return torch.cat([q.roll((-di, -dj), (-2, -1)) for q, (di, dj) in zip(x.chunk(4, 1), offsets, strict=True)], 1)


def _per_channel(vector: Tensor) -> Tensor:
    return vector[..., None, None]  # (C,) -> (C, 1, 1) or (N, C) -> (N, C, 1, 1)


class RSign(nn.Module):
    """Sign with a learned shift per channel: ``RSign(x) = sign(x + b)``, so the threshold is ``-b``.

    With ``binary=False`` only the shift is applied (the real-valued twin).
    """

    def __init__(self, channels: int, binary: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.binary = binary

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Binarize ``x`` (N, C, H, W); ``threshold`` (N, C), if given, is added to the static one (Eq. 20)."""
        shift = self.bias if threshold is None else self.bias - threshold
        shifted = x + _per_channel(shift)
        return binarize_activation(shifted) if self.binary else shifted


class RPReLU(nn.Module):
    """PReLU between two learned shifts per channel: ``PReLU_c(x + b1) + b2``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.shift_out = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return F.prelu(x + _per_channel(self.shift_in), self.slope) + _per_channel(self.shift_out)


class BinaryConv2d(nn.Module):
    """Convolution with latent weights that are binarized on the fly (paper, Eq. 1).

    Zero padding pads the +-1 map with 0, so border positions sum fewer taps. With ``binary=False`` the latent
    weights are used as they are (training step 1, W/A = 32/1).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, binary: bool = True):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, kernel_size // 2
        self.binary = binary
        #: While training on a CPU in float32, count the products with the XNOR kernels, which are exact.
        self.xnor = False
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="linear")

    def effective_weight(self) -> Tensor:
        """The weights the forward pass multiplies by, (C_out, C_in, k, k): ``alpha * sign(W)``, or ``W`` if real."""
        return binarize_weight(self.weight) if self.binary else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if self.xnor and self.training and plain:
            return binary_conv2d(x, self.weight, self.stride)
        return F.conv2d(x, self.effective_weight(), stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"binary={self.binary}"
        )


class BinaryMLP(nn.Module):
    """Long-short range binary MLP (paper, Eq. 14-15): one token-wise product per branch, summed before one BN.

    ``O = W_P A_b + W_S A_b^S + W_L A_b^L``; every branch has its own latent weights and its own scale.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        branches: str = "PSL",
        long_range: int | str = "half",
        binary: bool = True,
    ) -> None:
        super().__init__()
        self.kinds, self.long_range = branches, long_range
        self.branches = nn.ModuleList(BinaryConv2d(in_channels, out_channels, 1, binary=binary) for _ in branches)

    def branch_outputs(self, x: Tensor) -> list[Tensor]:
        """What each branch adds to the sum, in the order of ``kinds``; each (N, C_out, H, W)."""
        return [
            branch(sample_tokens(x, kind, self.long_range))
            for kind, branch in zip(self.kinds, self.branches, strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H, W)."""
        first, *rest = self.branch_outputs(x)
        for output in rest:
            first = first + output
        return first

    def extra_repr(self) -> str:
        return f"branches={self.kinds!r}, long_range={self.long_range!r}"


class ContextEmbedding(nn.Module):
    """Thresholds and offsets computed from the image's global context (paper, Eq. 16, 17, 21).

    ``f = W1 GAP(A) + b1``, ``threshold = W2 f + b2``, ``beta = W3 f + b3``. W2, W3 and every bias start at zero, so
    a network with embeddings starts as exactly the network without.
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: int = 4) -> None:
        super().__init__()
        context = max(1, in_channels // ratio)
        self.reduce = nn.Linear(in_channels, context)
        self.threshold = nn.Linear(context, in_channels)
        self.offset = nn.Linear(context, out_channels)
        for layer in (self.threshold, self.offset):
            nn.init.zeros_(layer.weight)
        for layer in (self.reduce, self.threshold, self.offset):
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def round_matrices(self) -> None:
        """Round W1, W2 and W3 to values of half precision, which is how a packed network holds them."""
        for layer in (self.reduce, self.threshold, self.offset):
            layer.weight.copy_(layer.weight.half())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C_in, H, W) -> thresholds (N, C_in), offsets (N, C_out)."""
        context = self.reduce(x.mean(dim=(-2, -1)))
        return self.threshold(context), self.offset(context)


class Repeat(nn.Module):
    """Shortcut of a unit that widens: the input's channels, ``times`` over."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, times * C, H, W)."""
        repeated = torch.cat([x] * self.times, 1)
        # Compiled, copies of one tensor lose the order of its memory, channels last, and so would all that follows.
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        return repeated.contiguous(memory_format=torch.channels_last) if channels_last else repeated


class Fold(nn.Module):
    """Shortcut of a unit that narrows: the mean of ``times`` equal groups of channels."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """(N, times * C, H, W) -> (N, C, H, W)."""
        return x.unflatten(1, (self.times, -1)).mean(1)


class ResidualUnit(nn.Module):
    """``y = RPReLU(shortcut(x) + BN(op(RSign(x))))``, with or without a dynamic context embedding.

    Args:
        op: BinaryConv2d, BinaryMLP, or a real nn.Conv2d, which then reads the unsigned input.
        in_channels, out_channels: channels before and after ``op``.
        shortcut: module from input to output shape; identity by default.
        binary_activations: False gives the real-valued twin.
        embedding_ratio: reduction r of the context embedding; None leaves it out.
    """

    def __init__(
        self,
        op: nn.Module,
        in_channels: int,
        out_channels: int,
        shortcut: nn.Module | None = None,
        binary_activations: bool = True,
        embedding_ratio: int | None = None,
    ) -> None:
        super().__init__()
        real_op = isinstance(op, nn.Conv2d)
        self.sign = None if real_op else RSign(in_channels, binary_activations)
        self.embedding = (
            None if real_op or embedding_ratio is None else ContextEmbedding(in_channels, out_channels, embedding_ratio)
        )
        self.op = op
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.act = RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        if self.sign is None:
            y = self.op(x)
        elif self.embedding is None:
            y = self.op(self.sign(x))
        else:
            threshold, offset = self.embedding(x)
            y = self.op(self.sign(x, threshold)) + _per_channel(offset)
        return self.act(self.shortcut(x) + self.bn(y))


class MixerBlock(nn.Module):
    """Binary MLP-Mixer block of the pilot study (paper, section 3): two token-mixing layers, then two token-wise ones.

    Each of the four binary layers is a :class:`ResidualUnit` over a 1x1 convolution. Token mixing (Eq. 10) swaps the
    roles of tokens and channels, so its weights belong to one map size.
    """

    def __init__(self, channels: int, tokens: int, ratio: int, binary_weights: bool, binary_activations: bool) -> None:
        super().__init__()

        def unit(inputs: int, outputs: int) -> ResidualUnit:
            shortcut = Repeat(outputs // inputs) if outputs > inputs else Fold(inputs // outputs)
            op = BinaryConv2d(inputs, outputs, 1, binary=binary_weights)
            return ResidualUnit(op, inputs, outputs, shortcut, binary_activations)

        self.token_up, self.token_down = unit(tokens, tokens * ratio), unit(tokens * ratio, tokens)
        self.channel_up, self.channel_down = unit(channels, channels * ratio), unit(channels * ratio, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        mixed = x.flatten(2).transpose(1, 2).unsqueeze(-1)  # (N, C, H, W) -> (N, H*W, C, 1)
        mixed = self.token_down(self.token_up(mixed))
        x = mixed.squeeze(-1).transpose(1, 2).reshape(x.shape)
        return self.channel_down(self.channel_up(x))
