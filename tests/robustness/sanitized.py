"""Runs pytest on the native module of a sanitized build, in place of the installed one; `make sanitize` calls it.

    LD_PRELOAD=libasan.so python tests/robustness/sanitized.py FOLDER [pytest's arguments]

The address sanitizer must be the first library of the process. What a sanitizer finds is printed and ends the process
with a status other than 0.
"""

import ctypes
import importlib.util
import sys
from pathlib import Path

import pytest

NAME = "bcdnet.kernels._native"


def main(folder: str, *arguments: str) -> int:
    """Pytest's status; 2 if ``folder`` holds no sanitized module, or the sanitizer is not loaded."""
    built = sorted(Path(folder).glob("_native*.so"))
    if len(built) != 1 or not all(name in built[0].read_bytes() for name in (b"__asan_init", b"__ubsan_handle")):
        print(f"{folder} holds no module that was built with the sanitizers.", file=sys.stderr)
        return 2
    if not hasattr(ctypes.CDLL(None), "__asan_init"):
        print("The address sanitizer is not loaded: set LD_PRELOAD.", file=sys.stderr)
        return 2
    spec = importlib.util.spec_from_file_location(NAME, built[0])
    assert spec is not None and spec.loader is not None
    sys.modules[NAME] = importlib.util.module_from_spec(spec)  # where bcdnet.kernels looks first
    spec.loader.exec_module(sys.modules[NAME])
    # Captured file descriptors would swallow the sanitizers' reports.
    return int(pytest.main(["--capture=sys", *arguments]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
