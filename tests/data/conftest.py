"""Each tiny data set of `layouts`, written to a fresh folder."""

from pathlib import Path

import layouts
import pytest


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    return layouts.write_imagenet(tmp_path / "imagenet")


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    return layouts.write_cub(tmp_path / "CUB_200_2011")


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    return layouts.write_flowers(tmp_path / "flowers-102")


@pytest.fixture
def aircraft(tmp_path: Path) -> Path:
    return layouts.write_aircraft(tmp_path / "fgvc-aircraft-2013b")


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    return layouts.write_cars(tmp_path / "stanford_cars")


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    return layouts.write_dogs(tmp_path / "dogs")


@pytest.fixture
def elpv(tmp_path: Path) -> Path:
    return layouts.write_elpv(tmp_path / "elpv")
