"""The layers against explicit loops and hand-computed values, in float64 where signs must not flip by rounding."""

import pytest
import torch
from torch import Tensor, nn

from bcdnet.layers import (
    BinaryConv2d,
    BinaryMLP,
    ContextEmbedding,
    Fold,
    MixerBlock,
    Repeat,
    ResidualUnit,
    RPReLU,
    RSign,
    branch_offsets,
    sample_tokens,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomise(module: nn.Module) -> nn.Module:
    """Random values for everything that starts at a constant, so that no term is hidden by a zero or a one."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "running_var" in name else torch.randn_like(tensor))
    return module


def test_rsign_shifts_before_the_sign() -> None:
    layer = RSign(2)
    layer.bias.data = torch.tensor([0.5, -1.0])
    x = torch.tensor([[-0.6, -0.5, 0.0], [0.9, 1.0, 2.0]]).reshape(1, 2, 1, 3)
    assert layer(x).flatten().tolist() == [-1, 1, 1, -1, 1, 1]


def test_rsign_adds_a_threshold_per_image() -> None:
    layer = RSign(1)
    layer.bias.data = torch.tensor([-0.5])  # static threshold 0.5
    x = torch.ones(2, 1, 1, 1)
    # +1 where x >= 0.5 + threshold: 1 >= 1 holds, 1 >= 1.01 does not.
    assert layer(x, torch.tensor([[0.5], [0.51]])).flatten().tolist() == [1, -1]


def test_real_rsign_only_shifts() -> None:
    layer = RSign(1, binary=False)
    layer.bias.data = torch.tensor([0.25])
    assert layer(torch.full((1, 1, 1, 1), -3.0)).item() == -2.75


def test_rprelu_formula() -> None:
    layer = RPReLU(1)
    layer.shift_in.data, layer.slope.data, layer.shift_out.data = map(torch.tensor, ([1.0], [0.5], [10.0]))
    x = torch.tensor([-3.0, -1.0, 2.0]).reshape(1, 1, 1, 3)
    assert layer(x).flatten().tolist() == [9.0, 10.0, 13.0]


def test_padding_adds_zero_not_plus_one() -> None:
    layer = BinaryConv2d(1, 1, 3)
    layer.weight.data.fill_(2.0)  # alpha = 2, every sign +1
    out = layer(torch.ones(1, 1, 3, 3))
    assert out.squeeze().tolist() == [[8, 12, 8], [12, 18, 12], [8, 12, 8]]  # 2 x valid taps 4, 6, 9


def test_binary_conv_is_scaled_and_real_conv_is_not() -> None:
    weight = torch.tensor([0.5, 1.5]).reshape(1, 2, 1, 1)
    x = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1)
    for binary, expected in ((True, 0.0), (False, -1.0)):
        layer = BinaryConv2d(2, 1, 1, binary=binary)
        layer.weight.data = weight.clone()
        assert layer(x).item() == expected
    assert layer.effective_weight() is layer.weight
    layer.binary = True
    assert layer.effective_weight().flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("branch", "size", "distance", "expected"),
    [
        ("P", (7, 7), "half", [(0, 0), (0, 0), (0, 0), (0, 0)]),
        ("S", (7, 9), "half", [(-1, 0), (1, 0), (0, -1), (0, 1)]),
        ("L", (7, 9), "half", [(-3, 0), (3, 0), (0, -4), (0, 4)]),
        ("L", (6, 8), "half", [(-3, 0), (3, 0), (0, -4), (0, 4)]),
        ("L", (7, 9), 2, [(-2, 0), (2, 0), (0, -2), (0, 2)]),
    ],
)
def test_branch_offsets(branch: str, size: tuple[int, int], distance: int | str, expected: list) -> None:
    assert branch_offsets(branch, *size, distance) == expected


def sampled_at(x: Tensor, branch: str, i: int, j: int, distance: int | str) -> Tensor:
    """One sampled token by the letter of Eq. 11 to 13: quarter after quarter, indices modulo the map; (N, C)."""
    _, c, h, w = x.shape
    rows, cols = {"P": (0, 0), "S": (1, 1), "L": (h // 2, w // 2) if distance == "half" else (distance, distance)}[
        branch
    ]
    quarter = c // 4
    parts = []
    for q, (di, dj) in enumerate([(-rows, 0), (rows, 0), (0, -cols), (0, cols)]):
        parts.append(x[:, q * quarter : (q + 1) * quarter, (i + di) % h, (j + dj) % w])
    return torch.cat(parts, 1)


@pytest.mark.parametrize("size", [(7, 7), (6, 4), (5, 8), (1, 1), (2, 3)])
@pytest.mark.parametrize(("branch", "distance"), [("P", "half"), ("S", "half"), ("L", "half"), ("L", 2), ("L", 9)])
def test_sampled_tokens_wrap_round(size: tuple[int, int], branch: str, distance: int | str) -> None:
    x = torch.randn(2, 8, *size)
    sampled = sample_tokens(x, branch, distance)
    for i in range(size[0]):
        for j in range(size[1]):
            assert torch.equal(sampled[:, :, i, j], sampled_at(x, branch, i, j, distance))


def test_on_an_even_map_both_long_range_directions_are_one_token() -> None:
    x = torch.arange(6 * 4.0).reshape(1, 1, 6, 4).repeat(1, 4, 1, 1)  # every quarter holds the token's number
    up, down, left, right = sample_tokens(x, "L")[0]
    assert torch.equal(up, down)
    assert torch.equal(left, right)
    odd = torch.arange(7 * 5.0).reshape(1, 1, 7, 5).repeat(1, 4, 1, 1)
    up, down, left, right = sample_tokens(odd, "L")[0]
    assert not (up == down).any()
    assert not (left == right).any()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("branches", "distance"), [("PSL", "half"), ("PSS", "half"), ("PLL", "half"), ("PSL", 2), ("S", "half")]
)
def test_binary_mlp_equals_a_loop_over_locations(branches: str, distance: int | str, binary: bool) -> None:
    n, inputs, outputs, h, w = 2, 8, 12, 7, 6
    layer = BinaryMLP(inputs, outputs, branches, distance, binary).double()
    x = torch.where(torch.randn(n, inputs, h, w) >= 0, 1.0, -1.0).double()
    expected = torch.zeros(n, outputs, h, w, dtype=torch.float64)
    for kind, branch in zip(branches, layer.branches, strict=True):
        matrix = branch.weight.detach()[:, :, 0, 0]
        if binary:
            ones = torch.ones_like(matrix)
            matrix = matrix.abs().sum(1, keepdim=True) / inputs * torch.where(matrix >= 0, ones, -ones)
        for i in range(h):
            for j in range(w):
                expected[:, :, i, j] += sampled_at(x, kind, i, j, distance) @ matrix.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_branches_have_weights_of_their_own() -> None:
    layer = BinaryMLP(4, 4, "PSS")
    first, second = layer.branches[1], layer.branches[2]
    assert not torch.equal(first.weight, second.weight)
    assert len(layer.branch_outputs(torch.ones(1, 4, 3, 3))) == 3


@pytest.mark.parametrize("embedding_ratio", [None, 4])
def test_residual_unit_formula(embedding_ratio: int | None) -> None:
    op = BinaryConv2d(8, 8, 3, stride=2)
    unit = ResidualUnit(op, 8, 8, nn.AvgPool2d(2, 2), embedding_ratio=embedding_ratio).double()
    randomise(unit).eval()
    x = torch.randn(3, 8, 6, 4, dtype=torch.float64)

    bits, offset = x + unit.sign.bias.reshape(8, 1, 1), torch.zeros(3, 8, dtype=torch.float64)
    if unit.embedding is not None:
        context = x.mean((2, 3)) @ unit.embedding.reduce.weight.T + unit.embedding.reduce.bias
        threshold = context @ unit.embedding.threshold.weight.T + unit.embedding.threshold.bias
        offset = context @ unit.embedding.offset.weight.T + unit.embedding.offset.bias
        bits = bits - threshold[:, :, None, None]
    bits = torch.where(bits >= 0, 1.0, -1.0).double()
    alpha = op.weight.abs().mean((1, 2, 3), keepdim=True)
    filters = alpha * torch.where(op.weight >= 0, 1.0, -1.0)
    y = nn.functional.conv2d(bits, filters, stride=2, padding=1) + offset[:, :, None, None]
    bn = unit.bn
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    y = (y - bn.running_mean.reshape(8, 1, 1)) * scale.reshape(8, 1, 1) + bn.bias.reshape(8, 1, 1)
    y = y + x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)) + unit.act.shift_in.reshape(8, 1, 1)
    y = torch.where(y > 0, y, y * unit.act.slope.reshape(8, 1, 1)) + unit.act.shift_out.reshape(8, 1, 1)
    torch.testing.assert_close(unit(x), y, rtol=0, atol=1e-10)


def test_gradients_of_a_binary_mlp_unit_by_the_chain_rule() -> None:
    n, c, h, w = 3, 8, 5, 4
    unit = ResidualUnit(BinaryMLP(c, c), c, c).double()
    randomise(unit).train()
    x = torch.randn(n, c, h, w, dtype=torch.float64, requires_grad=True)
    g = torch.randn(n, c, h, w, dtype=torch.float64)  # dL/dy
    weights = [branch.weight for branch in unit.op.branches]
    actual = torch.autograd.grad(unit(x), (x, unit.sign.bias, *weights), g)

    with torch.no_grad():
        shifted = x + unit.sign.bias.reshape(c, 1, 1)
        bits = torch.where(shifted >= 0, 1.0, -1.0).double()
        latent = [weight[:, :, 0, 0] for weight in weights]
        scaled = [v.abs().mean(1, keepdim=True) * torch.where(v >= 0, 1.0, -1.0) for v in latent]
        # What each branch reads: (channels of a quarter, row and column of the output, row and column of the source).
        steps = {"P": (0, 0), "S": (1, 1), "L": (h // 2, w // 2)}
        reads = [
            [
                (slice(q * c // 4, (q + 1) * c // 4), i, j, (i + di) % h, (j + dj) % w)
                for rows, cols in [steps[kind]]
                for q, (di, dj) in enumerate([(-rows, 0), (rows, 0), (0, -cols), (0, cols)])
                for i in range(h)
                for j in range(w)
            ]
            for kind in "PSL"
        ]
        tokens = [torch.empty_like(bits) for _ in reads]
        for sampled, table in zip(tokens, reads, strict=True):
            for quarter, i, j, si, sj in table:
                sampled[:, quarter, i, j] = bits[:, quarter, si, sj]
        z = sum(torch.einsum("oc,nchw->nohw", v, t) for v, t in zip(scaled, tokens, strict=True))
        std = (z.var((0, 2, 3), correction=0, keepdim=True) + unit.bn.eps).sqrt()
        normal = (z - z.mean((0, 2, 3), keepdim=True)) / std
        gamma, beta = unit.bn.weight.reshape(c, 1, 1), unit.bn.bias.reshape(c, 1, 1)
        summed = x + gamma * normal + beta + unit.act.shift_in.reshape(c, 1, 1)

        # Backward: PReLU, batch norm over the batch, and each branch's product, tokens and signs.
        g_sum = torch.where(summed > 0, g, g * unit.act.slope.reshape(c, 1, 1))
        g_normal = gamma * g_sum
        projected = normal * (normal * g_normal).mean((0, 2, 3), keepdim=True)
        g_z = (g_normal - g_normal.mean((0, 2, 3), keepdim=True) - projected) / std
        g_bits = torch.zeros_like(bits)
        expected = []
        for v, s, t, table in zip(latent, scaled, tokens, reads, strict=True):
            passed = torch.einsum("nohw,nchw->oc", g_z, t)
            expected.append(torch.where((v >= -1) & (v <= 1), passed, 0.0)[:, :, None, None])  # not times alpha
            g_tokens = torch.einsum("oc,nohw->nchw", s, g_z)
            for quarter, i, j, si, sj in table:
                g_bits[:, quarter, si, sj] += g_tokens[:, quarter, i, j]
        rising, falling = (shifted >= -1) & (shifted < 0), (shifted >= 0) & (shifted < 1)  # Eq. 9
        g_shifted = g_bits * ((2 + 2 * shifted) * rising + (2 - 2 * shifted) * falling)
        expected = [g_sum + g_shifted, g_shifted.sum((0, 2, 3)), *expected]
    for gradient, by_hand in zip(actual, expected, strict=True):
        torch.testing.assert_close(gradient, by_hand, rtol=0, atol=1e-10)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_doubling_unit_equals_two_parallel_convolutions(training: bool, binary: bool) -> None:
    c = 8
    unit = ResidualUnit(BinaryConv2d(c, 2 * c, 1, binary=binary), c, 2 * c, Repeat(2)).double()
    randomise(unit)
    convs = [BinaryConv2d(c, c, 1, binary=binary).double() for _ in range(2)]
    norms = [nn.BatchNorm2d(c).double() for _ in range(2)]
    for half, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
        rows = slice(half * c, (half + 1) * c)
        conv.weight.data = unit.op.weight.data[rows].clone()
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).data = getattr(unit.bn, name).data[rows].clone()
        norm.train(training)
    unit.train(training)

    x = torch.randn(4, c, 5, 5, dtype=torch.float64)
    bits = unit.sign(x)
    halves = [norm(conv(bits)) for conv, norm in zip(convs, norms, strict=True)]
    expected = unit.act(torch.cat(halves, 1) + torch.cat([x, x], 1))
    torch.testing.assert_close(unit(x), expected, rtol=0, atol=1e-12)


def test_real_op_reads_the_unsigned_input() -> None:
    unit = ResidualUnit(nn.Conv2d(4, 8, 1, groups=4, bias=False), 4, 8, Repeat(2), embedding_ratio=4).eval()
    assert unit.sign is None
    assert unit.embedding is None
    small, large = torch.full((1, 4, 1, 1), 0.1), torch.full((1, 4, 1, 1), 0.2)
    assert not torch.equal(unit.op(small), unit.op(large))
    expected = unit.act(unit.bn(unit.op(large)) + large.repeat(1, 2, 1, 1))
    assert torch.equal(unit(large), expected)


def test_fresh_embedding_changes_nothing_but_can_learn() -> None:
    layer = ContextEmbedding(8, 12)
    threshold, offset = layer(torch.randn(2, 8, 3, 3))
    assert threshold.shape == (2, 8)
    assert offset.shape == (2, 12)
    assert not threshold.any()
    assert not offset.any()
    (threshold.sum() + offset.sum()).backward()
    assert layer.threshold.weight.grad.abs().sum() > 0
    assert layer.offset.weight.grad.abs().sum() > 0


def test_repeat_and_fold() -> None:
    x = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    assert Repeat(2)(x).flatten().tolist() == [1, 2, 1, 2]
    assert Fold(2)(torch.tensor([1.0, 2.0, 3.0, 6.0]).reshape(1, 4, 1, 1)).flatten().tolist() == [2, 4]


def test_mixer_block_mixes_tokens_then_channels() -> None:
    block = MixerBlock(4, 6, 2, True, True).eval()
    x = torch.randn(2, 4, 2, 3)
    tokens = x.reshape(2, 4, 6).permute(0, 2, 1).unsqueeze(-1)  # tokens take the place of channels
    mixed = block.token_down(block.token_up(tokens)).squeeze(-1).permute(0, 2, 1).reshape(2, 4, 2, 3)
    assert torch.equal(block(x), block.channel_down(block.channel_up(mixed)))
