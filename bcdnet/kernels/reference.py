"""The kernels in plain PyTorch: the specification of the compiled ones, and what runs where there is no compiler.

Maps of bits are integers of 64 channels each, (N, H, W, ceil(C/64)), bit i of word j being channel 64 j + i, 1 for +1
and 0 for -1. Binary weights are bytes of 8 channels, (outputs, taps, ceil(C/8)), in the same order.

A unit (:meth:`Plan.step`) is computed in exactly this order, each step rounded to the dtype, in every instruction set::

    u = (((dot_0 * scale_0 + dot_1 * scale_1) + dot_2 * scale_2) + bias) + shortcut
    y = (u if u >= 0 else u * slope) + shift
    bits = y >= threshold of the next unit
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Channel sums add values rounded to multiples of 2^-26 in double precision: exact, so the order does not matter.
ROUND = 1.5 * 2.0**26


def pack_signs(x: Tensor, thresholds: Tensor) -> Tensor:
    """Bits of ``x >= thresholds``: x (N, C, H, W), thresholds (C,) or (N, C) -> int64 (N, H, W, ceil(C/64))."""
    return to_words(x >= thresholds[..., None, None])


def binary_conv2d(bits: Tensor, weight: Tensor, channels: int, stride: int = 1, threads: int = 1) -> Tensor:
    """Products of +-1 summed over the taps inside the map (Eq. 1 without its scale).

    Args:
        bits: (N, H, W, ceil(C/64)) int64.
        weight: (O, taps, ceil(C/8)) uint8, 1 or 9 taps.
        channels: C.
        stride: 1 or 2.
        threads: of the compiled kernels; without effect here.

    Returns:
        int32 (N, H/stride, W/stride, O).
    """
    return _conv(from_words(bits, channels), from_bytes(weight, channels), stride).permute(0, 2, 3, 1).int()


def sign_conv2d(x: Tensor, weight: Tensor, stride: int = 1, threads: int = 1) -> Tensor:
    """Products of the signs of a map with the signs of real weights, which training computes anew in every step.

    Args:
        x: float32 (N, C, H, W), C a multiple of 32.
        weight: float32 (O, C, k, k), k 1 or 3; C * k * k is less than 2^15.
        stride: 1 or 2.
        threads: of the compiled kernels; without effect here.

    Returns:
        int16 (N, H/stride, W/stride, O).
    """
    signs, weight = ((values >= 0).float().mul_(2).sub_(1) for values in (x, weight))
    return _conv(signs, weight, stride).permute(0, 2, 3, 1).short()


def binary_mlp(
    bits: Tensor, weight: Tensor, branches: str, channels: int, long_range: int | str = "half", threads: int = 1
) -> Tensor:
    """The integer products of each branch of a binary MLP (Eq. 15): int32 (branches, N, H, W, O).

    ``weight`` is (branches, O, ceil(C/8)) uint8; ``branches`` names P, S and L; ``long_range`` is a distance in tokens
    or "half" of the map; C is a multiple of 4.
    """
    signs = from_words(bits, channels)
    distance = 0 if long_range == "half" else int(long_range)
    products = [
        _conv(_tokens(signs, kind, distance), from_bytes(w[:, None], channels), 1)
        for kind, w in zip(branches, weight, strict=True)
    ]
    return torch.stack(products).permute(0, 1, 3, 4, 2).int()


def to_words(bits: Tensor) -> Tensor:
    """Booleans (N, C, H, W) -> words of 64 channels, int64 (N, H, W, ceil(C/64))."""
    packed = np.packbits(bits.permute(0, 2, 3, 1).numpy(), axis=-1, bitorder="little")
    packed = np.ascontiguousarray(np.pad(packed, [(0, 0)] * 3 + [(0, -packed.shape[-1] % 8)]))
    return torch.from_numpy(packed.view(np.int64))


def from_words(words: Tensor, channels: int) -> Tensor:
    """Words of 64 channels -> +-1 in float32, (N, C, H, W)."""
    packed = np.ascontiguousarray(words.numpy()).view(np.uint8)
    bits = np.unpackbits(packed, axis=-1, count=channels, bitorder="little")
    return torch.from_numpy(bits).permute(0, 3, 1, 2).float().mul_(2).sub_(1)


def from_bytes(weight: Tensor, channels: int) -> Tensor:
    """Binary weights (O, taps, ceil(C/8)) -> +-1 in float32, (O, C, k, k)."""
    bits = np.unpackbits(weight.numpy(), axis=-1, count=channels, bitorder="little")
    side = 3 if weight.shape[1] == 9 else 1
    return torch.from_numpy(bits).permute(0, 2, 1).reshape(len(weight), channels, side, side).float().mul_(2).sub_(1)


def _conv(signs: Tensor, weight: Tensor, stride: int) -> Tensor:
    # Sums of +-1 are whole numbers, which float32 holds exactly up to 2^24 and float64 beyond.
    if weight[0].numel() >= 2**24:
        signs, weight = signs.double(), weight.double()
    return F.conv2d(signs, weight, stride=stride, padding=weight.shape[-1] // 2)


def _tokens(x: Tensor, kind: str, distance: int) -> Tensor:
    """The tokens that a branch reads (Eq. 11-13): quarters of the channels, each from another token."""
    if kind == "P":
        return x
    if kind == "S":
        rows = columns = 1
    else:
        rows, columns = (distance, distance) if distance else (x.shape[-2] // 2, x.shape[-1] // 2)
    shifts = [(rows, 0), (-rows, 0), (0, columns), (0, -columns)]
    return torch.cat([q.roll(shift, (-2, -1)) for q, shift in zip(x.chunk(4, 1), shifts, strict=True)], 1)


@dataclass
class Step:
    """What a unit saw and gave: ``output`` (N, O, H, W); of a binary one also ``bits`` (N, C, H, W) and ``thresholds``
    (C,) or (N, C) of its input."""

    output: Tensor
    bits: Tensor | None = None
    thresholds: Tensor | None = None


class Plan:
    """A network as a list of fused units; the compiled ``Plan`` has the same methods.

    Args:
        dtype: of the real values. In float64 nothing is rounded that could turn a bit, which is for comparisons.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.stem: dict[str, Any] = {}
        self.units: list[tuple[str, dict[str, Any]]] = []
        self.head: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    def set_stem(self, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray, stride: int, pooled: bool) -> None:
        """Real convolution (O, C, k, k), its batch norm as scale and bias (O,), and max-pooling if ``pooled``."""
        self.stem = {"weight": self._real(weight), "scale": self._real(scale), "bias": self._real(bias)}
        self.stem |= {"stride": stride, "pooled": pooled}

    def add_unit(
        self, name: str, inputs: int, outputs: int, kernel: int, stride: int, parameters: Mapping[str, Any]
    ) -> None:
        """A unit with the parameters that :mod:`bcdnet.engine` folds; real ones are arrays."""
        unit: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "kernel": kernel, "stride": stride}
        for key, value in parameters.items():
            if key == "weight":
                unit[key] = torch.from_numpy(value)
            else:
                unit[key] = self._real(value) if isinstance(value, np.ndarray) else value
        self.units.append((name, unit))

    def set_head(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """The linear head, (classes, features) and (classes,)."""
        self.head = (self._real(weight), self._real(bias))

    def run(self, images: np.ndarray, logits: np.ndarray) -> bool:
        """Fill logits (N, classes) for images (N, C, H, W); False if a pixel is not finite."""
        if not np.isfinite(images).all():
            return False
        with torch.no_grad():
            x = self.first(torch.from_numpy(images).to(self.dtype))
            for index in range(len(self.units)):
                x = self.step(index, x).output
            torch.from_numpy(logits).copy_(self.last(x))
        return True

    def trace(self, image: np.ndarray, values: bool) -> list[tuple[str, float, Any, Any, Any]]:
        """One image, unit by unit: (name, seconds, output, bits, thresholds), arrays or None."""
        rows: list[tuple[str, float, Any, Any, Any]] = []
        with torch.no_grad():
            start = time.perf_counter()
            x = self.first(torch.from_numpy(image).to(self.dtype))
            rows.append(("stem", time.perf_counter() - start, x[0].numpy() if values else None, None, None))
            for index, (name, _) in enumerate(self.units):
                start = time.perf_counter()
                step = self.step(index, x)
                seconds = time.perf_counter() - start
                x = step.output
                output = bits = thresholds = None
                if values:
                    output = x[0].numpy()
                    if step.bits is not None and step.thresholds is not None:
                        bits = step.bits[0].byte().numpy()
                        thresholds = step.thresholds.reshape(-1).numpy()
                rows.append((name, seconds, output, bits, thresholds))
            start = time.perf_counter()
            self.last(x)
            rows.append(("head", time.perf_counter() - start, None, None, None))
        return rows

    def first(self, x: Tensor) -> Tensor:
        """The stem: (N, C, H, W) -> (N, O, H', W')."""
        weight = self.stem["weight"]
        x = F.conv2d(x, weight, stride=self.stem["stride"], padding=weight.shape[-1] // 2)
        x = _per_channel(self.stem["scale"]) * x + _per_channel(self.stem["bias"])
        return F.max_pool2d(x, 3, 2, 1) if self.stem["pooled"] else x

    def step(self, index: int, x: Tensor) -> Step:
        """One unit: (N, C, H, W) -> (N, O, H/stride, W/stride)."""
        unit = self.units[index][1]
        bits = thresholds = None
        bias = unit["bias"]
        if "real_weight" in unit:
            weight = unit["real_weight"][..., None, None]
            u = F.conv2d(x, weight, groups=unit["groups"]) * _per_channel(unit["scale"][0])
        else:
            thresholds = unit["threshold"]
            if "reduce" in unit:
                thresholds, bias = self._embed(unit, x)
            bits = x >= _per_channel(thresholds)
            u = torch.zeros(())
            for b, dots in enumerate(self._dots(unit, to_words(bits))):
                term = dots.permute(0, 3, 1, 2).to(self.dtype) * _per_channel(unit["scale"][b])
                u = u + term if b else term
        u = (u + _per_channel(bias)) + self._shortcut(unit, x)
        y = torch.where(u >= 0, u, u * _per_channel(unit["slope"])) + _per_channel(unit["shift"])
        return Step(y, bits, thresholds)

    def last(self, x: Tensor) -> Tensor:
        """The head: (N, C, H, W) -> logits (N, classes)."""
        features = x.double().mean((-2, -1)).to(self.dtype)
        return F.linear(features, *self.head)

    def _dots(self, unit: Mapping[str, Any], bits: Tensor) -> list[Tensor]:
        if "branches" not in unit:
            return [binary_conv2d(bits, unit["weight"], unit["inputs"], unit["stride"])]
        distance = unit["distance"] or "half"
        return list(binary_mlp(bits, unit["weight"], unit["branches"], unit["inputs"], distance))

    def _embed(self, unit: Mapping[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
        """Thresholds (N, C) and biases (N, O) from the image's context (Eq. 16, 17, 21), in double precision."""
        exact = x.double()
        if self.dtype == torch.float32:
            exact = (exact + ROUND) - ROUND
        context = exact.sum((-2, -1)) / (x.shape[-2] * x.shape[-1])
        context = _affine(context, unit["reduce"], unit["reduce_bias"])
        dynamic = _affine(context, unit["dynamic"], unit["dynamic_bias"])
        offset = _affine(context, unit["offset"], unit["offset_bias"])
        thresholds = (unit["threshold"].double() + dynamic).to(self.dtype)
        return thresholds, unit["bias"] + offset.to(self.dtype) * unit["gain"]

    def _shortcut(self, unit: Mapping[str, Any], x: Tensor) -> Tensor:
        if unit["stride"] == 2:
            top = x[..., ::2, ::2] + x[..., ::2, 1::2]
            x = (top + (x[..., 1::2, ::2] + x[..., 1::2, 1::2])) * 0.25
        if "shortcut_weight" in unit:
            x = F.conv2d(x, unit["shortcut_weight"][..., None, None])
            return x * _per_channel(unit["shortcut_scale"]) + _per_channel(unit["shortcut_bias"])
        return torch.cat([x] * unit.get("repeat", 1), 1)

    def _real(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.dtype)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, C) -> (N, O) in double precision, summed from the first input to the last as the compiled loop does."""
    terms = x[:, None, :] * weight.double()
    return terms.cumsum(-1)[..., -1] + bias.double()


def _per_channel(vector: Tensor) -> Tensor:
    return vector[..., None, None]  # (C,) -> (C, 1, 1) or (N, C) -> (N, C, 1, 1)
