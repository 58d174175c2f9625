"""What cannot compile is installed all the same, says so, and computes on the reference."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "assets/checkpoints/fmnist_bcdnet_a.safetensors"
IMAGES = sorted((ROOT / "assets/images").glob("*.png"))[:3]
BINARIES = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """What a command prints on standard output; the test fails with all it printed if it fails."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"
    return done.stdout


def test_without_a_compiler(tmp_path: Path) -> None:
    # An environment that sees the packages of this one, but not its installation of the project.
    venv.create(tmp_path / "venv", symlinks=True)
    binaries, packages = tmp_path / "venv/bin", next((tmp_path / "venv/lib").glob("*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (binaries / "ninja").symlink_to(BINARIES / "ninja")
    # Nothing on the path could compile, and nothing names a compiler.
    environment = {key: os.environ[key] for key in os.environ.keys() - {"CC", "CXX", "BCDNET_ISA", "PYTHONPATH"}}
    environment["PATH"] = str(binaries)
    options = ("--quiet", "--no-index", "--no-build-isolation", "--no-deps")
    run(binaries / "python", "-m", "pip", "install", *options, "--editable", ROOT, environment=environment)

    says = "from bcdnet import kernels; print(kernels.isas(), kernels.describe())"
    said = run(binaries / "python", "-c", says, cwd=tmp_path, environment=environment)
    assert said.startswith("['reference'] The XNOR kernels are not compiled")

    packed = tmp_path / "packed.safetensors"
    run(binaries / "bcdnet", "pack", CHECKPOINT, "-o", packed, cwd=tmp_path, environment=environment)
    predict = ("predict", packed, *IMAGES, "--engine", "packed", "--json")
    found = json.loads(run(binaries / "bcdnet", *predict, cwd=tmp_path, environment=environment))
    expected = json.loads(run(BINARIES / "bcdnet", *predict, cwd=tmp_path))
    assert len(found) == len(IMAGES) == 3
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["logits"] == pytest.approx(theirs["logits"], rel=1e-4, abs=1e-4)
        assert [top["label"] for top in mine["top"]] == [top["label"] for top in theirs["top"]]


def configure(folder: Path, *options: str, **variables: str) -> str:
    """What cmake warns of when it configures the project."""
    command = [BINARIES / "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options]
    command.append(f"-DCMAKE_MAKE_PROGRAM={BINARIES / 'ninja'}")
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 1", "No C++ compiler was found that works"),
        ('case "$*" in *++20*|*++2a*) exit 1;; esac; exec c++ "$@"', "does not build C++20"),
    ],
)
def test_a_compiler_that_is_of_no_use(tmp_path: Path, script: str, says: str) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    warning = configure(tmp_path / "build", CXX=str(compiler))
    assert f"{says}: bcdnet is installed without its XNOR kernels" in warning


def test_without_the_headers_of_python(tmp_path: Path) -> None:
    warning = configure(tmp_path / "build", "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON")
    assert "The headers of Python were not found: bcdnet is installed without its XNOR kernels" in warning


def test_without_kernels_on_demand(tmp_path: Path) -> None:
    warning = configure(tmp_path / "build", "-DBCDNET_KERNELS=OFF")
    assert "BCDNET_KERNELS is off: bcdnet is installed without its XNOR kernels" in warning
