"""How long a reader waits for the dashboard: first paint and a click, page by page, in a headless browser.

    PYTHONPATH=tests python -m benchmarks.dashboard [--rounds N] [--output FILE] [--quick]

Each time a new window with an empty cache asks for a page that the server has shown before:

* first paint: until the page's heading and first words are on the screen; a click can follow,
* first visit: until everything is: every figure drawn, nothing stale. The browser fetches and compiles Plotly for it,
* next visit: the same once more, as the same browser finds those files in its cache.

A click: from the pointer going down until the page's script has run and the browser has painted, for a view that was
shown before; on pages with a token map the token is moved there (the map itself answers without the server), on others
the first choice of the page is changed, or where there is none the next picture is asked for. A tab: the same for
opening the second of the page's first tabs, and the first again. Pages take turns, and the two sides of a click as
well. Beside them stands the least that Streamlit can do: a page of a heading and one Plotly chart of three points.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from browser.dashboard import FLAGS, PAGES, READY, chromium, serving
from playwright.sync_api import Browser, Locator, Page, TimeoutError, sync_playwright
from tqdm import tqdm

from bcdnet.bench import machine
from bcdnet.files import write_atomically

RESULTS = Path(__file__).resolve().parent / "results" / "dashboard.json"
#: What readers are promised: medians in seconds.
FIRST_PAINT, CLICK = 1.5, 0.4
#: Two clicks that undo each other.
Sides = list[Callable[[], None]]
WINDOW = {"width": 1400, "height": 1000}

#: A page with the least that shows a figure.
BARE = """import plotly.graph_objects as go
import streamlit as st

st.title("Bare")
st.plotly_chart(go.Figure(go.Scatter(x=[1, 2, 3], y=[1, 3, 2])))
st.write("When this misleads")
"""
HEADED = """title => {
  const main = document.querySelector("[data-testid=stMain]");
  return main?.querySelector("h1")?.textContent.includes(title) && main.querySelector("p")?.textContent;
}"""

#: Notes when a pointer goes down, and when after that the page's script has run and a frame was painted.
WATCH = """() => {
  const app = document.querySelector("[data-testid=stApp]");
  document.addEventListener("pointerdown", () => { window.wait = {from: performance.now()} }, true);
  new MutationObserver(() => {
    // The state of a page at rest changes at the click only; a quick run may have come and gone since.
    if (window.wait) window.wait.ran = true;
    if (window.wait && app.dataset.testScriptState === "notRunning")
      requestAnimationFrame(() => requestAnimationFrame(() => { window.wait.until = performance.now() }));
  }).observe(app, {attributes: true, attributeFilter: ["data-test-script-state"]});
}"""
#: Whether no script has run for a while: a click into one that runs would have its end taken for the answer.
RESTS = """() => {
  const app = document.querySelector("[data-testid=stApp]"), now = performance.now();
  if (app.dataset.testScriptState !== "notRunning" || window.restless === undefined) window.restless = now;
  return now - window.restless > 300;
}"""
#: Seconds waited, once nothing has happened for a while; -1 for a run whose begin and end the page took in one step.
WAITED = """() => {
  const wait = window.wait, now = performance.now();
  if (wait?.until) return now - wait.until > 300 ? (wait.until - wait.from) / 1000 : null;
  return wait && !wait.ran && now - wait.from > 5000 ? -1 : null;
}"""
#: So many clicks may be missed that way, as a share; one always.
UNSEEN = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds
    document: dict[str, Any] = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["PYTHONPATH=tests", "python", "-m", "benchmarks.dashboard", *sys.argv[1:]]),
        "quick": options.quick,
        "rounds": rounds,
        "machine": machine(),
        "limits": {"first_paint": FIRST_PAINT, "click": CLICK},
        "pages": {},
    }
    pages = {**PAGES, "Bare": ("When this misleads", 1)}
    times: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in ("first_paint", "first_visit", "next_visit", "click", "tab")} for name in pages
    }
    how: dict[str, dict[str, str]] = {}
    with (
        tempfile.NamedTemporaryFile("w", suffix=".py") as bare,
        serving() as address,
        sync_playwright() as playwright,
    ):
        bare.write(BARE)
        bare.flush()
        with serving(bare.name) as bare_address:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            addresses = prepare(browser, address) | {"Bare": bare_address}
            for _ in tqdm(range(rounds), unit="round", leave=False):
                for name, at in addresses.items():
                    page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]
                    found = times[name]
                    paint, visit = first_visit(page, name, at, pages[name])
                    found["first_paint"].append(paint)
                    found["first_visit"].append(visit)
                    found["next_visit"].append(first_visit(page, name, at, pages[name])[1])
                    if name in PAGES:  # runs of the bare page are too short to be seen
                        page.wait_for_timeout(1000)
                        page.evaluate(WATCH)
                        chosen = {"click": control(page)} | tabs(page)
                        how[name] = {f"{kind}_on": what for kind, (what, _) in chosen.items()}
                        for kind, (_, sides) in chosen.items():
                            found[kind] += turns(page, sides)
                    page.close()
            browser.close()
    for name, found in times.items():
        row: dict[str, Any] = {kind: told(seconds, f"{name}, {kind}") for kind, seconds in found.items() if seconds}
        for kind in {"click", "tab"} & row.keys():
            row[kind]["sides"] = [float(np.nanmedian(found[kind][side::2])) for side in (0, 1)]
        document["pages"][name] = row | how.get(name, {})
        said = ", ".join(f"{kind.replace('_', ' ')} {row[kind]['median']:.2f} s" for kind in found if kind in row)
        print(f"{name:20} {said}", file=sys.stderr)
    write_atomically(options.output, (json.dumps(document, indent=1) + "\n").encode())


def told(seconds: list[float], of: str) -> dict[str, Any]:
    """Median and 95th percentile with all that was measured; None for a click whose run was too short to be seen."""
    if np.isnan(seconds).sum() > max(1, UNSEEN * len(seconds)):
        raise RuntimeError(f"{of}: too many clicks ran nothing, or too shortly to be seen: {seconds}")
    median, high = np.nanpercentile(seconds, [50, 95])
    every = [None if np.isnan(value) else round(value, 4) for value in seconds]
    return {"median": float(median), "p95": float(high), "all": every}


def prepare(browser: Browser, address: str) -> dict[str, str]:
    """Show every page once, until its jobs are done; the address of each."""
    page, found = browser.new_page(viewport=WINDOW), {}  # type: ignore[arg-type]
    page.goto(address)
    for name in PAGES:
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
        ready(page, name, PAGES[name])
        at_rest(page)
        if (tab := tabs(page).get("tab")) is not None:
            for side in tab[1]:
                side()
                at_rest(page)
        found[name] = page.url
    page.close()
    return found


def at_rest(page: Page) -> None:
    """Wait for jobs that begin by themselves, and agree to one that asks."""
    page.wait_for_timeout(1500)
    if (asks := page.get_by_test_id("stMain").get_by_role("button", name="Compute it")).count():
        asks.first.click()
        page.wait_for_timeout(500)
    page.wait_for_function("() => ![...document.querySelectorAll('button')].some(b => b.innerText === 'Cancel')")
    page.wait_for_timeout(500)


def ready(page: Page, name: str, shows: tuple[str, int]) -> None:
    page.wait_for_function(READY, arg=[name, *shows], polling=20, timeout=120_000)


def first_visit(page: Page, name: str, address: str, shows: tuple[str, int]) -> tuple[float, float]:
    """Seconds from asking for a page until its first words are there, and until everything is."""
    page.goto("about:blank")
    page.goto(address, wait_until="commit")
    # The page's own clock starts when its address is asked for.
    seconds = "() => performance.now() / 1000"
    page.wait_for_function(HEADED, arg=name, polling=20, timeout=120_000)
    paint = page.evaluate(seconds)
    ready(page, name, shows)
    return paint, page.evaluate(seconds)


def turns(page: Page, sides: Sides) -> list[float]:
    """Seconds that each of the two sides took, shown once before."""
    for side in sides:
        waited(page, side)
    return [waited(page, side) for side in sides]


def tabs(page: Page) -> dict[str, tuple[str, Sides]]:
    """Under "tab", as :func:`control`, the second of the page's first tabs and the first; nothing without tabs."""
    group = page.get_by_test_id("stMain").get_by_role("tablist")
    if not group.count():
        return {}
    first, second = (group.first.get_by_role("tab").nth(k) for k in (0, 1))
    return {"tab": (f"“{second.inner_text()}”", [second.click, first.click])}


