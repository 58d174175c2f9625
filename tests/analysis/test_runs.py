"""Training logs read, counted and summed up, on runs of a few rows worked out by hand."""

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from run_folders import OLD, report, write_run

from analysis.figures.palette import BLUE, CYCLE, MODELS
from analysis.figures.runs import run_colors, run_curves
from analysis.runs import RunError, all_rows, curves, epochs_before, find_runs, kinds, last_rows, read_run, source_name
from bcdnet.files import assets_dir

NOW = datetime.datetime(2030, 5, 1, 12, 0, 0, tzinfo=datetime.UTC)


def test_epochs_and_iterations_are_counted_on_over_the_steps(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a"))
    assert run.log.epochs.tolist() == [1, 1, 2] and run.log.iterations.tolist() == [100, 200, 300]
    (tmp_path / "old.csv").write_text(OLD)
    old = read_run(tmp_path / "old.csv")
    assert old.name == "old" and old.log.epochs.tolist() == [1, 2, 3, 4, 5]
    assert old.log.iterations.isna().all()
    assert old.log.precision.tolist() == ["32/1", "32/1", "1/1", "1/1", "1/1"]


def test_after_a_step_that_did_not_count_the_sum_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,precision,epoch,iteration\n1,32/1,,10\n1,32/1,,20\n2,1/1,1,10\n2,1/1,2,20\n")
    run = read_run(path)
    assert run.log.epochs.isna().all() and run.log.iterations.tolist() == [10, 20, 30, 40]


def test_curves_hold_the_known_values_of_the_runs_that_have_the_column(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text(OLD)
    runs = [read_run(tmp_path / "old.csv"), read_run(write_run(tmp_path / "new"))]
    flips = curves(runs, "flips")
    assert flips.run.tolist() == ["new", "new"] and flips.value.tolist() == [0.125, 0.0625]
    assert flips.iterations.tolist() == [200, 300] and flips.step.tolist() == [1, 2]
    loss = curves(runs, "train_loss")
    assert loss.value.tolist() == [1.5, 1.0, 1.2, 0.9, 1.5, 1.2, 1.1]  # without the empty cell
    assert curves(runs, "no_such_column").empty and list(curves([], "flips")) == list(flips)
    assert kinds(runs) == ["conv3x3", "P"] and kinds(runs[:1]) == []


def test_epochs_before_are_those_of_the_whole_line() -> None:
    def log(epochs: int) -> pd.DataFrame:
        return pd.DataFrame({"test_top1": [None, *range(epochs)]}, dtype=float)

    logs = {"c": log(7), "a": log(3), "b": log(5), "orphan": log(2), "x": log(1), "y": log(1)}
    origins = {"b": "a", "c": "b", "orphan": "unknown", "a": "None", "x": "y", "y": "x"}
    assert epochs_before(logs, origins) == {"a": 0, "b": 3, "c": 8, "orphan": 0, "x": 1, "y": 1}


def test_the_last_row_and_the_best_test_accuracy_of_the_last_step(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text(OLD)
    old, new = last_rows([read_run(tmp_path / "old.csv"), read_run(write_run(tmp_path / "new"))]).to_dict("records")
    # 80 % was reached as well, but in step 1, by another network.
    assert (old["last_top1"], old["best_top1"], old["best_epochs"]) == (78, 79, 4)
    assert (old["step"], old["precision"], old["epochs"], old["lr"]) == (2, "1/1", 5, 0)
    assert old["seconds"] == 60 and old["train_loss"] != old["train_loss"]
    assert (new["flips"], new["error"], new["iterations"], new["seconds"]) == (0.0625, 0.016, 300, 15)


def test_a_run_without_rows_has_a_line_of_unknowns(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "fresh", log=None, progress=report()))
    assert len(run.log) == 0 and run.state(NOW) == "training"
    table = last_rows([run])
    assert table.run.tolist() == ["fresh"] and table.drop(columns="run").isna().all(axis=None)
    assert curves([run], "train_loss").empty and kinds([run]) == []


def test_rows_of_several_logs_keep_their_run_and_source(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text(OLD)
    together = all_rows([read_run(tmp_path / "old.csv"), read_run(write_run(tmp_path / "runs" / "new"))])
    assert together.run.tolist() == ["old"] * 5 + ["new"] * 3 and list(together)[:3] == ["run", "source", "step"]
    assert together.source.iloc[-1] == "runs/new/log.csv"


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({"progress": report()}, "training"),
        ({"progress": report(updated="2030-05-01T11:57:00+00:00")}, "training"),  # 180 s
        ({"progress": report(updated="2030-05-01T11:56:59+00:00")}, "silent"),
        ({"progress": report(updated="2030-05-01T13:59:48+02:00")}, "training"),
        ({"progress": report(updated="2030-05-01T11:59:48")}, "training"),  # without a zone: UTC
        ({"steps": 2, "progress": report()}, "finished"),
        ({"steps": 2}, "finished"),
        ({"steps": 1}, "stopped"),
        ({"record": None}, "log only"),
    ],
)
def test_the_state_of_a_run(files: dict, state: str, tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "a", **files)).state(NOW) == state


