"""The page of training runs in a real browser, while a run goes on."""

import datetime
import json
import re
from pathlib import Path

import pytest
from browser.dashboard import READY, Visit
from playwright.sync_api import expect
from run_folders import NEW, report, write_run

from bcdnet.files import write_atomically

pytestmark = pytest.mark.browser

PAGE = "Training runs"


def look_into(visit: Visit, folder: Path) -> None:
    box = visit.page.get_by_role("textbox", name="Folder of runs")
    box.fill(str(folder))
    box.press("Enter")


def ready(visit: Visit, charts: int) -> None:
    arguments = [PAGE, "Download all rows", charts]
    visit.page.wait_for_function(READY, arg=arguments, polling=50, timeout=60_000)


def test_a_folder_without_runs_leaves_the_shipped_logs(visit: Visit, tmp_path: Path) -> None:
    visit.go(PAGE)
    look_into(visit, tmp_path)
    expect(visit.page.get_by_text("No training runs were found in that folder")).to_be_visible()
    expect(visit.page.get_by_text("Read from assets/checkpoints/")).to_be_visible()
    expect(visit.page).to_have_url(re.compile("runs=(elpv|fmnist)_"))
    visit.settled()
    assert visit.page.locator("[data-testid=stMain] .js-plotly-plot").count() >= 2
    visit.fine()


def test_a_run_is_followed_to_its_end_without_a_click(visit: Visit, tmp_path: Path) -> None:
    def reached(iteration: int) -> dict:
        return report(iteration=iteration, updated=datetime.datetime.now(datetime.UTC).isoformat())

    folder = write_run(tmp_path / "runs" / "mine", progress=reached(100))
    visit.go(PAGE)
    look_into(visit, tmp_path / "runs")
    expect(visit.page.get_by_text("iteration 100 of 400")).to_be_visible()
    expect(visit.page).to_have_url(re.compile("runs%2Fmine|runs/mine"))
    ready(visit, 2)

    points = visit.page.locator(".js-plotly-plot").first.locator("path.point")
    before = points.count()
    write_atomically(folder / "log.csv", (NEW + "2,1/1,1,200,1e-3,1.0,65,73,5,0.03,0.015,0.06,0.007,0.025\n").encode())
    write_atomically(folder / "progress.json", json.dumps(reached(200)).encode())
    expect(visit.page.get_by_text("iteration 200 of 400")).to_be_visible()
    expect(points).to_have_count(before + 1)

    (folder / "progress.json").unlink()
    for number in (1, 2):
        (folder / f"step{number}.safetensors").touch()
    expect(visit.page.get_by_text("iteration 200 of 400")).to_have_count(0)
    expect(visit.page.get_by_text("Follow", exact=True)).to_have_count(0)
    ready(visit, 2)
    visit.fine()
