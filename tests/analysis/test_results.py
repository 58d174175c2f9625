"""Accuracies over seeds: numbers by hand."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.results import (
    END,
    PAGE,
    START,
    paired,
    read_answers,
    read_results,
    right,
    summarise,
    tables,
    verdicts,
    welch,
)
from bcdnet.files import assets_dir


def write(
    folder: Path, run: str, tops: dict[str, float], seed: int = 0, epochs: int = 1, init: str | None = None
) -> None:
    (folder / run).mkdir(parents=True)
    recipe = {"steps": [{"precision": precision, "epochs": epochs} for precision in tops], "init": init}
    for number, top1 in enumerate(tops.values(), start=1):
        card = {"dataset": "fashion-mnist", "seed": seed, "recipe": recipe, "metrics": {"top1": top1, "n": 10_000}}
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


def test_epochs_count_those_of_the_start(tmp_path: Path) -> None:
    write(tmp_path, "fmnist_bcdnet_a", {"32/1": 88.0, "1/1": 90.0}, epochs=5)
    write(tmp_path, "fmnist_bcdnet_b", {"1/1": 91.0}, epochs=8, init="fmnist_bcdnet_a")
    found = summarise(read_results(tmp_path)).set_index(["model", "precision"]).epochs
    assert found["bcdnet_a", "32/1"] == 5 and found["bcdnet_a", "1/1"] == 10 and found["bcdnet_b", "1/1"] == 18


def test_mean_and_deviation_by_hand(folder: Path) -> None:
    rows = summarise(read_results(folder)).set_index(["model", "precision"])
    row = rows.loc["bcdnet_a", "1/1"]
    assert row.seeds == (0, 1, 2) and row["mean"] == pytest.approx(90.4) and row["sd"] == pytest.approx(0.4)
    assert row.over == "seeds" and (row.difference, row.low, row.high) == pytest.approx(
        welch(pd.Series([90.0, 90.4, 90.8]), pd.Series([89.0, 89.2, 89.4]))
    )
    # One seed against the first of the others: 90 and 89 % of 10,000 images each, taken as independent.
    row = rows.loc["bcdnet_a_pss", "1/1"]
    assert row.seeds == (0,) and np.isnan(row["sd"]) and row.over == "images" and row.difference == pytest.approx(1)
    # Variance (0.9 * 0.1 + 0.89 * 0.11) / 10,000 = 1.879e-5, error 0.433474 points.
    assert row.high - 1 == pytest.approx(1.959964 * 0.433474, rel=1e-4) and row.low == pytest.approx(2 - row.high)
    assert np.isnan(rows.loc["reactnet_a", "1/1"].difference) and rows.loc["reactnet_a", "1/1"].over == ""


def test_interval_over_seeds_by_hand() -> None:
    difference, low, high = welch(pd.Series([90.0, 90.4, 90.8]), pd.Series([89.0, 89.2, 89.4]))
    assert difference == pytest.approx(1.2)
    # Welch: variances 0.16/3 and 0.04/3, error sqrt(0.2/3) = 0.258199, freedom 0.2^2 / (0.16^2/2 + 0.04^2/2) = 2.941,
    # whose t quantile at 0.975 lies between those of 2 (4.3027) and 3 (3.1824) degrees: 3.2197.
    assert high - difference == pytest.approx(3.2197 * 0.258199, rel=1e-3)
    assert low == pytest.approx(2 * difference - high)


def test_interval_over_the_same_images_by_hand() -> None:
    ours = np.array([True] * 60 + [True] * 20 + [False] * 10 + [False] * 10)
    theirs = np.array([True] * 60 + [False] * 20 + [True] * 10 + [False] * 10)
    difference, low, high = paired(ours, theirs)
    # b = 20, c = 10 of n = 100: 10 points; variance (30 - 100 / 100) / 100^2 = 0.0029, error 5.3852 points.
    assert difference == pytest.approx(10)
    assert high - 10 == pytest.approx(1.959964 * 5.385165, abs=1e-4) and low == pytest.approx(20 - high)


def kept(ours: NDArray, name: str) -> dict[str, Any]:
    packed = base64.b64encode(np.packbits(ours).tobytes()).decode()
    return {"set": "fashion-mnist", "model": name, "n": len(ours), "right": packed}


def test_each_claim_gets_its_verdict(folder: Path) -> None:
    images = np.arange(1003) < 900
    answers = {"a": kept(images, "bcdnet_a"), "pss": kept(images & (np.arange(1003) >= 100), "bcdnet_a_pss")}
    assert right(answers["pss"]).sum() == 800
    found = verdicts(read_results(folder), answers).set_index(["ours", "than"])
    seeds = found.loc["bcdnet_a", "reactnet_a"]
    assert (seeds.verdict, seeds.over, seeds.quoted) == ("shows", "3 and 3 seeds", 1.45)
    # The other two have a single seed: 100 of 1,003 images more, and none fewer.
    same = found.loc["bcdnet_a", "bcdnet_a_pss"]
    assert same.over == "images" and same.difference == pytest.approx(100 * 100 / 1003) and same.p == 2 * 0.5**100
    assert len(found) == 2  # nobody can say anything of P-L-L, B and the control; P-S-S against ReActNet lacks answers
    worse = verdicts(read_results(folder), {**answers, "a": kept(~images, "bcdnet_a")}).set_index(["ours", "than"])
    assert worse.loc["bcdnet_a", "bcdnet_a_pss"].verdict == "the opposite shows"


def test_the_page_is_what_the_cards_and_the_published_networks_say() -> None:
    text, answers = PAGE.read_text(encoding="utf-8"), read_answers()
    assert text.split(START)[1].split(END)[0].strip() == tables(read_results(), answers).strip()
    models = json.loads((assets_dir() / "manifest.json").read_text())["models"]
    assert {model["id"]: model["sha256"] for model in models} == {name: row["sha256"] for name, row in answers.items()}
    assert all(100 * right(row).mean() == pytest.approx(row["top1"]) for row in answers.values())
