"""One selection for all pages: clicked, typed, moved by keys, linked; and what readers bring along."""

import io
import re
import time
import urllib.parse
from collections.abc import Iterator

import pytest
from browser.dashboard import PAGES, READY, ROOT, Visit
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

pytestmark = pytest.mark.browser

#: All that a page says, figures by what they say to those who cannot see them. Ticks depend on the moment of drawing.
WORDS = """() => {
  const value = e => ["radio", "checkbox"].includes(e.type) ? String(e.checked) : e.value;
  const told = e => e.querySelector("[aria-label]")?.getAttribute("aria-label");
  const parts = "h1, h2, h3, [data-testid=stMarkdown], [data-testid=stMetric], [data-testid=stPlotlyChart], input";
  return [...document.querySelectorAll(`[data-testid=stMain] :is(${parts})`)].map(e =>
    e.matches("input") ? value(e) : e.matches("[data-testid=stPlotlyChart]") ? told(e) : e.textContent);
}"""
#: What other programs on the machine may slow an answer down by.
SLACK = 3
#: Pages on which a token is chosen.
TOKENS = ("Sampling patterns", "Receptive fields", "Branch ledger")


def token_map(page: Page) -> Locator:
    return page.get_by_role("application")


def click_token(page: Page, row: int, col: int, rows: int = 7) -> None:
    box = token_map(page).bounding_box()
    assert box is not None
    cell = box["width"] / (rows + 0.2)
    page.mouse.click(box["x"] + (col + 0.6) * cell, box["y"] + (row + 0.6) * cell)


def place(page: Page) -> tuple[str | None, str | None]:
    found = token_map(page)
    return found.get_attribute("data-row"), found.get_attribute("data-col")


def query(page: Page) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(page.url).query))


@pytest.mark.parametrize("name", TOKENS)
def test_a_click_answers_at_once_and_the_page_follows(visit: Visit, name: str) -> None:
    visit.go(name)
    visit.ready(name)
    visit.settled()
    click_token(visit.page, 1, 2)
    assert place(visit.page) == ("1", "2")  # asked in the very next moment, without waiting
    expect(visit.page.get_by_label("Row", exact=True)).to_have_value("1")
    expect(visit.page).to_have_url(re.compile("col=2&.*row=1"))
    visit.settled()
    visit.fine()


def test_arrow_keys_move_the_token_and_stop_at_the_border(visit: Visit) -> None:
    visit.go("Sampling patterns")
    visit.ready("Sampling patterns")
    visit.settled()
    token_map(visit.page).focus()
    for key in ("ArrowUp", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"):
        visit.page.keyboard.press(key)
    assert place(visit.page) == ("2", "6")
    expect(visit.page.get_by_label("Column", exact=True)).to_have_value("6")
    assert "row 2 of 0 to 6, column 6 of 0 to 6" in (token_map(visit.page).get_attribute("aria-label") or "")
    visit.settled()
    visit.fine()


def test_a_choice_inside_a_tab_survives_its_closing_and_holds_on_other_pages(visit: Visit) -> None:
    def look(page: str, tab: str) -> None:
        if visit.page.get_by_role("heading", level=1).inner_text() != page:
            visit.go(page)
            visit.ready(page)
        visit.page.get_by_test_id("stMain").get_by_role("tab", name=tab, exact=True).click()
        visit.settled()

    chosen = visit.page.get_by_test_id("stMain").get_by_role("radio", name="all maps")
    look("Receptive fields", "How much each pixel counts")
    expect(chosen).not_to_be_checked()
    chosen.click()
    expect(visit.page).to_have_url(re.compile("scale=all"))
    look("Receptive fields", "What can reach it")
    expect(chosen).to_have_count(0)
    look("Receptive fields", "How much each pixel counts")
    expect(chosen).to_be_checked()
    look("Branch ledger", "One channel over all tokens")
    expect(chosen).to_be_checked()
    visit.fine()


def test_what_a_widget_holds_survives_a_click_before_it_is_drawn(visit: Visit) -> None:
    page, held = visit.page, list[Route]()
    # The code of text fields, which the browser fetches when it draws the first one.
    page.route(re.compile(r"/TextInput\."), lambda route: held.append(route))
    visit.go("OPs trade-offs")
    visit.ready("OPs trade-offs")
    page.get_by_role("radio", name="lasso", exact=True).click()
    expect(page).to_have_url(re.compile("brush=lasso"))
    visit.settled()
    blocks = page.get_by_role("textbox", name="Blocks per stage")
    assert len(held) == 1 and blocks.count() == 0
    held.pop().continue_()
    expect(blocks).to_have_value("1, 2, 2, 6, 2")
    page.get_by_role("radio", name="click", exact=True).click()  # tells the server what the page holds
    expect(page).to_have_url(re.compile("brush=pan.*design_blocks=1%2C"))
    visit.settled()
    visit.fine()


def test_a_token_typed_moves_the_map(visit: Visit) -> None:
    visit.go("Sampling patterns")
    visit.ready("Sampling patterns")
    visit.settled()
    row = visit.page.get_by_label("Row", exact=True)
    row.fill("5")
    row.press("Enter")
    expect(token_map(visit.page)).to_have_attribute("data-row", "5")
    visit.fine()


def said(page: Page) -> list[str]:
    """What a page says, without times, which differ from one measurement to the next."""
    times = re.compile(r"[\d.,]+ ?(×|ms|s|min)(?!\w)|\d+ minutes? ago|medians of \d+ runs")
    return [times.sub("", text or "") for text in page.evaluate(WORDS)]


#: What every page shows at last, whichever of its tabs is open.
ANY_TAB = ("When this misleads", 0)


def done(page: Page, name: str, shows: tuple[str, int] | None = None) -> None:
    """Wait until a page shows all that it has, jobs that it began by itself included."""
    page.wait_for_function(READY, arg=[name, *(shows or PAGES[name])], polling=50)
    if name == "Compare variants":
        asked = page.get_by_role("button", name="Compute it")
        expect(asked.or_(page.get_by_text("on which the models are most divided")).first).to_be_visible()
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)


