"""Every page runs on tiny untrained checkpoints, and begins with nothing kept of the page before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st


@pytest.fixture(autouse=True)
def tiny_models(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(checkpoints))
    yield
    st.cache_resource.clear()
