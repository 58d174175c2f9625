"""What a figure's export menu gives: data that are the figure's, and code that makes the same figure again."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pages import charts, each_tab, until
from PIL import Image
from streamlit.testing.v1 import AppTest

from app.widgets import figure

ROOT = Path(__file__).resolve().parent.parent
#: Page -> tab -> figures, once its jobs are done: on receptive fields, effective ones of three models. The other
#: tabs of attribution and ledger ask before they compute, and have such a test each of their own.
PAGES = {
    "sampling": {
        "The same as a table": 1,
        "Back to the image": 2,
        "How tokens are rebuilt": 2,
        "Without wrap-round": 2,
    },
    "receptive": {"What can reach it": 1, "From layer to layer": 1, "How much each pixel counts": 3},
    "ledger": {
        "The token": 2,
        "One channel over all tokens": 2,
        "The token as a table": 1,
        "This picture": 1,
        "Shares": 1,
    },
    "binarizing": {"Activations": 4, "Margins": 5, "Thresholds": 5, "Fewest flips": 5, "Information": 3},
    "attributions": {"The methods": 3},
}


@pytest.mark.parametrize("source", ["Test image", "Upload"])
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_every_figure_makes_what_is_drawn(
    page: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=120)
    at.query_params["image"] = "7"
    at.run()
    if source == "Upload":
        pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "your-picture.png")
        at.segmented_control(key="source").set_value("Upload").run()
        at.file_uploader(key="upload").upload("any.png", (tmp_path / "your-picture.png").read_bytes())
    at.switch_page(f"views/{page}.py").run()
    drawn, codes, counts = [], [], {}
    for tab in each_tab(at):
        if tab not in PAGES[page]:
            continue
        until(at, lambda at, tab=tab: charts(at) == PAGES[page][tab])
        assert not at.exception
        counts[tab] = charts(at)
        drawn += [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]
        codes += [block.value for block in at.code]
    assert len(codes) == len(drawn) and counts == PAGES[page]
    assert any("decode_image" in code for code in codes) == (source == "Upload")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)  # where a reader keeps the picture
    for code in dict.fromkeys(codes):
        scope: dict[str, Any] = {}
        exec(code, scope)
        made = json.loads(scope["figure"].to_json())
        assert any(made["data"] == spec["data"] for spec in drawn), code


def test_code_names_no_folder_of_the_server() -> None:
    at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=120).run()
    at.switch_page("views/sampling.py").run()
    (code,) = at.code
    assert "bcdnet.load('assets/checkpoints/" in code.value
    assert str(ROOT) not in code.value


def test_tables_and_arrays_come_back_as_they_were() -> None:
    table = pd.DataFrame({"layer": ["a", "b"], "share": [1 / 3, 2 / 3]})
    assert pd.read_csv(io.BytesIO(figure.content(table))).equals(table)
    field = np.arange(6.0).reshape(2, 3)
    with np.load(io.BytesIO(figure.content({"field": field})), allow_pickle=False) as arrays:
        assert list(arrays) == ["field"] and np.array_equal(arrays["field"], field)