def test_a_run_whose_process_is_gone_is_stopped_at_once(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = platform.node()
    for number, (changes, state) in enumerate(
        [
            ({"process": os.getpid(), "host": here}, "training"),
            ({"process": ended.pid, "host": here}, "stopped"),
            ({"process": ended.pid, "host": here + "x"}, "training"),  # who knows
            ({"process": 10**30, "host": here}, "training"),
            ({"process": -1, "host": here}, "training"),  # would ask all processes
            ({"process": "1", "host": here}, "training"),
            ({"process": os.getpid(), "host": here, "stopped": True}, "stopped"),
            ({"process": os.getpid(), "host": here, "updated": "2030-05-01T11:50:00Z"}, "silent"),
        ]
    ):
        assert read_run(write_run(tmp_path / str(number), progress=report(**changes))).state(NOW) == state


def test_silence_is_counted_from_the_last_report(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", progress=report()))
    assert run.silent_for(NOW) == 12 and run.progress is not None and run.progress.eta_s == 60
    ahead = read_run(write_run(tmp_path / "b", progress=report(updated="2030-05-01T12:00:09Z", eta_s=None)))
    assert ahead.silent_for(NOW) == 0 and ahead.progress is not None and ahead.progress.eta_s is None
    endless = read_run(write_run(tmp_path / "c", progress=report(eta_s=float("inf"))))
    assert endless.progress is not None and endless.progress.eta_s is None


def test_runs_of_a_folder_are_found_by_name_and_a_run_is_found_itself(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_run(tmp_path / "runs" / name)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "stray.csv").write_text(OLD)
    assert [run.name for run in find_runs(tmp_path / "runs")] == ["a", "b"]
    assert [run.name for run in find_runs(tmp_path / "runs" / "a")] == ["a"]
    assert source_name(find_runs(tmp_path / "runs")[0]) == "runs/a/log.csv"


@pytest.mark.parametrize("name", ["missing", "file", "null\0", "x" * 5000, "~nobody-of-this-name/runs"])
def test_what_is_no_folder_holds_no_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert find_runs(Path(name) if name.startswith("~") else tmp_path / name) == []


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("", "no table"),
        ("a,b\n1,2\n", "has not the columns"),
        ("step,precision,epoch,epoch\n1,1/1,1,1\n", "has not the columns"),
        ("step,precision,epoch\n1,1/1,1\n1,1/1\n", "2 values in line 3, not 3"),
        ("step,precision,epoch\n1,1/1,1,9\n", "4 values in line 2, not 3"),
        ("step,precision,epoch\n1,1/1,first\n", "other than a number"),
        ("step,precision,epoch\n,1/1,1\n", "other than a number"),
        ('step,precision,epoch\n"1,1/1,1\n', "no table"),
        (b"\xff\xfe\x00\x01", "cannot be read"),
    ],
)
def test_a_damaged_log_is_one_sentence_and_the_other_runs_stay(log: str | bytes, says: str, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "good")
    damaged = write_run(tmp_path / "runs" / "damaged")
    (damaged / "log.csv").write_bytes(log if isinstance(log, bytes) else log.encode())
    with pytest.raises(RunError, match=says) as caught:
        read_run(damaged)
    assert "\n" not in str(caught.value) and "damaged/log.csv" in str(caught.value)
    first, second = find_runs(tmp_path / "runs")
    assert first.problem == str(caught.value) and len(first.log) == 0
    assert second.problem == "" and len(second.log) == 3


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("progress.json", "{"),
        ("progress.json", "[]"),
        ("progress.json", json.dumps(report(updated="yesterday"))),
        ("progress.json", json.dumps(report(iteration=None))),
        ("progress.json", json.dumps({"step": 1})),
        ("progress.json", "[" * 100_000),
        ("run.json", "{"),
        ("run.json", '{"recipe": []}'),
        ("run.json", '{"recipe": {"steps": 3}}'),
    ],
)
def test_a_damaged_report_is_told_and_the_log_is_read_without(file: str, content: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", progress=report())
    (folder / file).write_text(content)
    run = read_run(folder)
    assert f"a/{file}" in run.problem and "\n" not in run.problem
    assert len(run.log) == 3


def test_what_is_no_ordinary_log_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.csv"):
        with pytest.raises(RunError, match="neither a folder of a training run nor a log"):
            read_run(path)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(RunError, match="neither"):
        read_run(tmp_path / "pipe")
    with (tmp_path / "large.csv").open("wb") as stream:
        stream.truncate(2**25 + 1)
    with pytest.raises(RunError, match="33,554,432 bytes"):
        read_run(tmp_path / "large.csv")


def test_every_shipped_log_can_be_read() -> None:
    found = [read_run(path) for path in sorted((assets_dir() / "checkpoints").glob("*.csv"))]
    assert found
    table = last_rows(found)
    assert table.last_top1.notna().all() and (table.best_top1 >= table.last_top1).all()


# -- figures ----------------------------------------------------------------------------------------------------------


def test_a_stroke_tells_the_precision_and_a_colour_the_run(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text(OLD)
    runs = [read_run(tmp_path / "old.csv"), read_run(write_run(tmp_path / "new"))]
    data, thin = curves(runs, "test_top1"), curves(runs, "train_top1")
    fig = run_curves(data, "Top-1", {"old": BLUE, "new": "#111111"}, thin=thin, form=".2f", unit=" %")
    assert [(t.line.color, t.line.dash, t.mode) for t in fig.data] == [
        (color, dash, mode)
        for mode in ("lines", "lines+markers")
        for color in (BLUE, "#111111")
        for dash in ("dot", "solid")
    ]
    assert "epoch %{x:,}: %{y:.2f} % in training" in fig.data[0].hovertemplate
    assert "epoch %{x:,}: %{y:.2f} %<" in fig.data[4].hovertemplate
    assert list(fig.data[4].x) == [1, 2] and list(fig.data[5].x) == [3, 4, 5]
    assert list(fig.data[5].y) == [75, 79, 78] and list(fig.data[5].meta) == ["old", 2, "1/1"]


def test_rows_without_a_place_on_the_axis_are_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text(OLD)
    data = curves([read_run(tmp_path / "old.csv")], "train_loss")
    assert len(run_curves(data, "Loss", {"old": BLUE}, "iterations").data) == 0


def test_a_share_is_written_in_percent_and_a_common_scale_is_kept(tmp_path: Path) -> None:
    data = curves([read_run(write_run(tmp_path / "new"))], "flips")
    fig = run_curves(data, "Flips", {"new": BLUE}, "iterations", form=".2%", top=0.5)
    assert (
        fig.layout.yaxis.tickformat == "~%"
        and "%{y:.2%}" in fig.data[0].hovertemplate
        and list(fig.layout.yaxis.range) == [0, 0.525]
    )


def test_colours_stay_with_their_runs_and_never_meet() -> None:
    first = run_colors(["mine", "fmnist_bcdnet_a", "other"])
    assert first["fmnist_bcdnet_a"] == MODELS["fmnist_bcdnet_a"] and len(set(first.values())) == 3
    assert list(first) == ["mine", "fmnist_bcdnet_a", "other"]
    later = run_colors(["other", "new"], first)
    assert later["other"] == first["other"] != later["new"]
    everything = run_colors([f"run {k}" for k in range(8)])
    assert set(everything.values()) == set(CYCLE)
    with pytest.raises(ValueError, match="at most 8"):
        run_colors([f"run {k}" for k in range(9)])
