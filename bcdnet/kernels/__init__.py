"""The compute boundary: bits in, bits and whole numbers out, on the best instruction set that the machine has.

Each operator has a twin in :mod:`bcdnet.kernels.reference` with the same signature, which specifies it and takes its
place where the compiled kernels are missing. Which set is in force: that of :func:`use_isa`, else the environment
variable ``BCDNET_ISA``, else the first of :func:`isas`.
"""

import functools
import importlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcdnet.kernels import reference

try:
    _native: Any = importlib.import_module("bcdnet.kernels._native")
except ImportError:  # installed without a compiler
    _native = None

REFERENCE = "reference"
MAX_THREADS = 1024
MAX_SIDE = 65_536  # tokens
MAX_TOKENS = 2**28
#: Sums over nine taps of this many channels are far from the end of 32 bits.
MAX_CHANNELS = 2**24
#: Products that a sum of :func:`sign_conv2d` has at most, so that 16 bits hold it.
MAX_PRODUCTS = 2**15 - 1

_forced: ContextVar[str | None] = ContextVar("forced instruction set", default=None)


class KernelError(ValueError):
    """An instruction set, or operands, that the kernels do not take; the message is one sentence."""


def isas() -> list[str]:
    """The instruction sets that can run here, best first; "reference", pure PyTorch, is always the last."""
    return [*(_native.isas() if _native else []), REFERENCE]


def active() -> str:
    """The instruction set in force; KernelError if the environment names one that cannot run here."""
    forced = _forced.get() or os.environ.get("BCDNET_ISA")
    return _known(forced) if forced else _best()


def use_isa(name: str) -> AbstractContextManager[None]:
    """``with use_isa(name):`` runs what is called, and builds what is built, inside on that instruction set.

    An engine stays on the set that it was built on. Raises KernelError if the set cannot run here.
    """
    return _forcing(_known(name))


@contextmanager
def _forcing(name: str) -> Iterator[None]:
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def describe() -> str:
    """One sentence on what computes: for people."""
    if _native is None:
        return (
            "The XNOR kernels are not compiled, so the slow reference in PyTorch runs in their place; "
            "install a C++ compiler and Python's headers (on Debian: g++ and python3-dev) and set the project up again."
        )
    return (
        f"XNOR kernels on {active()}." if active() != REFERENCE else "The reference in PyTorch, not the XNOR kernels."
    )


