"""Whole numbers from bits: the reference against loops written by hand, every instruction set against the reference."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from bcdnet import kernels
from bcdnet.kernels import KernelError, Product, binary_conv2d, binary_mlp, pack_signs, reference, use_isa

#: With no compiled kernels there is nothing to compare, and pytest says that it skips.
COMPILED = kernels.isas()[:-1]
ALL = kernels.isas()

# N, C, O, H, W, kernel, stride
CONVOLUTIONS = [
    (1, 1, 1, 1, 1, 3, 1),
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 65, 1, 1, 3, 2),
    (3, 65, 3, 5, 9, 3, 1),
    (1, 31, 33, 1, 17, 3, 1),
    (1, 33, 64, 17, 1, 3, 1),
    (1, 32, 32, 2, 2, 3, 2),
    (2, 64, 64, 8, 8, 3, 2),
    (3, 65, 33, 7, 5, 3, 2),
    (1, 63, 1, 9, 3, 1, 2),
    (3, 100, 33, 5, 5, 1, 2),
    (1, 127, 65, 3, 64, 3, 1),
    (1, 128, 128, 64, 3, 3, 1),
    (1, 129, 97, 1, 200, 1, 1),
    (2, 512, 130, 14, 14, 3, 1),
    (1, 1024, 1024, 7, 7, 1, 1),
    (1, 8192, 3, 3, 3, 3, 1),
    (1, 9000, 3, 2, 2, 3, 1),  # 81,000 bits on a sum: more than 16 hold
    (1, 21_792, 2, 3, 3, 3, 1),  # 6,129 words of 32 bits on a sum
    (1, 54_496, 2, 3, 3, 3, 1),  # 15,327
    (1, 70_000, 2, 1, 2, 1, 1),
]

# N, C, O, H, W, branches, long_range
MLPS = [
    (1, 4, 1, 1, 1, "PSL", "half"),
    (3, 96, 96, 7, 7, "PSL", "half"),
    (1, 100, 33, 6, 6, "PSS", "half"),
    (1, 1024, 130, 7, 7, "PSL", "half"),  # quarters that start at a word of their own
    (2, 128, 65, 5, 6, "SLP", 3),
    (1, 256, 64, 4, 4, "PLL", "half"),
    (1, 260, 31, 1, 9, "LLS", 2),
    (1, 8, 70, 9, 1, "S", "half"),
    (1, 124, 32, 3, 8, "L", 1),
    (2, 65, 32, 3, 4, "P", "half"),
    (1, 132, 5, 2, 2, "PSLLSPPSL", 1),
    (1, 64, 64, 3, 5, "PL", 100),  # farther than the map is wide
    (1, 64, 64, 4, 3, "PL", 65_536),
    (1, 36_000, 2, 2, 2, "PSL", "half"),
]


def random(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def words(bits: np.ndarray) -> Tensor:
    """Bits (N, C, H, W) -> int64 (N, H, W, ceil(C/64)), each word put together bit by bit."""
    n, channels, height, width = bits.shape
    packed = np.zeros((n, height, width, -(-channels // 64)), np.uint64)
    for c in range(channels):
        packed[..., c // 64] |= bits[:, c].astype(np.uint64) << np.uint64(c % 64)
    return torch.from_numpy(packed.view(np.int64))


def weight_bytes(bits: np.ndarray) -> Tensor:
    """Bits (..., C) -> uint8 (..., ceil(C/8)), each byte put together bit by bit."""
    packed = np.zeros((*bits.shape[:-1], -(-bits.shape[-1] // 8)), np.uint8)
    for c in range(bits.shape[-1]):
        packed[..., c // 8] |= bits[..., c].astype(np.uint8) << np.uint8(c % 8)
    return torch.from_numpy(packed)


def conv_operands(case: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, int, int]:
    n, c, o, h, w, kernel, stride = case
    g = random(seed, *case)
    bits = words(g.integers(0, 2, (n, c, h, w)))
    # The bits beyond C of a last byte are left as they fall: nobody may count them.
    return bits, torch.from_numpy(g.integers(0, 256, (o, kernel**2, -(-c // 8)), np.uint8)), c, stride


def mlp_operands(case: tuple, seed: int = 0) -> tuple[Tensor, Tensor, str, int, int | str]:
    n, c, o, h, w, branches, long_range = case
    g = random(seed, n, c, o, h, w)
    bits = words(g.integers(0, 2, (n, c, h, w)))
    return bits, torch.from_numpy(g.integers(0, 256, (len(branches), o, -(-c // 8)), np.uint8)), branches, c, long_range


# The reference against loops that share nothing with it


@pytest.mark.parametrize(
    "case",
    [
        (1, 1, 1, 1, 1, 3, 1),
        (2, 3, 5, 4, 3, 3, 1),
        (1, 65, 2, 5, 3, 3, 2),
        (2, 9, 3, 4, 6, 3, 2),
        (1, 64, 3, 3, 3, 1, 1),
        (1, 7, 2, 5, 5, 1, 2),
    ],
    ids=str,
)
def test_reference_convolution_by_hand(case: tuple[int, ...]) -> None:
    n, c, o, h, w, kernel, stride = case
    g, pad = random(*case), case[5] // 2
    a, b = g.choice([-1, 1], (n, c, h, w)), g.choice([-1, 1], (o, kernel, kernel, c))
    rows, columns = range(0, h + 2 * pad - kernel + 1, stride), range(0, w + 2 * pad - kernel + 1, stride)
    expected = np.zeros((n, len(rows), len(columns), o), np.int64)
    for image, (i, y), (j, x), out in itertools.product(range(n), enumerate(rows), enumerate(columns), range(o)):
        for ky, kx in itertools.product(range(kernel), repeat=2):
            row, column = y + ky - pad, x + kx - pad
            if 0 <= row < h and 0 <= column < w:
                expected[image, i, j, out] += int(a[image, :, row, column] @ b[out, ky, kx])
    found = reference.binary_conv2d(words(a > 0), weight_bytes((b > 0).reshape(o, -1, c)), c, stride)
    assert found.dtype == torch.int32
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    "case",
    [
        (1, 4, 2, 1, 1, "PSL", "half"),
        (2, 8, 3, 4, 4, "PSL", "half"),
        (1, 12, 2, 3, 5, "LSP", "half"),
        (1, 68, 2, 2, 7, "PSS", "half"),
        (1, 8, 2, 5, 3, "PLL", 2),
        (1, 4, 1, 3, 3, "L", 7),
        (1, 5, 2, 3, 2, "PP", "half"),
    ],
    ids=str,
)
def test_reference_mlp_by_hand(case: tuple) -> None:
    n, c, o, h, w, branches, long_range = case
    g = random(n, c, o, h, w)
    a, b = g.choice([-1, 1], (n, c, h, w)), g.choice([-1, 1], (len(branches), o, c))
    expected = np.zeros((len(branches), n, h, w, o), np.int64)
    for (branch, kind), i, j, channel in itertools.product(enumerate(branches), range(h), range(w), range(c)):
        up = {"P": 0, "S": 1, "L": h // 2 if long_range == "half" else long_range}[kind]
        across = {"P": 0, "S": 1, "L": w // 2 if long_range == "half" else long_range}[kind]
        # Eq. 12: the quarters of the channels come from above, below, left and right, round the edges.
        quarter = 4 * channel // c
        row, column = [(i - up, j), (i + up, j), (i, j - across), (i, j + across)][quarter]
        expected[branch, :, i, j] += a[:, channel, row % h, column % w, None] * b[branch, :, channel]
    found = reference.binary_mlp(words(a > 0), weight_bytes(b > 0), branches, c, long_range)
    assert found.dtype == torch.int32
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("isa", ALL)
@pytest.mark.parametrize("channels", [1, 3, 31, 32, 33, 63, 64, 65, 130])
def test_signs_by_hand(isa: str, channels: int) -> None:
    g = random(channels)
    x = g.integers(-2, 3, (3, channels, 4, 5)).astype(np.float32)  # whole numbers: many meet their threshold
    x[x == 0] *= g.choice([-1, 1], (x == 0).sum())  # -0 among them
    of_channel = g.integers(-1, 2, channels).astype(np.float32)
    of_image = g.integers(-1, 2, (3, channels)).astype(np.float32)
    with use_isa(isa):
        for thresholds in (of_channel, of_image):
            expected = words(x >= thresholds.reshape(-1, channels, 1, 1))
            found = pack_signs(torch.from_numpy(x), torch.from_numpy(thresholds))
            assert found.dtype == torch.int64 and torch.equal(found, expected)


@pytest.mark.parametrize("isa", ALL)
def test_signs_at_and_beside_the_threshold(isa: str) -> None:
    limits = torch.tensor([0.0, -0.0, 0.1, -3.5, 1e-45, -1e-45, 3e38, float("inf"), -float("inf")])
    below, above = (torch.nextafter(limits, torch.full_like(limits, end)) for end in (-float("inf"), float("inf")))
    not_a_number = torch.full_like(limits, float("nan"))
    x = torch.stack([below, limits, above, not_a_number])[..., None, None]
    with use_isa(isa):
        found = reference.from_words(pack_signs(x, limits), 9)[..., 0, 0] > 0
    assert not found[0, :-1].any() and found[0, -1]  # nothing is below -inf
    assert found[1].all() and found[2].all() and not found[3].any()


# Every compiled instruction set against the reference


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("isa", COMPILED)
def test_convolutions_are_exact(isa: str, case: tuple[int, ...], threads: int) -> None:
    bits, weight, channels, stride = conv_operands(case)
    with use_isa(isa):
        found = binary_conv2d(bits, weight, channels, stride, threads)
    expected = reference.binary_conv2d(bits, weight, channels, stride)
    assert found.dtype == expected.dtype == torch.int32 and torch.equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", MLPS, ids=str)
@pytest.mark.parametrize("isa", COMPILED)
def test_mlps_are_exact(isa: str, case: tuple, threads: int) -> None:
    operands = mlp_operands(case)
    with use_isa(isa):
        found = binary_mlp(*operands, threads=threads)
    expected = reference.binary_mlp(*operands)
    assert found.dtype == expected.dtype == torch.int32 and torch.equal(found, expected)


# N, C, O, H, W, kernel, stride
TRAINED = [(1, 32, 1, 1, 1, 3, 1), (2, 96, 65, 5, 9, 3, 2), (3, 160, 33, 7, 4, 3, 1), (2, 64, 130, 6, 6, 1, 1)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", TRAINED, ids=str)
@pytest.mark.parametrize("isa", ALL)
def test_products_of_real_signs_are_exact(isa: str, case: tuple[int, ...], channels_last: bool) -> None:
    n, channels, outputs, height, width, side, stride = case
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-2, 3, (n, channels, height, width), generator=generator).float()  # zeros are +1
    weight = torch.randint(-2, 3, (outputs, channels, side, side), generator=generator).float()
    signs, real = (torch.where(values >= 0, 1.0, -1.0).double() for values in (x, weight))
    want = torch.nn.functional.conv2d(signs, real, stride=stride, padding=side // 2).permute(0, 2, 3, 1).short()
    if channels_last:
        x, weight = (values.to(memory_format=torch.channels_last) for values in (x, weight))
    with use_isa(isa):
        for threads in (1, 2):  # twice each: memory is kept from call to call
            for operands in ((x, weight), (-x, weight), (x, weight)):
                got = kernels.sign_conv2d(*operands, stride, threads)
            assert got.dtype == torch.int16
            assert torch.equal(got, want)


@pytest.mark.parametrize("isa", ALL)
def test_products_of_real_signs_refuse_what_does_not_fit(isa: str) -> None:
    x, weight = torch.ones(1, 32, 4, 4), torch.ones(2, 32, 3, 3)
    for operands in (
        (x, weight[:, :31]),
        (x[:, :31], weight[:, :31]),
        (x.double(), weight),
        (x[0], weight),
        (x, weight[..., :2]),
        (x, weight[:0]),
        (torch.ones(1, 3648, 1, 1), torch.ones(1, 3648, 3, 3)),  # sums beyond 16 bits
        (x, weight, 3),
        (x, weight, 1, 0),
    ):
        with use_isa(isa), pytest.raises(KernelError):
            kernels.sign_conv2d(*operands)


@pytest.mark.parametrize("isa", COMPILED)
def test_random_shapes_are_exact(isa: str) -> None:
    g = random(2022)
    odd = [1, 2, 3, 4, 5, 7, 13, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 192, 257]
    for trial in range(150):
        n, h, w = (int(v) for v in (g.integers(1, 4), g.integers(1, 12), g.integers(1, 12)))
        c, o, kernel, stride = (int(g.choice(a)) for a in (odd, odd, [1, 3], [1, 2]))
        threads = int(g.integers(1, 4))
        conv = conv_operands((n, c, o, h, w, kernel, stride), trial)
        branches = "".join(g.choice(list("PSL"), g.integers(1, 5)))
        mlp = mlp_operands((n, 4 * c, o, h, w, branches, "half" if trial % 2 else int(g.integers(1, 15))), trial)
        with use_isa(isa):
            found = binary_conv2d(*conv, threads=threads), binary_mlp(*mlp, threads=threads)
        assert torch.equal(found[0], reference.binary_conv2d(*conv)), (n, c, o, h, w, kernel, stride, threads)
        assert torch.equal(found[1], reference.binary_mlp(*mlp)), (n, 4 * c, o, h, w, *mlp[2:], threads)


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("channels", [1, 7, 248, 252, 256, 512, 7200, 7281, 7282, 9000, 21_792, 54_496])
def test_counters_hold_when_every_bit_differs_or_none(isa: str, channels: int) -> None:
    """Sums of bytes and shorts inside the kernels are fullest when all bits differ: 9 x 7,281 is just under 2^16.

    With 21,792 and 54,496 channels, bytes that are not yet widened are left when shorts are full.
    """
    ones = words(np.ones((1, channels, 3, 3)))
    for bit, sign in ((0, -1), (1, 1)):
        weight = weight_bytes(np.full((33, 9, channels), bit))
        with use_isa(isa):
            found = binary_conv2d(ones, weight, channels)
            mlp = binary_mlp(ones, weight[:, 0].expand(2, -1, -1), "PP", channels)
        taps = torch.tensor([[4, 6, 4], [6, 9, 6], [4, 6, 4]], dtype=torch.int32)
        assert torch.equal(found[0], (sign * channels * taps)[..., None].expand(-1, -1, 33))
        assert (mlp == sign * channels).all()


@pytest.mark.parametrize("isa", ALL)
@pytest.mark.parametrize("channels", [1, 4, 36, 60, 68, 100])
def test_bits_beyond_the_channels_are_ignored(isa: str, channels: int) -> None:
    g = random(channels)
    conv = g.integers(0, 2, (5, 9, channels))
    for garbage in (0, 1):
        bits = g.integers(0, 2, (2, channels, 4, 3))
        clean = words(bits)
        dirty = words(np.concatenate([bits, np.full((2, -channels % 64, 4, 3), garbage)], 1))
        weight = weight_bytes(np.concatenate([conv, np.full((5, 9, -channels % 8), garbage)], -1))
        with use_isa(isa):
            assert torch.equal(
                binary_conv2d(dirty, weight, channels), reference.binary_conv2d(clean, weight_bytes(conv), channels)
            )
            if channels % 4 == 0:
                mlp = weight[:, :3].transpose(0, 1)
                found, expected = (
                    binary_mlp(dirty, mlp, "PSL", channels),
                    reference.binary_mlp(clean, mlp, "PSL", channels),
                )
                assert torch.equal(found, expected)


@pytest.mark.parametrize("isa", ALL)
def test_arrays_need_not_be_contiguous(isa: str) -> None:
    x = torch.randn(5, 6, 70, 2, generator=torch.Generator().manual_seed(0)).permute(3, 2, 0, 1)
    thresholds = torch.randn(140, generator=torch.Generator().manual_seed(1))[::2]
    bits, weight, channels, _ = conv_operands((1, 96, 66, 4, 8, 3, 1))
    with use_isa(isa):
        assert torch.equal(pack_signs(x, thresholds), reference.pack_signs(x, thresholds))
        found = binary_conv2d(bits[:, :, ::2], weight[::2], channels)
    assert torch.equal(found, reference.binary_conv2d(bits[:, :, ::2].contiguous(), weight[::2], channels))


@pytest.mark.parametrize("isa", ALL)
def test_a_product_is_used_again_on_other_maps(isa: str) -> None:
    _, weight, channels, _ = conv_operands((1, 40, 70, 1, 1, 3, 1))
    with use_isa(isa):
        product = Product(weight, channels, threads=2)
    assert product.isa == isa
    for n, h, w in [(1, 9, 9), (3, 2, 1), (1, 1, 1), (2, 12, 7)]:  # outside the block: it keeps what it was made for
        bits = words(random(n, h, w).integers(0, 2, (n, channels, h, w)))
        assert torch.equal(product(bits), reference.binary_conv2d(bits, weight, channels))


@pytest.mark.parametrize("isa", ALL)
def test_operands_that_do_not_fit(isa: str) -> None:
    bits, weight, channels, _ = conv_operands((1, 65, 3, 4, 4, 3, 1))
    mlp_bits, mlp_weight, *_ = mlp_operands((1, 64, 3, 4, 4, "PSL", "half"))
    x = torch.zeros(2, 3, 4, 5)
    refused = [
        (pack_signs, (x, torch.zeros(4)), "do not fit"),
        (pack_signs, (x, torch.zeros(3, 2)), "do not fit"),
        (pack_signs, (x[0], torch.zeros(3)), "do not fit"),
        (pack_signs, (x[:, :0], torch.zeros(0)), "do not fit"),
        (binary_conv2d, (bits, weight, 64), "no binary weights for 64 channels"),
        (binary_conv2d, (bits, weight, 0), "no binary weights"),
        (binary_conv2d, (bits, weight[:, :4], channels), "no binary weights"),
        (binary_conv2d, (bits, weight[:0], channels), "no binary weights"),
        (binary_conv2d, (bits, weight.int(), channels), "no binary weights"),
        (binary_conv2d, (bits, weight[0], channels), "no binary weights"),
        (binary_conv2d, (bits, weight, channels, 3), "no binary weights"),
        (binary_conv2d, (bits[..., :1], weight, channels), "no packed map of 65 channels"),
        (binary_conv2d, (bits.int(), weight, channels), "no packed map"),
        (binary_conv2d, (bits[0], weight, channels), "no packed map"),
        (binary_conv2d, (bits[:0], weight, channels), "no packed map"),
        (binary_conv2d, (bits, weight, channels, 1, 0), "threads must be 1 to 1,024, not 0"),
        (binary_conv2d, (bits, weight, channels, 1, 5000), "threads must be"),
        (binary_mlp, (mlp_bits, mlp_weight, "PS", 64), "'PS' do not fit 3 sets"),
        (binary_mlp, (mlp_bits, mlp_weight, "PSX", 64), "'PSX' do not fit"),
        (binary_mlp, (mlp_bits, mlp_weight, "PSL", 63), "multiples of 4, not 63"),
        (binary_mlp, (mlp_bits, mlp_weight, "PSL", 64, 0), "long_range"),
        (binary_mlp, (mlp_bits, mlp_weight, "PSL", 64, 65_537), "long_range"),
        (binary_mlp, (mlp_bits, mlp_weight, "PSL", 64, "far"), "long_range"),
    ]
    with use_isa(isa):
        for action, arguments, complaint in refused:
            with pytest.raises(KernelError, match=complaint) as caught:
                action(*arguments)  # type: ignore[operator]
            assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("isa", kernels.isas())
def test_results_are_written_where_they_are_wanted(isa: str) -> None:
    bits = kernels.pack_signs(torch.randn(2, 40, 5, 3), torch.zeros(40))
    with kernels.use_isa(isa):
        for product, shape in (
            (kernels.Product(torch.randint(0, 256, (33, 9, 5), dtype=torch.uint8), 40), (2, 5, 3, 33)),
            (
                kernels.Product(torch.randint(0, 256, (2, 33, 5), dtype=torch.uint8), 40, branches="PL"),
                (2, 2, 5, 3, 33),
            ),
        ):
            out = torch.full(shape, 7, dtype=torch.int32)
            assert product(bits, out) is out
            assert torch.equal(out, product(bits))
            for wrong in (out.long(), out[..., 1:], torch.empty(1, dtype=torch.int32)):
                with pytest.raises(KernelError, match="contiguous int32 tensor of shape"):
                    product(bits, wrong)
