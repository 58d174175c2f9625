"""The files that set the project up say what they are meant to say."""

import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from streamlit import config

ROOT = Path(__file__).resolve().parent.parent


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in table.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def streamlit_options() -> dict[str, Any]:
    return flat(tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text()))


def test_streamlit_knows_every_option() -> None:
    # Streamlit passes over an unknown key with no more than a warning in the log.
    assert set(streamlit_options()) <= set(config.get_config_options())


def test_the_server_is_closed_to_surprises() -> None:
    options = streamlit_options()
    assert options["server.enableXsrfProtection"] is True and options["server.enableCORS"] is True
    assert options["server.maxUploadSize"] == 100
    assert options["client.showErrorDetails"] == "none" and options["browser.gatherUsageStats"] is False


def test_colour_scales_have_the_ten_colours_that_streamlit_demands() -> None:
    options = streamlit_options()
    for theme in ("light", "dark"):
        for scale in ("Sequential", "Diverging"):
            colours = options[f"theme.{theme}.chart{scale}Colors"]
            assert len(set(colours)) == 10 and all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)


def pins(file: str) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    names = {}
    for line in lines:
        if line and not line.startswith("-r "):
            name, exact, version = line.partition("==")
            assert exact and version, f"{file}: {line!r} is not pinned"
            names[re.sub(r"[-_.]+", "-", name).lower()] = version
    return names


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_pinned_and_free_of_cuda(file: str) -> None:
    assert pins(file)
    assert not [name for name in pins(file) if name.startswith(("nvidia", "cuda", "triton"))]


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=~!\[ ]", line)[0].lower() for line in project["dependencies"]}
    assert declared <= set(pins("requirements.txt"))


def test_tests_have_no_network() -> None:
    with pytest.raises(OSError, match="none of them may connect"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_programs_that_tests_start_have_no_network_either() -> None:
    with socket.create_server(("127.0.0.1", 0)) as here:
        for address, reached in ((here.getsockname(), True), (("192.0.2.1", 9), False)):
            code = f"import socket; socket.create_connection({address!r}, timeout=5)"
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert (child.returncode == 0) == reached, child.stderr
            assert ("none of them may connect to 192.0.2.1" in child.stderr) != reached