def pack_signs(x: Tensor, thresholds: Tensor) -> Tensor:
    """Bits of ``x >= thresholds``, the sign with its threshold per channel or per image and channel.

    Args:
        x: float32 (N, C, H, W).
        thresholds: float32 (C,) or (N, C).

    Returns:
        int64 (N, H, W, ceil(C/64)); bit i of word j is channel 64 j + i, 1 for +1; bits beyond C are 0.

    Raises:
        KernelError: shapes that do not fit.
    """
    if x.ndim != 4 or 0 in x.shape[1:] or tuple(thresholds.shape) not in ((x.shape[1],), tuple(x.shape[:2])):
        raise KernelError(f"thresholds {tuple(thresholds.shape)} do not fit a map of shape {tuple(x.shape)}.")
    if x.is_complex() or thresholds.is_complex():
        raise KernelError("complex numbers have no sign.")
    _check_sizes(x.shape[1], x.shape[2:])
    x, thresholds = _plain(x).float(), _plain(thresholds).float()
    isa = active()
    if isa == REFERENCE:
        return reference.pack_signs(x, thresholds)
    n, channels, height, width = x.shape
    bits = np.empty((n, height, width, -(-channels // 64)), np.int64)
    _native.pack_signs(isa, x.numpy(), thresholds.numpy(), bits)
    return torch.from_numpy(bits)


class Product:
    """Binary weights made ready for the instruction set in force: a convolution, or the branches of an MLP.

    Args:
        weight: uint8 (O, taps, ceil(C/8)) with 1 or 9 taps, or (branches, O, ceil(C/8)) if ``branches`` are named.
        channels: C.
        stride: 1 or 2, of a convolution.
        branches: letters P, S, L of an MLP, whose C is a multiple of 4; empty for a convolution.
        long_range: distance of L in tokens, or "half" of the map.
        threads: how many compute.

    Raises:
        KernelError: weights of another shape or type, or another option that is out of its range.
    """

    def __init__(
        self,
        weight: Tensor,
        channels: int,
        stride: int = 1,
        branches: str = "",
        long_range: int | str = "half",
        threads: int = 1,
    ) -> None:
        taps = 1 if branches else weight.shape[1] if weight.ndim == 3 else 0
        good = weight.dtype == torch.uint8 and weight.ndim == 3 and channels > 0 and weight.numel() > 0
        if not good or weight.shape[-1] != -(-channels // 8) or taps not in (1, 9) or stride not in (1, 2):
            raise KernelError(f"{weight.dtype} {tuple(weight.shape)} are no binary weights for {channels} channels.")
        if branches and (len(branches) != len(weight) or not set(branches) <= set("PSL") or len(branches) > 9):
            raise KernelError(f"branches {branches!r} do not fit {len(weight)} sets of weights.")
        if set(branches) & set("SL") and channels % 4:
            raise KernelError(f"the branches of an MLP need channels in multiples of 4, not {channels}.")
        if long_range != "half" and not (isinstance(long_range, int) and 0 < long_range <= MAX_SIDE):
            raise KernelError(f"long_range must be 1 to {MAX_SIDE:,} tokens or 'half', not {long_range!r}.")
        _check_sizes(channels, ())
        check_threads(threads)
        self.isa, self.channels, self.stride, self.branches = active(), channels, stride, branches
        self.long_range, self.kernel, self.weight = long_range, 3 if taps == 9 else 1, _plain(weight)
        self.outputs = weight.shape[1] if branches else weight.shape[0]
        distance = 0 if long_range == "half" else int(long_range)
        self._native: Any = None
        if self.isa != REFERENCE:
            array = self.weight.numpy()
            sizes = (self.outputs, channels, self.kernel, stride, branches, distance)
            self._native = _native.Product(self.isa, threads, array, *sizes)

    def __call__(self, bits: Tensor, out: Tensor | None = None) -> Tensor:
        """int64 (N, H, W, ceil(C/64)) -> int32 (N, H/stride, W/stride, O), for an MLP (branches, N, H, W, O).

        ``out``: an int32 tensor of that shape, to write to; new memory costs small products more than they do.
        """
        if bits.dtype != torch.int64 or bits.ndim != 4 or bits.shape[-1] != -(-self.channels // 64) or 0 in bits.shape:
            raise KernelError(f"{bits.dtype} {tuple(bits.shape)} is no packed map of {self.channels} channels.")
        _check_sizes(self.channels, bits.shape[1:3])
        bits = _plain(bits)
        n, height, width, _ = bits.shape
        shape: tuple[int, ...] = (n, -(-height // self.stride), -(-width // self.stride), self.outputs)
        if self.branches:
            shape = (len(self.branches), *shape)
        if out is None:
            out = torch.empty(shape, dtype=torch.int32)
        elif out.dtype != torch.int32 or out.shape != shape or not out.is_contiguous():
            raise KernelError(f"the result needs a contiguous int32 tensor of shape {shape}.")
        if self._native is not None:
            self._native.run(bits.numpy(), out.numpy())
        elif self.branches:
            out.copy_(reference.binary_mlp(bits, self.weight, self.branches, self.channels, self.long_range))
        else:
            out.copy_(reference.binary_conv2d(bits, self.weight, self.channels, self.stride))
        return out


def binary_conv2d(bits: Tensor, weight: Tensor, channels: int, stride: int = 1, threads: int = 1) -> Tensor:
    """Products of +-1 summed over the taps inside the map; see :func:`bcdnet.kernels.reference.binary_conv2d`."""
    return Product(weight, channels, stride, threads=threads)(bits)


def sign_conv2d(x: Tensor, weight: Tensor, stride: int = 1, threads: int = 1) -> Tensor:
    """Products of signs, the weights' taken anew; see :func:`bcdnet.kernels.reference.sign_conv2d`.

    Operands that are ``channels_last`` are read as they are, others are copied.

    Raises:
        KernelError: operands that do not fit.
    """
    good = x.dtype == weight.dtype == torch.float32 and x.ndim == 4 and 0 not in x.shape and stride in (1, 2)
    if not good or not countable(weight) or x.shape[1] != weight.shape[1]:
        raise KernelError(f"weights {tuple(weight.shape)} do not fit a map of shape {tuple(x.shape)}.")
    _check_sizes(x.shape[1], x.shape[2:])
    check_threads(threads)
    isa = active()
    if isa == REFERENCE:
        return reference.sign_conv2d(x, weight, stride)
    n, _, height, width = x.shape
    out = torch.empty(n, -(-height // stride), -(-width // stride), len(weight), dtype=torch.int16)
    maps, rows = (_plain(values.permute(0, 2, 3, 1)).numpy() for values in (x, weight))
    _sign_product(isa, threads).run(maps, rows, stride, out.numpy())
    return out


def countable(weight: Tensor) -> bool:
    """Whether :func:`sign_conv2d` takes weights of this shape: its kernels' size, whole words, sums of 16 bits."""
    shape = tuple(weight.shape)
    return (
        len(shape) == 4
        and shape[2:] in ((1, 1), (3, 3))
        and min(shape) > 0
        and shape[1] % 32 == 0
        and math.prod(shape[1:]) <= MAX_PRODUCTS
    )


@functools.cache
def _sign_product(isa: str, threads: int) -> Any:
    return _native.SignProduct(isa, threads)


def binary_mlp(
    bits: Tensor, weight: Tensor, branches: str, channels: int, long_range: int | str = "half", threads: int = 1
) -> Tensor:
    """The integer products of each branch of a binary MLP; see :func:`bcdnet.kernels.reference.binary_mlp`."""
    if not branches:
        raise KernelError("a binary MLP needs at least one branch.")
    return Product(weight, channels, 1, branches, long_range, threads)(bits)


def plan(threads: int) -> Any:
    """An empty network for the instruction set in force, with the methods of :class:`reference.Plan`."""
    check_threads(threads)
    return reference.Plan() if active() == REFERENCE else _native.Plan(active(), threads)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int) -> int:
    """``threads``; KernelError unless it is a sensible number of them."""
    if not 1 <= threads <= MAX_THREADS:
        raise KernelError(f"threads must be 1 to {MAX_THREADS:,}, not {threads}.")
    return threads


def _check_sizes(channels: int, sides: Sequence[int]) -> None:
    if channels > MAX_CHANNELS or max(sides, default=0) > MAX_SIDE or math.prod(sides) > MAX_TOKENS:
        raise KernelError(
            f"maps have at most {MAX_CHANNELS:,} channels, sides of {MAX_SIDE:,} and in all {MAX_TOKENS:,} tokens."
        )


def _plain(tensor: Tensor) -> Tensor:
    """The tensor as one block of memory that numpy reads; KernelError if it has no such values."""
    try:
        plain = tensor.detach().cpu().resolve_neg().contiguous()
        if plain.layout == torch.strided and not plain.is_quantized:
            return plain
    except (RuntimeError, TypeError) as error:  # no memory, or no values
        raise KernelError(f"{tuple(tensor.shape)} values cannot be read as one block of memory.") from error
    raise KernelError(f"a tensor of {tensor.layout} and {tensor.dtype} is no plain one.")


def _known(name: str) -> str:
    if name.lower() in isas():
        return name.lower()
    raise KernelError(f"the instruction set {name!r} cannot run here; there are {', '.join(isas())}.")


@functools.cache
def _best() -> str:
    """The first set; the one that its authors could try least is checked against plain C++ first."""
    for name in isas():
        if name != "avx512" or _agrees(name, "portable"):
            return name
        warnings.warn(
            f"The {name} kernels differ from the portable ones on this machine and are left alone; please report it.",
            RuntimeWarning,
            stacklevel=3,
        )
    return REFERENCE


def _agrees(name: str, other: str) -> bool:
    """Whether two sets give the same bits: products by themselves, and every kind of arithmetic of a small network."""
    random = np.random.default_rng(0)
    bits = torch.from_numpy(random.integers(-(2**63), 2**63 - 1, (1, 5, 7, 3), np.int64))
    conv, mlp = (torch.from_numpy(random.integers(0, 256, shape, np.uint8)) for shape in ((70, 9, 20), (3, 70, 20)))
    # Whole numbers where products are fused with additions in one set and not in another.
    image, stem = (random.integers(-4, 5, shape).astype(np.float32) for shape in ((1, 2, 8, 6), (40, 2, 3, 3)))
    layers: list[dict[str, Any]] = []
    for outputs, terms, weight, more in (
        (80, 1, (80, 9, 5), {"repeat": 2}),
        (80, 3, (3, 80, 10), {"branches": "PSL", "distance": 0}),
    ):
        real = {key: random.standard_normal(outputs).astype(np.float32) for key in ("bias", "slope", "shift")}
        real["scale"] = random.standard_normal((terms, outputs)).astype(np.float32)
        real["threshold"] = random.standard_normal(8 * weight[-1]).astype(np.float32)
        layers.append(real | {"weight": random.integers(0, 256, weight, np.uint8)} | more)
    for key, shape in (("reduce", (4, 40)), ("dynamic", (40, 4)), ("offset", (80, 4))):
        layers[0][key] = random.standard_normal(shape).astype(np.float32)
        layers[0][f"{key}_bias"] = random.standard_normal(shape[0]).astype(np.float32)
    layers[0]["gain"] = np.ones(80, np.float32)
    results = []
    for isa in (name, other):
        with use_isa(isa):
            network = plan(1)
            network.set_stem(stem, np.ones(40, np.float32), np.zeros(40, np.float32), stride=1, pooled=False)
            network.add_unit("conv", 40, 80, 3, 1, layers[0])
            network.add_unit("mlp", 80, 80, 1, 1, layers[1])
            network.set_head(np.ones((1, 80), np.float32), np.zeros(1, np.float32))
            arrays = [array for row in network.trace(image, True) for array in row[2:] if array is not None]
            arrays += [binary_conv2d(bits, conv, 160).numpy(), binary_mlp(bits, mlp, "PSL", 160).numpy()]
            results.append(arrays)
    return all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
