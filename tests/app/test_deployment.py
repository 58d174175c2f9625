"""Deployment: what a reader takes away from its figures. What it says is in tests/test_app.py."""

import json
from pathlib import Path
from typing import Any

import pytest
from pages import assert_fine, each_tab, metrics, open_page

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("model", ["fmnist_bcdnet_a", "fmnist_bcdnet_b"])
def test_the_code_of_every_figure_makes_what_is_drawn(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCDNET_CHECKPOINTS")
    at = open_page("deployment", model=model, image="7")
    assert_fine(at)
    differ = metrics(at)["Bits that differ"] != "0"
    monkeypatch.chdir(ROOT)
    counts = []
    for _ in each_tab(at):
        assert_fine(at)
        drawn = {chart.proto.alt: json.loads(chart.proto.spec)["data"] for chart in at.get("plotly_chart")}
        counts.append(len(drawn))
        for code, (alt, data) in zip(at.code, drawn.items(), strict=True):
            scope: dict[str, Any] = {}
            exec(code.value, scope)
            made = json.loads(scope["figure"].to_json())["data"]
            if alt.startswith("Time of every layer"):  # measured anew
                assert [trace.get("y") for trace in made] == [trace.get("y") for trace in data]
            else:
                assert made == data, alt
    assert counts == [2 + differ, 1, 1, 0]  # nothing was timed
