"""An engine that gets no memory says so and goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from robustness.tiny import is_sentence, network

import bcdnet
from bcdnet import kernels

SCRIPT = """
import resource, sys
from pathlib import Path
import torch
import bcdnet
from bcdnet.model import InputError

engine = bcdnet.load_engine(sys.argv[1], threads=1)
small, large = torch.ones(1, 3, 12, 12), torch.ones(1, 3, 2048, 2048)
before = engine(small)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
for call in (engine, engine.trace):
    try:
        call(large)
    except InputError as error:
        print(error)
assert torch.equal(engine(small), before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process's memory as Linux does")
def test_no_memory_for_a_large_image(tmp_path: Path) -> None:
    if len(kernels.isas()) == 1:
        pytest.skip("the kernels are not compiled: PyTorch's memory is not what is tested here")
    path = tmp_path / "net.safetensors"
    bcdnet.pack(network("bcdnet_a")).save(path)
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("need more memory than there is" in line and is_sentence(line) for line in lines)
