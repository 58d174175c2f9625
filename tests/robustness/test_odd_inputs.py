"""Whatever is handed to an engine or a kernel is refused in one sentence, or answered as the reference answers it."""

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from robustness.tiny import NETWORKS, differs, is_sentence, network
from torch import Tensor

import bcdnet
from bcdnet import kernels
from bcdnet.engine import Engine
from bcdnet.kernels import KernelError, reference
from bcdnet.model import InputError

FOR_ENGINES, FOR_KERNELS = 600, 400
DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


def sides(factor: int, chance: random.Random) -> tuple[int, int]:
    """Mostly what strides of this product allow, some that they do not, some far from square."""
    if chance.random() < 0.2:
        return chance.randrange(1, 40), chance.randrange(1, 40)
    pair = factor * chance.randrange(1, 4), factor * chance.choice((1, 2, 3, 512 // factor))
    return pair if chance.random() < 0.5 else (pair[1], pair[0])


def values(shape: tuple[int, ...], chance: random.Random) -> Tensor:
    """Images of a usual or an unusual size of values."""
    x = torch.randn(shape)
    scale = chance.choice((1, 1, 1, 0, -0.0, 1e-45, 1e-40, 1e-30, 1e10, 1e25, 1e38))
    if scale == 1e38:
        return x.sign() * 3.0e38
    return x * scale if chance.random() < 0.8 else torch.full(shape, float(scale))


def laid_out(x: Tensor, chance: random.Random) -> Tensor:
    """The same shape, and mostly the same values, in another layout of memory or another state of autograd."""
    n, c, h, w = x.shape
    wide = torch.randn(n, c, 2 * h, w + 3)
    wide[..., ::2, 1 : w + 1] = x
    return chance.choice(
        [
            lambda: x,
            lambda: x.requires_grad_(),
            lambda: torch.nn.Parameter(x) * 1,
            lambda: x.contiguous(memory_format=torch.channels_last),
            lambda: wide[..., ::2, 1 : w + 1],
            lambda: x.transpose(2, 3).contiguous().transpose(2, 3),
            lambda: x.flip(3).flip(3),
            lambda: x[:, :1, :1, :1].expand(n, c, h, w),
            lambda: x[:1].expand(n, c, h, w),
            lambda: torch.complex(x, -x).conj().imag,
            lambda: torch.cat([torch.zeros(1), x.flatten()])[1:].view(n, c, h, w),
        ]
    )()


def not_images(x: Tensor, chance: random.Random) -> Any:
    """Something an engine must refuse."""
    n, c, h, w = x.shape
    bad = x.clone()
    bad[chance.randrange(n), chance.randrange(c), chance.randrange(h), chance.randrange(w)] = chance.choice(
        (float("nan"), float("inf"), -float("inf"))
    )
    return chance.choice(
        [
            lambda: bad,
            lambda: bad,
            lambda: x.to(chance.choice(DTYPES)),
            lambda: x[0],
            lambda: x[None],
            lambda: torch.randn(n, c + 1, h, w),
            lambda: torch.randn(n, 0, h, w),
            lambda: torch.empty(n, c, 0, w),
            lambda: torch.empty(n, c, h, 0),
            lambda: torch.tensor(1.0),
            lambda: x.to_sparse(),
            lambda: x.to("meta"),
            lambda: x.numpy(),
            lambda: x.tolist(),
            lambda: None,
            lambda: torch.zeros(1).expand(1, c, 65_536, 65_536),
            lambda: torch.zeros(1).expand(1, c, 4, 65_536 * 32),
            lambda: torch.zeros(1).expand(2**40, c, 32, 32),
        ]
    )()


@pytest.fixture(scope="module")
def engines() -> list[Engine]:
    """Every tiny network on every instruction set."""
    made = []
    for number, name in enumerate(NETWORKS):
        model = network(name)
        for isa in kernels.isas():
            with kernels.use_isa(isa):
                made.append(bcdnet.pack(model, threads=1 + number % 3))
    return made


def test_odd_images(engines: list[Engine], capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    surprises = []
    for trial in range(FOR_ENGINES):
        chance = random.Random(trial)
        torch.manual_seed(trial)
        engine = engines[chance.randrange(len(engines))]
        config = engine.config
        factor = config.stem_stride * (1 + config.stem_pool) * math.prod(config.strides)
        channels, (height, width) = config.in_channels, sides(factor, chance)
        n = 1 if height * width > 256 else chance.choice((1, 1, 3, 7))
        good = trial % 3 > 0
        x = values((n, channels, height, width), chance)
        given = laid_out(x, chance) if good else not_images(x, chance)
        if good and trial % 20 == 1:
            given = given[:0]
        about = f"{tuple(given.shape)} {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
        label = f"trial {trial} ({config.name} on {engine.isa}, {about})"
        try:
            logits = engine(given)
        except InputError as error:
            counts["refused"] += 1
            # A sound image may only be refused for a side that the strides cannot halve.
            if not is_sentence(str(error)) or (good and "odd map" not in str(error)):
                surprises.append(f"{label}: {error!r}")
        except Exception as error:
            surprises.append(f"{label}: {error!r}")
        else:
            counts["answered"] += 1
            wrong = differs(engine, given, logits) if good else "answered"
            if wrong:
                surprises.append(f"{label}: {wrong}")
    with capsys.disabled():
        print(
            f"\n{FOR_ENGINES} odd images: {counts['refused']} refused, {counts['answered']} answered; "
            f"{len(surprises)} surprises."
        )
    assert not surprises, "\n".join(surprises[:20])
    assert min(counts["refused"], counts["answered"]) > FOR_ENGINES / 4


def odd_operands(chance: random.Random) -> tuple[str, list[Any], bool]:
    """The name of an operator, what it is given, and whether that is sound."""
    n, c, o = chance.choice((1, 1, 3)), chance.choice((1, 3, 4, 20, 64, 65, 128, 200)), chance.choice((1, 5, 33, 70))
    h, w = chance.choice(((1, 1), (1, 40), (40, 1), (2, 3), (7, 7), (chance.randrange(1, 12), chance.randrange(1, 12))))
    bits = torch.randint(-(2**62), 2**62, (n, h, w, -(-c // 64)))  # also beyond the last channel
    threads = chance.choice((1, 1, 2, 5))
    operator = chance.choice(("pack_signs", "binary_conv2d", "binary_mlp"))
    operands: list[Any]
    if operator == "pack_signs":
        x = values((n, c, h, w), chance)
        if chance.random() < 0.2:
            x = torch.where(torch.rand(x.shape) < 0.2, chance.choice((float("nan"), float("inf"))), x)
        operands = [laid_out(x, chance), torch.randn(chance.choice(((c,), (n, c))))]
    elif operator == "binary_conv2d":
        weight = torch.randint(0, 256, (o, chance.choice((1, 9)), -(-c // 8)), dtype=torch.uint8)
        operands = [bits, weight, c, chance.choice((1, 2)), threads]
    else:
        c = -(-c // 4) * 4
        bits = torch.randint(-(2**62), 2**62, (n, h, w, -(-c // 64)))
        kinds = "".join(chance.choice("PSL") for _ in range(chance.choice((1, 3, 9))))
        weight = torch.randint(0, 256, (len(kinds), o, -(-c // 8)), dtype=torch.uint8)
        operands = [bits, weight, kinds, c, chance.choice(("half", 1, 3, 100, 65_536)), threads]
    return operator, operands, True


def spoiled(operator: str, operands: list[Any], chance: random.Random) -> list[Any]:
    """The operands with one that does not fit, or that lies in memory in another way."""
    place = chance.randrange(len(operands))
    old = operands[place]
    choices: list[Callable[[], Any]]
    if isinstance(old, Tensor):
        choices = [
            lambda: old[..., :-1],
            lambda: old[:0],
            lambda: old[None],
            lambda: old.flatten(),
            lambda: torch.cat([old, old], -1),
            lambda: old.to(chance.choice((torch.int32, torch.float64, torch.bool, torch.int8, torch.complex64))),
            lambda: old.to_sparse(),
            lambda: old.to("meta"),
            lambda: old.swapaxes(0, -1),
            lambda: old[:1].expand(2**40, *old.shape[1:]),
            lambda: old.swapaxes(0, -1).contiguous().swapaxes(0, -1),
        ]
    elif isinstance(old, str):
        choices = [lambda: "", lambda: "X", lambda: "PSLPSLPSLP", lambda: "psl", lambda: "third", lambda: "half"]
    else:
        odd = (0, -1, 2, 3, 9, 2**16 + 1, 2**24 + 1, 2**31 - 1, 2**31, 2**63, 10**30)
        choices = [lambda: chance.choice(odd)]
    return [*operands[:place], chance.choice(choices)(), *operands[place + 1 :]]


def test_odd_operands(capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    surprises = []
    isas = kernels.isas()
    for trial in range(FOR_KERNELS):
        chance = random.Random(trial)
        torch.manual_seed(trial)
        operator, operands, good = odd_operands(chance)
        if trial % 2:
            operands, good = spoiled(operator, operands, chance), False
        isa = isas[chance.randrange(len(isas))]
        label = f"trial {trial} ({operator} on {isa})"
        try:
            with kernels.use_isa(isa):
                result = getattr(kernels, operator)(*operands)
        except KernelError as error:
            counts["refused"] += 1
            if good or not is_sentence(str(error)):
                surprises.append(f"{label}: {error!r}")
        except Exception as error:
            surprises.append(f"{label}: {error!r}")
        else:
            counts["answered"] += 1
            plain = [o.detach().contiguous() if isinstance(o, Tensor) else o for o in operands]
            if not torch.equal(result, getattr(reference, operator)(*plain)):
                surprises.append(f"{label}: not the reference's answer")
    with capsys.disabled():
        print(
            f"\n{FOR_KERNELS} odd operands: {counts['refused']} refused, {counts['answered']} answered; "
            f"{len(surprises)} surprises."
        )
    assert not surprises, "\n".join(surprises[:20])
    assert min(counts["refused"], counts["answered"]) > FOR_KERNELS / 4
