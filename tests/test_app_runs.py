"""The page of training runs without a browser, on logs of a few rows."""

import base64
import datetime
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from run_folders import NEW, OLD, report, write_run
from streamlit.testing.v1 import AppTest

MAIN = str(Path(__file__).resolve().parent.parent / "app" / "main.py")


@pytest.fixture(autouse=True)
def folder(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the reader's own runs; the models on offer have no logs."""
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(checkpoints))
    monkeypatch.setenv("BCDNET_RUNS", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


#: The tabs; the last has a chart for each kind of binary weight.
CURVES, CHANGES = "Loss and accuracy", "Flips and binarization error"
KINDS = "By branch and kind of binary weight"


def now(seconds_ago: float = 0) -> str:
    return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds_ago)).isoformat()


def open_page(**query: str) -> AppTest:
    st.cache_data.clear()  # files are read anew after two seconds only
    at = AppTest.from_file(MAIN, default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    at.switch_page("views/runs.py").run()
    assert not at.exception, [e.message for e in at.exception]
    return at


def read_again(at: AppTest) -> AppTest:
    st.cache_data.clear()
    at.main.button[0].click().run()
    assert not at.exception, [e.message for e in at.exception]
    return at


def said(at: AppTest) -> str:
    return " ".join(e.value for kind in (at.caption, at.info, at.warning, at.markdown) for e in kind)


def titles(at: AppTest) -> list[str]:
    return [json.loads(chart.proto.spec)["layout"]["title"]["text"] for chart in at.get("plotly_chart")]


def where(at: AppTest) -> list[list[float]]:
    """The places on the axis of the first chart's lines."""
    traces = json.loads(at.get("plotly_chart")[0].proto.spec)["data"]
    return [np.frombuffer(base64.b64decode(trace["x"]["bdata"]), trace["x"]["dtype"]).tolist() for trace in traces]


def test_curves_of_several_runs_lie_over_each_other(folder: Path) -> None:
    write_run(folder / "a")
    write_run(folder / "b", log=NEW.replace("0.016", "0.015"), steps=2)
    at = open_page()
    assert at.multiselect(key="runs").value == ["own/a", "own/b"]
    assert titles(at) == ["Training loss", "Top-1 on the test set (%)"]
    assert titles(open_page(runs_tab=KINDS)) == ["3×3 convolutions", "point branch"]
    at = open_page(runs_tab=CHANGES)
    assert titles(at) == ["Binary weights flipped since the row before", "Binarization error, mean |W − α sign W|"]
    error = json.loads(at.get("plotly_chart")[1].proto.spec)["data"]
    assert [trace["line"]["dash"] for trace in error] == ["dot", "solid"] * 2
    assert len({trace["line"]["color"] for trace in error}) == 2
    table = at.dataframe[0].value
    assert table.run.tolist() == ["own/a", "own/b"] and table.state.tolist() == ["stopped", "finished"]
    assert "Read from `own/a/log.csv`, `own/b/log.csv`." in said(at)
    assert table.last_top1.tolist() == [72, 72] and table.error.tolist() == [0.016, 0.015]
    assert "measured · the logs of 2 runs" in said(at) and "never selected on" in said(at)
    assert any("misleads" in expander.label for expander in at.expander)


def test_what_is_seen_is_also_said(folder: Path) -> None:
    write_run(folder / "a")
    for tab in (CURVES, CHANGES, KINDS):
        at = open_page(runs_tab=tab)
        assert all(element.proto.alt for kind in ("plotly_chart", "arrow_data_frame") for element in at.get(kind))
        kinds = ("multiselect", "text_input", "button", "button_group", "toggle", "download_button")
        assert not [w.proto.label for kind in kinds for w in at.get(kind) if not w.proto.help]
        if tab == CHANGES:
            assert "own/a 6.25%" in at.get("plotly_chart")[0].proto.alt
    assert "dotted 32/1" in said(at) and "solid 1/1" in said(at)


def test_what_a_log_lacks_is_not_drawn_but_said(folder: Path) -> None:
    write_run(folder / "old", log=OLD, record=None)
    at = open_page()
    assert titles(at) == ["Training loss", "Top-1 on the test set (%)"] and "Not drawn" not in said(at)
    at = open_page(runs_tab=CHANGES)
    assert not titles(at)
    assert "Not drawn: *Binary weights flipped since the row before* and *Binarization error" in said(at)
    assert not at.main.get("button_group")  # nothing to choose: the log has no iterations
    assert "flips" not in at.dataframe[0].value
    at = open_page(runs_tab=KINDS)
    assert not titles(at) and "tells the kinds of binary weights apart" in at.info[0].value
    write_run(folder / "new")
    at = open_page(runs_tab=CHANGES)
    assert said(at).count("No line for own/old: not in the log.") == 2  # flips and error
    at = open_page(runs_tab=KINDS)
    assert "The log of own/old does not tell kinds apart." in said(at)


def test_epochs_or_iterations(folder: Path) -> None:
    write_run(folder / "a")
    at = open_page()
    assert where(at) == [[1, 1], [2]]
    at.main.get("button_group")[0].set_value("iterations").run()
    assert where(at) == [[100, 200], [300]]
    assert at.query_params["runs_over"] == "iterations"
    assert where(open_page(runs_over="iterations")) == [[100, 200], [300]]
    again = open_page(runs_over="iterations", runs_tab=KINDS, runs_measure="flips")
    assert again.get("plotly_chart")[-1].proto.alt.startswith("point branch over iterations; at the end: own/a 12.50%")


def test_a_run_is_followed_while_it_trains_and_named_when_it_falls_silent(folder: Path) -> None:
    write_run(folder / "a", steps=2)
    write_run(folder / "live", progress=report(updated=now(12), eta_s=252))
    write_run(folder / "lost", progress=report(updated=now(3600)))
    at = open_page(runs="own/live,own/lost")
    (bar,) = at.get("progress")
    assert bar.proto.value == 25
    for words in ("own/live", "step 2 of 2: iteration 100 of 400, about 4 min left"):
        assert words in bar.proto.text
    assert re.search(r"last written 1\d s ago", bar.proto.text)
    assert "own/lost is silent" in at.warning[0].value and "last written 1 h 0 min ago" in at.warning[0].value
    assert at.toggle(key="runs_follow").value is True
    # It ends: the bar is gone, and so is the switch, once the one that fell silent is gone as well.
    for name in ("live", "lost"):
        (folder / name / "progress.json").unlink()
    read_again(at)
    assert not at.get("progress") and not at.toggle


def test_rows_that_are_written_while_one_looks_are_drawn(folder: Path) -> None:
    write_run(folder / "live", log=None, progress=report(updated=now(), eta_s=None))
    at = open_page()
    assert not at.get("plotly_chart") and "own/live: nothing in the log so far" in said(at)
    assert "left" not in at.get("progress")[0].proto.text
    (folder / "live" / "log.csv").write_text(NEW)
    read_again(at)
    assert len(titles(at)) == 2


def test_runs_that_train_are_shown_first(folder: Path) -> None:
    for name in "abcd":
        write_run(folder / name, log=OLD)
    write_run(folder / "new", progress=report(updated=now()))
    assert open_page().multiselect(key="runs").value == ["own/new", "own/a", "own/b"]


def test_a_damaged_run_is_one_sentence_beside_the_others(folder: Path) -> None:
    write_run(folder / "good")
    write_run(folder / "bad", log="step,precision,epoch\n1,1/1,one\n")
    write_run(folder / "odd", progress={"step": 1})
    at = open_page(runs="own/good")
    assert [w.value for w in at.warning] == [
        "bad/log.csv holds something other than a number where one belongs; restore it, or take the run out of the "
        "folder.",
        "odd/progress.json is no report of a run that trains; remove it if the run has ended.",
    ]
    assert len(titles(at)) == 2


def test_a_typed_folder_takes_the_place_of_the_usual_one(folder: Path, tmp_path: Path) -> None:
    write_run(folder / "usual")
    write_run(tmp_path / "else" / "x, y")
    at = open_page()
    at.text_input(key="folder").set_value(str(tmp_path / "else")).run()
    assert at.multiselect(key="runs").options == ["else/x, y"]
    assert at.multiselect(key="runs").value == ["else/x%2C%20y"]
    assert at.query_params["runs"] == "else/x%2C%20y"
    # The address restores folder and runs, although a comma parts names there.
    again = open_page(**{name: at.query_params[name] for name in ("folder", "runs")})
    assert again.multiselect(key="runs").value == ["else/x%2C%20y"] and len(titles(again)) == 2
    again.text_input(key="folder").set_value(str(tmp_path / "else" / "x, y")).run()  # a run itself
    assert again.multiselect(key="runs").options == ["else/x, y"]
    again.text_input(key="folder").set_value(str(tmp_path / "nowhere")).run()
    assert "No training runs were found in that folder: there is none of that name" in said(again)
    again.text_input(key="folder").set_value("n" * 5000).run()
    assert "No training runs were found in that folder: there is none of that name" in said(again)
    assert not again.exception
    again.text_input(key="folder").set_value("").run()
    assert again.multiselect(key="runs").options == ["own/usual"] and "folder" not in again.query_params


def test_without_runs_the_page_says_how_to_get_some() -> None:
    at = open_page()
    assert "No training runs were found" in at.info[0].value and "bcdnet train" in at.info[0].value
    assert any("misleads" in expander.label for expander in at.expander)


def test_clearing_the_choice_asks_for_one(folder: Path) -> None:
    write_run(folder / "a")
    at = open_page()
    at.multiselect(key="runs").set_value([]).run()
    assert at.info[0].value == "Choose at least one run." and not at.get("plotly_chart")


def test_the_shipped_logs_are_on_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCDNET_CHECKPOINTS")
    at = open_page()
    assert len(at.multiselect(key="runs").value) == 3 and len(titles(at)) >= 2
    assert at.multiselect(key="runs").value[0] == at.selectbox(key="model").value  # those of the sidebar come first
    assert said(at).count("assets/checkpoints/") == 3


def test_a_shipped_log_that_is_damaged_is_named(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []
    for name in ("twin", "reactnet", "a_bcdnet"):
        (tmp_path / f"{name}.safetensors").write_bytes((checkpoints / f"{name}.safetensors").read_bytes())
        models.append({"id": name, "title": name, "file": f"{name}.safetensors", "log": f"{name}.csv"})
    (tmp_path / "manifest.json").write_text(json.dumps({"models": models}))
    (tmp_path / "twin.csv").write_text(OLD)
    (tmp_path / "reactnet.csv").write_text('step,"')
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    # The overview reads the same logs, so the page is opened where it need not.
    at = AppTest.from_file(MAIN, default_timeout=60)
    at.switch_page("views/runs.py").run()
    assert not at.exception, [e.message for e in at.exception]
    assert at.multiselect(key="runs").options == ["twin"]
    assert len(at.warning) == 1 and "reactnet.csv is no table" in at.warning[0].value


@pytest.mark.parametrize("tab", [CURVES, CHANGES, KINDS])
def test_the_code_of_every_figure_makes_what_is_drawn(tab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCDNET_CHECKPOINTS")
    at = open_page(runs="fmnist_bcdnet_a,fmnist_twin", runs_tab=tab)
    drawn = [json.loads(chart.proto.spec)["data"] for chart in at.get("plotly_chart")]
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    assert len(at.code) == len(drawn) >= 2
    for code, data in zip(at.code, drawn, strict=True):
        scope: dict[str, Any] = {}
        exec(code.value, scope)
        assert json.loads(scope["figure"].to_json())["data"] == data
