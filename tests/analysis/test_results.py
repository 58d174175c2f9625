"""Accuracies over seeds: numbers by hand."""

import json
import math
from pathlib import Path

import pytest

from analysis.results import END, PAGE, START, read_results, summarise, table


def write(folder: Path, run: str, tops: dict[str, float], seed: int = 0, n: int = 10_000) -> None:
    (folder / run).mkdir(parents=True)
    steps = [{"precision": precision} for precision in tops]
    for number, top1 in enumerate(tops.values(), start=1):
        card = {"dataset": "fashion-mnist", "seed": seed, "recipe": {"steps": steps}, "metrics": {"top1": top1, "n": n}}
        (folder / run / f"step{number}.json").write_text(json.dumps(card))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, (ours, theirs) in enumerate([(90.0, 89.0), (90.4, 89.2), (90.8, 89.4)]):
        suffix = f"-seed{seed}" if seed else ""
        write(tmp_path, f"fmnist_bcdnet_a{suffix}", {"32/1": 88.0 + seed, "1/1": ours}, seed)
        write(tmp_path, f"fmnist_reactnet_a{suffix}", {"32/1": 88.0, "1/1": theirs}, seed)
    write(tmp_path, "fmnist_bcdnet_a_pss", {"32/1": 87.0, "1/1": 90.0})
    return tmp_path


def test_every_step_of_every_run_is_read(folder: Path) -> None:
    results = read_results(folder)
    assert len(results) == 14
    ours = results[(results.model == "bcdnet_a") & (results.precision == "1/1")]
    assert ours.top1.tolist() == [90.0, 90.4, 90.8]
    assert ours.seed.tolist() == [0, 1, 2]
    assert read_results(folder / "nowhere").empty


def test_interval_over_seeds_by_hand(folder: Path) -> None:
    summary = summarise(read_results(folder)).set_index(["model", "precision"])
    row = summary.loc["bcdnet_a", "1/1"]
    assert (row["seeds"], row["over"]) == (3, "seeds")
    assert row["mean"] == pytest.approx(90.4)
    assert row["sd"] == pytest.approx(0.4)
    assert row["difference"] == pytest.approx(1.2)
    # Welch: variances 0.16/3 and 0.04/3, error sqrt(0.2/3) = 0.258199, freedom 0.2^2 / (0.16^2/2 + 0.04^2/2) = 2.941,
    # whose t quantile at 0.975 lies between those of 2 (4.3027) and 3 (3.1824) degrees: 3.2197.
    assert row["high"] - row["difference"] == pytest.approx(3.2197 * 0.258199, rel=1e-3)
    assert row["low"] == pytest.approx(2 * row["difference"] - row["high"])


def test_one_seed_has_the_interval_of_its_images(folder: Path) -> None:
    rows = [run for run in folder.iterdir() if run.name.startswith("fmnist_reactnet_a-seed")]
    for run in rows:
        for file in run.iterdir():
            file.unlink()
    summary = summarise(read_results(folder)).set_index(["model", "precision"])
    row = summary.loc["bcdnet_a_pss", "1/1"]
    # 1.959964 * sqrt(0.9 * 0.1 / 10000 + 0.89 * 0.11 / 10000) = 0.849594 points.
    assert row["over"] == "images"
    assert row["difference"] == pytest.approx(1.0)
    assert row["high"] == pytest.approx(1.849594, abs=1e-5)
    assert math.isnan(row["sd"])
    assert math.isnan(summary.loc["reactnet_a", "1/1"]["difference"])


def test_the_page_is_what_the_cards_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(START)[1].split(END)[0].strip() == table(summarise(read_results())).strip()
