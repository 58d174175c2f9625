"""Trade-offs: one chart a data set, points picked in chart and table alike, and a design whose cost follows at once."""

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from analysis import tradeoffs
from app import cache, engines
from bcdnet.variants import get_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def tiny_models(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(checkpoints))


def open_page(**query: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    return at.switch_page("views/costs.py").run()


def assert_fine(at: AppTest) -> None:
    assert not at.exception, [e.message for e in at.exception]
    assert not at.error, [e.value for e in at.error]


def finished(at: AppTest) -> AppTest:
    """Run until no job is under way any more."""
    for _ in range(200):
        if not any("Cancel" in button.label for button in at.button):
            return at
        time.sleep(0.1)
        at.run()
    raise AssertionError("a job did not end")


def scatter(at: AppTest) -> list[dict[str, Any]]:
    return json.loads(at.get("plotly_chart")[0].proto.spec)["data"]


def table(at: AppTest) -> pd.DataFrame:
    return next(frame for frame in at.dataframe if frame.proto.alt.startswith("The networks of the chart")).value


def said(at: AppTest) -> str:
    return " ".join(text.value for text in [*at.markdown, *at.caption, *at.info])


def test_time_of_the_papers_networks_is_that_of_the_benchmark_and_says_where() -> None:
    at = open_page(cost_axis="benchmark_ms", cost_mine="True")
    assert_fine(at)
    assert at.selectbox(key="cost_axis").value == "benchmark_ms"
    names = [trace["name"] for trace in scatter(at)]
    assert "accuracy quoted, time measured elsewhere" in names
    line = next(trace for trace in scatter(at) if trace["name"].startswith("bcdnet_a: time estimated"))
    assert line["x"][0] == pytest.approx(tradeoffs.latency_model().estimate(get_config("bcdnet_a")).sum())
    known = table(at).dropna(subset="benchmark_ms")
    assert sorted(known.name) == ["BCDNet-A", "BCDNet-A (R18)", "BCDNet-B", "ReActNet-A"]
    assert known.source.str.contains("measured elsewhere, on ").all() and set(known.cost_kind) == {"measured"}
    assert "time elsewhere" in said(at)


def test_time_here_is_measured_as_a_job_when_it_is_asked_for() -> None:
    at = open_page(cost_set="fashion-mnist")
    assert "latency_ms" not in table(at)
    assert set(table(at).cost_kind) == {"computed"}
    at.selectbox(key="cost_axis").select("latency_ms").run()
    assert_fine(at)  # with a job under way and nothing measured so far
    assert any(button.label == "Cancel" for button in at.button)
    assert_fine(finished(at))
    times = table(at).set_index("name").latency_ms
    assert sorted(times.index) == ["Tiny a_bcdnet", "Tiny b_bcdnet", "Tiny reactnet", "Tiny twin"]
    assert (times > 0).all() and "accuracy and time measured" in {trace["name"] for trace in scatter(at)}
    how = table(at).set_index("name").source
    assert "time: packed, " in how["Tiny a_bcdnet"] and "time: float in PyTorch" in how["Tiny twin"]
    # The paper's networks were not timed here.
    at.radio(key="cost_set").set_value("ImageNet-1K").run()
    assert_fine(at)
    assert at.selectbox(key="cost_axis").value == "ops_full"


def test_sizes_are_those_of_the_files() -> None:
    at = open_page(cost_set="fashion-mnist", cost_axis="packed_mb")
    assert_fine(at)
    sizes = table(at).set_index("name").packed_mb
    model = cache.catalogue()[0][0]
    assert sizes[model.title] == len(engines.packed_file(model, engines.instruction_set())) / 1e6
    assert pd.isna(sizes["Tiny twin"])  # real-valued: it has none
    at.selectbox(key="cost_axis").select("checkpoint_mb").run()
    assert table(at).set_index("name").checkpoint_mb[model.title] == model.path.stat().st_size / 1e6


def test_picked_points_stand_out_in_chart_and_table_and_in_the_link() -> None:
    at = open_page(picked="BCDNet-A,no such network,BCDNet-B")
    assert_fine(at)
    trace = next(trace for trace in scatter(at) if trace["name"] == "accuracy and cost quoted")
    names = [row[2] for row in trace["customdata"]]
    opaque = [name for name, opacity in zip(names, trace["marker"]["opacity"], strict=True) if opacity == 1]
    assert sorted(opaque) == ["BCDNet-A", "BCDNet-B"]
    frame = next(frame for frame in at.dataframe if frame.proto.alt.startswith("The networks of the chart"))
    rows = json.loads(frame.proto.selection_default)["selection"]["rows"]
    assert sorted(frame.value.name.iloc[rows]) == ["BCDNet-A", "BCDNet-B"]
    assert at.query_params["picked"] == "BCDNet-A,BCDNet-B"
    next(button for button in at.button if button.label == "Pick none").click().run()
    trace = next(trace for trace in scatter(at) if trace["name"] == "accuracy and cost quoted")
    assert set(trace["marker"]["opacity"]) == {1}
    assert "picked" not in at.query_params


def metrics(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def test_cost_and_estimated_time_follow_the_design_at_once() -> None:
    at = open_page()
    at.text_input(key="design_blocks").set_value("1, 2, 2, 6, 3").run()
    at.number_input(key="design_groups").set_value(4).run()
    at.selectbox(key="design_branches").select("PS").run()
    assert_fine(at)
    config = get_config("bcdnet_a", blocks=(1, 2, 2, 6, 3), mlp_groups=4, branches="PS")
    assert metrics(at)["OPs"] == f"{tradeoffs.custom_cost(config).ops_full / 1e6:,.2f} M"
    estimate = tradeoffs.latency_model().estimate(config)
    assert metrics(at)["Estimated time"] == f"{estimate.sum():,.2f} ms"
    before = tradeoffs.custom_cost(get_config("bcdnet_a")).ops_full
    change = next(metric for metric in at.metric if metric.label == "OPs").delta
    assert change == f"{100 * (tradeoffs.custom_cost(config).ops_full / before - 1):+.1f} %"
    layers = next(frame for frame in at.dataframe if frame.proto.alt.startswith("Parameters, BOPs")).value
    assert layers.estimated_ms.sum() == pytest.approx(estimate.sum())
    assert "estimated: within" in said(at) and tradeoffs.latency_model().machine in said(at)
    assert at.query_params["design_blocks"] == "1, 2, 2, 6, 3"
    # Another start forgets what was changed in the last one.
    at.selectbox(key="base").select("reactnet_18").run()
    assert_fine(at)
    assert at.text_input(key="design_blocks").value == "4, 4, 4, 4"
    assert metrics(at)["OPs"] == f"{tradeoffs.custom_cost(get_config('reactnet_18')).ops_full / 1e6:,.2f} M"


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("design_blocks", "1, two", "Blocks per stage must be whole numbers"),
        ("design_blocks", "1, 2", "one number for each stage"),
        ("design_blocks", "99, 2, 2, 6, 2", "64 blocks at most"),
        ("design_channels", "64, 100, 256, 512, 1024", "keeps or doubles"),
        ("design_channels", "64, 128, 256, 512, 999999", "4096 channels at most"),
        ("design_strides", "1, 2, 3, 2, 2", "strides must be 1 or 2"),
    ],
)
def test_impossible_geometry_gets_one_sentence(field: str, value: str, sentence: str) -> None:
    at = open_page()
    at.text_input(key=field).set_value(value).run()
    assert not at.exception
    assert len(at.error) == 1 and sentence in at.error[0].value
    assert "Estimated time" not in metrics(at)
    assert len(at.get("plotly_chart")) == 1  # the chart of all others is still there


