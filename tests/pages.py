"""Opening a page of the dashboard without a browser, for the tests of pages."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from streamlit.testing.v1 import AppTest

MAIN = str(Path(__file__).resolve().parent.parent / "app" / "main.py")

#: Page -> the key of its tabs and the tabs, of which only the open one is drawn.
TABS: dict[str, tuple[str, tuple[str, ...]]] = {
    "overview": ("overview_tab", ("Accuracy", "How they were trained")),
    "receptive": ("field_tab", ("What can reach it", "From layer to layer", "How much each pixel counts")),
    "ledger": ("book_tab", ("The token", "One channel over all tokens", "The token as a table")),
    "deployment": (
        "deployment_tab",
        ("Layer by layer", "One layer, both ways", "What comes out, and what it takes", "How fast it runs here"),
    ),
    "costs": ("paper_table", tuple(f"Table {number}" for number in range(1, 7))),
}


def open_page(page: str = "overview", **query: str) -> AppTest:
    """A page in a session of its own, which began with an address of these query parameters."""
    at = AppTest.from_file(MAIN, default_timeout=120)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    if page != "overview":
        at.switch_page(f"views/{page}.py").run()
    return at


def each_tab(at: AppTest, page: str) -> Iterator[str]:
    """Open the tabs of a page in turn: the name of the one that is open now; "" once for a page without."""
    key, tabs = TABS.get(page, ("", ("",)))
    for tab in tabs:
        if key and (key not in at.session_state or at.session_state[key] != tab):
            at.session_state[key] = tab
            at.run()
        assert not key or at.session_state[key] == tab  # a page that has no such tab opens its first
        yield tab


def assert_fine(at: AppTest) -> None:
    """Neither a traceback nor an error message is on the page."""
    assert not at.exception, [e.message for e in at.exception]
    assert not at.error, [e.value for e in at.error]


def charts(at: AppTest) -> int:
    """Figures on the page."""
    return len(at.get("plotly_chart"))


def metrics(at: AppTest) -> dict[str, str]:
    """Numbers on the page by their labels."""
    return {metric.label: metric.value for metric in at.metric}


def until(at: AppTest, holds: Callable[[AppTest], bool], seconds: float = 60) -> AppTest:
    """Run the page again and again, as a browser does while a job is under way, until something holds."""
    deadline = time.monotonic() + seconds
    while not holds(at):
        assert time.monotonic() < deadline, "nothing came of the job"
        time.sleep(0.05)
        at.run()
    return at