def choose_otherwise(page: Page) -> None:
    """Open the last tab of a page, or where it has none choose another of its first choices."""
    main = page.get_by_test_id("stMain")
    for others in (main.get_by_role("tab", selected=False), main.get_by_role("radio", checked=False)):
        if shown := [other for other in others.all() if other.is_visible()]:
            shown[-1 if shown[-1].get_attribute("role") == "tab" else 0].click()
            return
    raise AssertionError("there is nothing to choose")


@pytest.mark.parametrize("name", PAGES)
def test_a_copied_link_restores_the_view_in_a_new_browser(
    name: str, visit: Visit, address: str, browser: Browser
) -> None:
    page = visit.page
    visit.go("Sampling patterns")
    visit.ready("Sampling patterns")
    visit.settled()
    number = page.get_by_label("Number", exact=True)
    number.fill("17")
    number.press("Enter")
    expect(page).to_have_url(re.compile("image=17"))
    click_token(page, 5, 1)
    expect(page).to_have_url(re.compile("row=5"))
    visit.settled()
    page.get_by_test_id("stSidebar").get_by_test_id("stSelectbox").first.locator("input").click()
    page.get_by_role("option", name="BCDNet-B", exact=True).click()
    expect(page).to_have_url(re.compile("model=fmnist_bcdnet_b"))
    visit.settled()
    visit.go(name)
    page.wait_for_function("name => document.querySelector('h1')?.textContent.includes(name)", arg=name)
    expect(page).to_have_url(re.compile("model=fmnist_bcdnet_b"))
    done(page, name)
    own: set[tuple[str, str]] = set()
    if name not in ("Deployment", "Your own"):  # which have no tabs and no choices of their own
        before, link = query(page), page.url
        choose_otherwise(page)
        page.wait_for_url(lambda url: url != link)  # what a page alone has to choose is in its link as well
        visit.settled()
        own = query(page).items() - before.items()
    done(page, name, ANY_TAB)
    link, seen = page.url, query(page)
    assert seen["model"] == "fmnist_bcdnet_b" and seen["image"] == "17"
    if name in TOKENS:
        assert (seen["row"], seen["col"]) == ("5", "1")

    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    try:
        other = context.new_page()
        other.goto(link)
        other.wait_for_function("name => document.querySelector('h1')?.textContent.includes(name)", arg=name)
        expect(other.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=60_000)
        expect(other.get_by_label("Number", exact=True)).to_have_value("17")
        expect(other.get_by_test_id("stMain")).to_have_text(re.compile(re.escape(name)))
        done(other, name, ANY_TAB)
        # The page may remember more than it shows now: what stood in the tab before.
        assert own | {("image", "17")} <= query(other).items() <= seen.items()
        for _ in range(100):  # what a page shows comes piece by piece
            here, there = said(page), said(other)
            if here == there:
                break
            time.sleep(0.2)
        assert there == here
    finally:
        context.close()
    visit.fine()


