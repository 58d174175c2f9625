"""The dashboard in a real browser: how it is started, which pages it has, and when one of them is ready."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: Name in the navigation -> words of the last thing on the page that no other page shows, and the number of charts
#: outside closed expanders, at least: a page may have one more once a job that it began is done.
PAGES = {
    "Overview": ("Cards of the models", 1),
    "Sampling patterns": ("The same as a table", 1),
    "Receptive fields": ("How much each pixel counts", 1),
    "Attribution": ("The methods", 3),
    "Branch ledger": ("the likeliest class|The likeliest class", 2),
    "Binarization error": ("Within a set of images", 4),
    "Deployment": ("Every layer as a table", 2),
    "OPs trade-offs": ("The two that differ are OPs in full", 2),
    "Compare variants": ("How many", 1),
    "Training runs": ("Download all rows", 2),
    "Your own": ("What a checkpoint has to hold", 0),
}
#: Looked at in the page itself every 50 ms, because Playwright's own waiting looks once a second after a while. Only
#: the first layer of a drawn chart counts, so that each counts once; those in closed expanders are not shown.
READY = """([title, text, charts]) => {
  const main = document.querySelector("[data-testid=stMain]");
  const shown = element =>
    element.getBoundingClientRect().width > 0 && element.checkVisibility({visibilityProperty: true});
  const drawn = [...main?.querySelectorAll(".js-plotly-plot .main-svg:first-child") ?? []].filter(shown).length;
  return main?.querySelector("h1")?.textContent.includes(title)
    && new RegExp(text).test(main.innerText)
    && main.innerText.includes("When this misleads")
    && drawn >= charts
    && !main.querySelector("[data-stale=true]");
}"""

# The first page of a cold server imports everything; the machine may be busy.
expect.set_options(timeout=60_000)


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        notice = "Chromium is not installed, so the dashboard was not opened in a browser."
        if os.environ.get("BCDNET_REQUIRE_BROWSER") == "1":
            pytest.fail(notice)
        pytest.skip(notice)
    return found


@contextmanager
def serving(script: str = "app/main.py") -> Iterator[str]:
    """The address of the real server with the shipped models, or of another script's, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, "-m", "streamlit", "run", script]
        server = subprocess.Popen(
            [*command, "--server.port", str(port), "--server.address", "127.0.0.1"],
            cwd=ROOT,
            env=os.environ | {"BCDNET_RUNS": empty},  # what is being trained here is nobody's concern
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1) as reply:
                        assert reply.read() == b"ok"
                    break
                except OSError:
                    assert server.poll() is None and time.monotonic() < deadline, "the server did not start"
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait(20)


@dataclass
class Visit:
    """A page in a fresh profile, and all that it complained about or asked of other hosts."""

    page: Page
    complaints: list[str]

    def ready(self, name: str) -> None:
        """Wait until a page shows its title, the last of its own content and its charts, and nothing is outdated."""
        self.page.wait_for_function(READY, arg=[name, *PAGES[name]], polling=50, timeout=60_000)

    def settled(self) -> None:
        """Wait until the server has nothing left to do."""
        expect(self.page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=60_000)

    def go(self, name: str) -> None:
        self.page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()

    def computed(self, answer: Locator) -> None:
        """Wait until an answer is on the page, and agree to whatever the page asks before it computes."""
        begin = self.page.get_by_role("button", name="Compute it")
        deadline = time.monotonic() + 120  # whether it asks, and when, depends on how busy the machine is
        while not answer.is_visible():
            assert time.monotonic() < deadline, "the answer never came"
            if begin.is_visible():
                begin.click()
                expect(begin).to_be_hidden()
            self.page.wait_for_timeout(100)

    def fine(self) -> None:
        for wrong in ("stException", "stAlertContentError"):
            assert self.page.get_by_test_id(wrong).all_inner_texts() == []
        assert self.complaints == []


def local(url: str, address: str) -> bool:
    return url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))
