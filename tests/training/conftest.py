"""The miniature as a fixture."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training.miniature import RECIPE, write_data


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """48 training and 20 test pictures in the data set's own files, and a recipe that trains on them in seconds.

    One thread computes, as in the programs that tests start: a sum that is cut in two may round to other bits.
    """
    write_data(tmp_path)
    monkeypatch.setenv("BCDNET_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield path
    torch.set_num_threads(threads)
