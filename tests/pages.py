"""Opening a page of the dashboard without a browser, for the tests of pages."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from streamlit.testing.v1 import AppTest

MAIN = str(Path(__file__).resolve().parent.parent / "app" / "main.py")


def open_page(page: str = "overview", **query: str) -> AppTest:
    """A page in a session of its own, which began with an address of these query parameters."""
    at = AppTest.from_file(MAIN, default_timeout=120)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    if page != "overview":
        at.switch_page(f"views/{page}.py").run()
    return at


def tabs(at: AppTest) -> dict[str, list[str]]:
    """Names of the tabs on the page, by the key of their group."""
    groups = {re.sub(r"^\$\$ID-[0-9a-f]+-", "", group.proto.id): group for group in at.get("tab_container")}
    return {key: [tab.label for tab in group.children.values()] for key, group in groups.items()}


def each_tab(at: AppTest, key: str | None = None) -> Iterator[str]:
    """Open the tabs of a page, or of one group, in turn: the name of the one just opened; "" once if there are none."""
    groups = tabs(at)
    if not groups:
        yield ""
    for group in groups if key is None else [key]:
        for tab in groups[group]:
            if at.session_state[group] != tab:
                at.session_state[group] = tab
                at.run()
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
