"""Every instruction set against naive loops, also those of another processor, which an emulator runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CROSS = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_EXE_LINKER_FLAGS=-static"]


def run(*command: str | Path) -> str:
    """What a command prints; the test fails with all it printed if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"
    return done.stdout


def build(folder: Path, *options: str) -> Path:
    """Configure and compile the program in ``isa_check.cpp``."""
    run("cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DBCDNET_ISA_CHECK=ON", *options)
    run("cmake", "--build", folder, "--parallel", "1")
    return folder / "isa_check"


@pytest.fixture(autouse=True)
def tools_of_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """cmake and ninja are those that pip installed beside Python."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def test_the_sets_of_this_processor(tmp_path: Path) -> None:
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler: the instruction sets of this processor are not checked by themselves")
    program = build(tmp_path / "native")
    names = run(program).split()
    assert names[-1] == "portable"
    for name in names:
        assert run(program, name).startswith(f"{name}: ")
    assert subprocess.run([program, "abacus"]).returncode == 2


def test_neon_under_emulation(tmp_path: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not compiler or not emulator:
        notice = "NEON is not checked: that takes aarch64-linux-gnu-g++ and qemu-aarch64 (see .ci/run)"
        if os.environ.get("BCDNET_REQUIRE_NEON"):
            pytest.fail(notice)
        pytest.skip(notice)
    program = build(tmp_path / "aarch64", *CROSS, f"-DCMAKE_CXX_COMPILER={compiler}")
    assert run(emulator, program).split() == ["neon", "portable"]
    for name in ("neon", "portable"):
        assert run(emulator, program, name).startswith(f"{name}: ")
