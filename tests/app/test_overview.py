"""Overview: the shipped models, those of one data set at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
from pages import assert_fine, charts, each_tab, metrics, open_page

from bcdnet.checkpoint import inspect
from bcdnet.files import assets_dir

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("title", "group", "n"), [("Fashion-MNIST", "fmnist", 10_000), ("ELPV solar cells", "elpv", 656)]
)
def test_figures_are_of_one_data_set_and_their_code_makes_them_again(
    title: str, group: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BCDNET_CHECKPOINTS")
    at = open_page()
    at.segmented_control(key="of").set_value(title).run()
    assert_fine(at)
    cards = [inspect(path)["card"] for path in (assets_dir() / "checkpoints").glob(f"{group}_*.safetensors")]
    assert metrics(at)["Trained models"] == str(len(cards))
    said = " ".join(text.value for text in at.markdown)
    assert "measured · accuracies, from each model's card" in said and "computed · sizes" in said
    drawn = [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]
    shown = {trace["y"][0]: trace["x"] for trace in drawn[0]["data"]}
    assert shown == {card["title"]: [card["metrics"]["top1"]] for card in cards}
    assert all(card["metrics"]["n"] == n for card in cards)
    monkeypatch.chdir(ROOT)
    for _ in each_tab(at):
        assert_fine(at)
        assert len(at.code) == charts(at) == 1
        scope: dict[str, Any] = {}
        exec(at.code[0].value, scope)
        (chart,) = at.get("plotly_chart")
        assert json.loads(scope["figure"].to_json())["data"] == json.loads(chart.proto.spec)["data"]


def test_it_starts_at_the_data_set_of_the_model_that_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCDNET_CHECKPOINTS")
    assert open_page(model="elpv_twin").segmented_control(key="of").value == "ELPV solar cells"
    assert open_page(model="elpv_twin", of="Fashion-MNIST").segmented_control(key="of").value == "Fashion-MNIST"