def control(page: Page) -> tuple[str, Sides]:
    """Something to click on: a name for it, and two clicks that undo each other."""
    main = page.get_by_test_id("stMain")
    token = main.locator("svg[role=application]")
    if token.count():
        return "the token map", [partial(on_map, token.first, share) for share in (0.2, 0.5)]
    groups = main.get_by_role("radiogroup")
    for k in range(groups.count()):
        chosen, others = (groups.nth(k).get_by_role("radio", checked=checked) for checked in (True, False))
        if groups.nth(k).is_visible() and chosen.count() and others.count():
            names = chosen.first.inner_text(), others.first.inner_text()
            if not all(names):  # an icon alone
                continue
            back, there = (groups.nth(k).get_by_role("radio", name=name, exact=True) for name in names)
            return f"“{names[1]}”", [there.click, back.click]
    number = page.get_by_test_id("stSidebar").get_by_test_id("stNumberInput")
    buttons = number.get_by_test_id("stNumberInputStepUp"), number.get_by_test_id("stNumberInputStepDown")
    return "the next picture", [button.click for button in buttons]


def on_map(token_map: Locator, share: float) -> None:
    """Click on a token of the middle row, so far from the left."""
    box = token_map.bounding_box()
    assert box is not None
    token_map.click(position={"x": share * box["width"], "y": box["height"] / 2})


def waited(page: Page, do: Callable[[], None]) -> float:
    """Seconds from the click to the painted answer, of a page at rest; NaN if its run was too short to be seen."""
    page.wait_for_function(RESTS, polling=20, timeout=60_000)
    page.evaluate("() => { window.wait = null }")
    do()
    try:
        seconds: float = page.wait_for_function(WAITED, polling=20, timeout=60_000).json_value()
    except TimeoutError as error:
        raise RuntimeError(f"A click was not answered within a minute at {page.url}") from error
    return seconds if seconds >= 0 else float("nan")


if __name__ == "__main__":
    main()