def test_what_cannot_be_packed_says_so_in_place_of_a_time() -> None:
    at = open_page(design_precision="32/1")
    assert_fine(at)
    assert metrics(at)["Estimated time"] == "–"
    assert "only 1/1 networks can be packed" in said(at)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"cost_axis": "benchmark_ms", "cost_mine": "True", "picked": "BCDNet-A", "cost_measure": "ms"},
        {"cost_set": "fashion-mnist", "cost_axis": "checkpoint_mb", "cost_measure": "kilobytes"},
    ],
)
def test_the_code_of_every_figure_makes_what_is_drawn(
    query: dict[str, str], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = open_page(**query)
    assert_fine(at)
    drawn = [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]
    assert len(at.code) == len(drawn) == 2
    monkeypatch.chdir(checkpoints)  # where the files that the code names lie
    for block in at.code:
        scope: dict[str, Any] = {}
        exec(block.value, scope)
        made = json.loads(scope["figure"].to_json())
        assert any(made["data"] == spec["data"] for spec in drawn), block.value


def test_the_papers_table_that_is_looked_at_is_in_the_link() -> None:
    at = open_page(paper_table="Table 4")
    assert_fine(at)
    tables = [frame.proto.alt for frame in at.dataframe if frame.proto.alt.startswith("The paper's Table")]
    assert tables == ["The paper's Table 4"]
    (tabs,) = at.get("tab_container")
    assert at.tabs[tabs.proto.tab_container.default_tab_index].label == at.query_params["paper_table"] == "Table 4"
