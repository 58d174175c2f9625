"""What a figure's export menu gives: data that are the figure's, and code that makes the same figure again."""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app.widgets import figure

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"sampling": 1, "receptive": 3}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_every_figure_makes_what_is_drawn(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=120)
    at.query_params["image"] = "7"
    at.run()
    at.switch_page(f"views/{page}.py").run()
    assert not at.exception
    drawn = [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]
    codes = [block.value for block in at.code]
    assert len(codes) == len(drawn) == PAGES[page]
    made = []
    for code in codes:
        scope: dict[str, object] = {}
        exec(code, scope)
        made.append(json.loads(scope["figure"].to_json()))  # type: ignore[attr-defined]
    for spec in made:
        assert any(spec["data"] == other["data"] for other in drawn)


def test_code_names_no_folder_of_the_server() -> None:
    at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=120).run()
    at.switch_page("views/sampling.py").run()
    (code,) = at.code
    assert "bcdnet.load('assets/checkpoints/" in code.value
    assert str(ROOT) not in code.value and os.path.expanduser("~") not in code.value


def test_tables_and_arrays_come_back_as_they_were() -> None:
    table = pd.DataFrame({"layer": ["a", "b"], "share": [1 / 3, 2 / 3]})
    assert pd.read_csv(io.BytesIO(figure.content(table))).equals(table)
    field = np.arange(6.0).reshape(2, 3)
    with np.load(io.BytesIO(figure.content({"field": field})), allow_pickle=False) as arrays:
        assert list(arrays) == ["field"] and np.array_equal(arrays["field"], field)


def test_every_figure_of_a_page_has_a_name_of_its_own() -> None:
    for page in PAGES:
        source = (ROOT / "app" / "views" / f"{page}.py").read_text(encoding="utf-8")
        names = re.findall(r'^            "([a-z-]+)",$', source, re.MULTILINE)
        assert len(names) == len(set(names)) == PAGES[page]
