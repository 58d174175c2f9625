"""The miniature as a fixture."""

from pathlib import Path

import pytest
from training.miniature import RECIPE, write_data


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """48 training and 20 test pictures in the data set's own files, and a recipe that trains on them in seconds."""
    write_data(tmp_path)
    monkeypatch.setenv("BCDNET_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path
