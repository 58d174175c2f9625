"""Which instruction set is in force, who may choose it, and what happens where one is missing or wrong."""

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcdnet import kernels
from bcdnet.kernels import KernelError, Product, active, isas, use_isa

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The best set is found anew, without what the environment says."""
    monkeypatch.delenv("BCDNET_ISA", raising=False)
    kernels._best.cache_clear()
    yield monkeypatch
    kernels._best.cache_clear()


def test_the_list_is_what_can_run() -> None:
    names = isas()
    assert names[-1] == "reference" and len(set(names)) == len(names)
    assert set(names) <= {"avx512", "avx2", "neon", "portable", "reference"}
    if len(names) > 1:  # compiled
        assert names[-2] == "portable"


def test_the_kernels_are_compiled() -> None:
    """Whoever says that they must be is told if they are not: without them most tests have nothing to compare."""
    if isas() == ["reference"]:
        notice = f"the compiled kernels are missing, and all that they do is untested: {kernels.describe()}"
        if os.environ.get("BCDNET_REQUIRE_KERNELS"):
            pytest.fail(notice)
        pytest.skip(notice)


def test_the_best_one_is_in_force(fresh: pytest.MonkeyPatch) -> None:
    assert active() == isas()[0]


def test_blocks_nest_and_end() -> None:
    before = active()
    with use_isa("reference"):
        assert active() == "reference"
        with use_isa(isas()[0]):
            assert active() == isas()[0]
            with use_isa("reference"):
                assert active() == "reference"
            assert active() == isas()[0]
        assert active() == "reference"
    assert active() == before
    with pytest.raises(ZeroDivisionError), use_isa("reference"):
        _ = 1 / 0
    assert active() == before


def test_a_block_is_of_its_thread_alone() -> None:
    seen: list[str] = []
    before = active()
    with use_isa("reference"):
        thread = threading.Thread(target=lambda: seen.append(active()))
        thread.start()
        thread.join()
    assert seen == [before]


def test_names_may_be_written_in_capitals() -> None:
    with use_isa("Reference"):
        assert active() == "reference"


@pytest.mark.parametrize("name", ["avx9000", "", "Portable "])
def test_unknown_names(name: str) -> None:
    before = active()
    with pytest.raises(KernelError, match=r"cannot run here; there are .*reference\.$"), use_isa(name):
        raise AssertionError("the block was entered")
    assert active() == before


def test_the_environment_chooses_and_a_block_overrules_it(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("BCDNET_ISA", "reference")
    assert active() == "reference"
    with use_isa(isas()[0]):
        assert active() == isas()[0]
    assert active() == "reference"
    fresh.setenv("BCDNET_ISA", "")
    assert active() == isas()[0]
    fresh.setenv("BCDNET_ISA", "avx9000")
    with pytest.raises(KernelError, match="'avx9000' cannot run here"):
        active()


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT, timeout=120
    )


@pytest.mark.parametrize("isa", isas())
def test_a_new_process_obeys_the_environment(isa: str) -> None:
    done = run_python("from bcdnet import kernels as k; print(k.active(), k.describe())", BCDNET_ISA=isa)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == isa
    assert ("reference" in done.stdout.split(maxsplit=1)[1]) == (isa == "reference")


def test_a_product_keeps_the_set_it_was_made_with() -> None:
    weight = torch.zeros(3, 1, 1, dtype=torch.uint8)
    for isa in isas():
        with use_isa(isa):
            product = Product(weight, 8)
        assert product.isa == isa


class WrongProduct(Product):
    """A product whose AVX-512 results are off by two in one place."""

    def __call__(self, bits: torch.Tensor) -> torch.Tensor:
        result = super().__call__(bits).clone()
        if self.isa == "avx512":
            result.flatten()[-1] += 2
        return result


class WrongTrace(kernels.reference.Plan):
    """A network of which AVX-512 rounds the last output's last value otherwise."""

    def trace(self, image: np.ndarray, values: bool) -> list[tuple[str, float, Any, Any, Any]]:
        rows = super().trace(image, values)
        if active() == "avx512":
            last = rows[-2][2]
            last[-1, -1, -1] = np.nextafter(last[-1, -1, -1], np.float32(np.inf))
        return rows


def pretend(
    fresh: pytest.MonkeyPatch, *names: str, plan: type[kernels.reference.Plan] = kernels.reference.Plan
) -> None:
    """Let the processor have these sets; what they compute is done by the reference, networks by ``plan``."""

    class Native:
        @staticmethod
        def isas() -> list[str]:
            return list(names)

        @staticmethod
        def Plan(isa: str, threads: int) -> kernels.reference.Plan:
            return plan()

        class Product:
            def __init__(self, isa: str, threads: int, weight: np.ndarray, *sizes: Any) -> None:
                self.weight, (_, self.channels, _, self.stride, self.branches, _) = torch.from_numpy(weight), sizes

            def run(self, bits: np.ndarray, out: np.ndarray) -> None:
                words = torch.from_numpy(bits.view(np.int64))
                if self.branches:
                    out[:] = kernels.reference.binary_mlp(words, self.weight, self.branches, self.channels).numpy()
                else:
                    out[0] = kernels.reference.binary_conv2d(words, self.weight, self.channels, self.stride).numpy()

    fresh.setattr(kernels, "_native", Native)


def test_avx512_is_taken_where_it_agrees(fresh: pytest.MonkeyPatch) -> None:
    pretend(fresh, "avx512", "avx2", "portable")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert active() == "avx512"


@pytest.mark.parametrize(
    ("product", "plan"), [(WrongProduct, kernels.reference.Plan), (Product, WrongTrace)], ids=["product", "network"]
)
def test_avx512_that_differs_is_left_alone_with_a_warning(
    fresh: pytest.MonkeyPatch, product: type[Product], plan: type[kernels.reference.Plan]
) -> None:
    pretend(fresh, "avx512", "avx2", "portable", plan=plan)
    fresh.setattr(kernels, "Product", product)
    with pytest.warns(RuntimeWarning, match="avx512 kernels differ from the portable ones") as caught:
        assert active() == "avx2"
        assert active() == "avx2"
    assert len(caught) == 1  # said once
    with use_isa("avx512"):  # who insists may still look at it
        assert active() == "avx512"


def test_avx512_whose_real_arithmetic_differs_is_left_alone_too(fresh: pytest.MonkeyPatch) -> None:
    class Off(kernels.reference.Plan):
        def step(self, index: int, x: torch.Tensor) -> kernels.reference.Step:
            step = super().step(index, x)
            step.output[0, 0, 0, 0] += 1e-3
            return step

    pretend(fresh, "avx512", "avx2", "portable")
    fresh.setattr(kernels._native, "Plan", lambda isa, threads: Off() if isa == "avx512" else kernels.reference.Plan())
    with pytest.warns(RuntimeWarning, match="avx512 kernels differ"):
        assert active() == "avx2"


def test_without_compiled_kernels_the_reference_takes_over(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(kernels, "_native", None)
    assert isas() == ["reference"] and active() == "reference"
    assert "not compiled" in kernels.describe() and "install a C++ compiler" in kernels.describe()
    bits = kernels.pack_signs(torch.ones(1, 3, 2, 2), torch.zeros(3))
    assert kernels.binary_conv2d(bits, torch.full((1, 1, 1), 7, dtype=torch.uint8), 3).flatten().tolist() == [3] * 4
    with pytest.raises(KernelError, match="'portable' cannot run here; there are reference"), use_isa("portable"):
        pass