@pytest.fixture
def red() -> Iterator[bytes]:
    stream = io.BytesIO()
    Image.new("RGB", (30, 40), "red").save(stream, "PNG")
    yield stream.getvalue()


def test_a_link_to_an_uploaded_picture_holds_its_digest_and_never_its_content(
    visit: Visit, browser: Browser, red: bytes
) -> None:
    file = {"name": "red.png", "mimeType": "image/png", "buffer": red}
    page = visit.page
    visit.go("Attribution")
    visit.ready("Attribution")
    page.get_by_test_id("stSidebar").get_by_role("radio", name="Upload").click()
    page.get_by_test_id("stSidebar").locator("input[type=file]").set_input_files(file)
    expect(page).to_have_url(re.compile("digest=[0-9a-f]{16}(&|$)"))
    visit.settled()
    context = browser.new_context()
    try:
        other = context.new_page()
        other.goto(page.url)
        expect(other.get_by_text("Upload the same file to see the view")).to_be_visible()
        other.get_by_test_id("stSidebar").locator("input[type=file]").set_input_files(file)
        expect(other.get_by_text("Upload the same file to see the view")).to_have_count(0)
        expect(other.get_by_text("The file is no picture")).to_have_count(0)
        assert query(other)["digest"] == query(page)["digest"]
    finally:
        context.close()


def test_an_uploaded_checkpoint_is_looked_at_like_a_shipped_one(visit: Visit) -> None:
    page = visit.page
    visit.go("Your own")
    expect(page.get_by_role("heading", name="Checkpoints")).to_be_visible()
    visit.settled()
    checkpoint = ROOT / "assets" / "checkpoints" / "fmnist_reactnet_a.safetensors"
    page.get_by_test_id("stMain").locator("input[type=file]").first.set_input_files(checkpoint)
    expect(page.get_by_text("The model fmnist_reactnet_a is here")).to_be_visible()
    page.get_by_role("button", name="Look at it").click()
    expect(page).to_have_url(re.compile("model=own-[0-9a-f]{8}"))
    visit.go("Deployment")
    visit.ready("Deployment")
    visit.settled()
    expect(page).to_have_url(re.compile("model=own-[0-9a-f]{8}"))
    visit.fine()


def test_what_is_no_checkpoint_is_told_in_one_sentence(visit: Visit) -> None:
    visit.go("Your own")
    expect(visit.page.get_by_role("heading", name="Checkpoints")).to_be_visible()
    visit.settled()
    bad = {"name": "bad.safetensors", "mimeType": "application/octet-stream", "buffer": b"no weights"}
    visit.page.get_by_test_id("stMain").locator("input[type=file]").first.set_input_files(bad)
    expect(visit.page.get_by_test_id("stAlertContentError")).to_contain_text("bad.safetensors")
    assert visit.page.get_by_test_id("stException").count() == 0


def test_slow_work_tells_its_cost_goes_on_beside_the_page_and_is_cancelled_within_a_second(visit: Visit) -> None:
    page = visit.page
    visit.go("Compare variants")
    visit.ready("Compare variants")
    visit.settled()
    page.get_by_role("radio", name="all 10,000").click()
    expect(page.get_by_text(re.compile(r"forward passes, about \d+ (s|min) on this machine"))).to_be_visible()
    page.get_by_role("button", name="Compute it").click()
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()
    expect(page.get_by_text(re.compile(r"\d+ of 10,000, .* left"))).to_be_visible()
    # The page is alive meanwhile: another picture comes up, and the work goes on.
    number = page.get_by_label("Number", exact=True)
    number.fill("23")
    number.press("Enter")
    expect(page).to_have_url(re.compile("image=23"))
    expect(cancel).to_be_visible()
    cancel.click()
    expect(page.get_by_text("Cancelled; nothing was kept.")).to_be_visible(timeout=1_000 * SLACK)
    visit.settled()
    visit.fine()
