"""One server with the shipped models for each file of tests, one browser, and for each test a fresh profile."""

from collections.abc import Iterator

import pytest
from browser.dashboard import FLAGS, Visit, chromium, local, serving
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The server's address."""
    chromium()
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(address: str, browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page, complaints = context.new_page(), []
    page.set_default_timeout(30_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("response", lambda reply: complaints.append(f"{reply.status} {reply.url}") if reply.status >= 400 else None)
    page.on("request", lambda request: complaints.append(request.url) if not local(request.url, address) else None)
    page.goto(address)
    visit = Visit(page, complaints)
    visit.ready("Overview")
    yield visit
    context.close()
