"""What readers do to figures with a mouse, a key or a file: dragging, clicking, playing, wiping, saving."""

import base64
import io
import re
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest
from browser.dashboard import Visit
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

Point = tuple[float, float]

#: Name -> middle and width of its point in a scatter, and whether it is opaque.
POINTS = """key => Object.fromEntries(
  [...document.querySelectorAll(`.st-key-${key} .scatterlayer path.point`)].map(e => {
    const { x, y, width, height } = e.getBoundingClientRect();
    return [e.__data__.tx, [x + width / 2, y + height / 2, width, getComputedStyle(e).opacity === "1"]];
  }))"""
#: Whether just the points of these names, in the order of the alphabet, are opaque and larger than a size.
STAND_OUT = f"""([key, names, size]) => {{
  const points = Object.entries(({POINTS})(key));
  const opaque = points.filter(([, point]) => point[3]).map(([name]) => name).sort();
  const large = points.filter(([, point]) => point[2] > size).map(([name]) => name).sort();
  return [opaque, large].every(found => found.join() === names.join());
}}"""
#: Whether the heatmaps of a figure differ from these.
REDRAWN = """([key, before]) => [...document.querySelectorAll(`.st-key-${key} .heatmaplayer image`)]
  .some((map, k) => map.href.baseVal !== before[k])"""


def opened(visit: Visit, name: str, tab: str = "") -> Page:
    """A page with nothing left to do, and one of its tabs."""
    visit.go(name)
    visit.ready(name)
    visit.settled()
    if tab:
        visit.page.get_by_role("tab", name=tab, exact=True).click()
        visit.settled()
    return visit.page


def chart(page: Page, key: str) -> Locator:
    return page.locator(f".st-key-{key}")


def frame(part: Locator) -> tuple[float, float, float, float]:
    """Left, top, width and height in the window, into which it is scrolled."""
    part.scroll_into_view_if_needed()
    box = part.bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"], box["height"]


def still(visit: Visit, key: str) -> None:
    """Wait until a chart that is drawn anew has taken the place of the old one."""
    visit.settled()
    expect(visit.page.locator("[data-testid=stMain] [data-stale=true]")).to_have_count(0)
    expect(chart(visit.page, key)).to_have_count(1)


def drag(page: Page, path: Sequence[Point]) -> None:
    page.mouse.move(*path[0])
    page.mouse.down()
    for point in path[1:]:
        page.mouse.move(*point, steps=5)
    page.mouse.up()


# -- picking and marking ----------------------------------------------------------------------------------------------

SCATTER = "figure-accuracy-cost"
#: Three points one above the other, with nothing else near them.
COLUMN = ("BCDNet-A (R18)", "BCDNet-B (R18)", "ReActNet (R18)")


@pytest.mark.parametrize(("brush", "names"), [("box", COLUMN), ("lasso", COLUMN), ("click", ("ReActNet-B",))])
def test_points_of_the_scatter_are_picked(visit: Visit, brush: str, names: tuple[str, ...]) -> None:
    page = opened(visit, "OPs trade-offs")
    if brush != "box":  # what a drag does at first
        page.get_by_role("radio", name=brush, exact=True).click()
        expect(page).to_have_url(re.compile("brush=(lasso|pan)"))
    still(visit, SCATTER)
    frame(chart(page, SCATTER))
    before = page.evaluate(POINTS, SCATTER)
    assert len(before) > 10 and all(opaque for *_, opaque in before.values())
    across, down, sizes, _ = zip(*(before[name] for name in names), strict=True)
    left, right, top, bottom = min(across) - 9, max(across) + 9, min(down) - 9, max(down) + 9
    if brush == "box":
        drag(page, [(left, top), (right, bottom)])
    elif brush == "lasso":
        drag(page, [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
    else:
        page.mouse.click(across[0], down[0])
    # They are faded by the browser at once, but enlarged only by the server's answer.
    page.wait_for_function(STAND_OUT, arg=[SCATTER, names, 1.2 * max(sizes)])
    page.wait_for_url(lambda url: set(parse_qs(urlsplit(url).query).get("picked", [""])[0].split(",")) == set(names))
    table = page.get_by_test_id("stDataFrame").first
    frame(table)
    rows = table.locator("tr[aria-selected=true]")  # what a screen reader is told of the drawn table
    expect(rows).to_have_count(len(names))
    assert {row.locator("td").first.text_content() for row in rows.all()} == set(names)
    visit.settled()
    visit.fine()


#: Subplot of the histograms -> where a drag over it begins and ends, as shares of its width, and what it marks.
DRAGS = {"xy": (0.56, 0.99, "+1"), "x2y2": (0.05, 0.45, "−1")}


@pytest.mark.parametrize("subplot", DRAGS)
def test_a_drag_over_a_histogram_marks_its_weights(visit: Visit, subplot: str) -> None:
    page = opened(visit, "Binarization error")
    begin, end, sign = DRAGS[subplot]
    x, y, width, height = frame(chart(page, "figure-weights").locator(f".nsewdrag[data-subplot={subplot}]"))
    drag(page, [(x + begin * width, y + height / 2), (x + end * width, y + 0.6 * height)])
    # One side of zero was dragged over, so all that is marked has one sign.
    expect(page.get_by_text("Marked:")).to_contain_text(f"{'100' if sign == '+1' else '0'}.0% of them are +1")
    words = page.get_by_text("Marked:").text_content() or ""
    found = re.search(r"Marked: ([\d,]+) weights, ([\d.]+)% of the branch", words)
    assert found is not None and int(found[1].replace(",", "")) > 1000 and 10 < float(found[2]) < 60
    legend = chart(page, "figure-weights").locator(".legendtext")
    expect(legend.filter(has_text=f"marked {sign}")).to_have_text(f"marked {sign} ({found[2]}%)")
    expect(page).to_have_url(re.compile("mark=latent" if sign == "+1" else "mark=-1"))
    visit.settled()
    visit.fine()


# -- from one page to the next ----------------------------------------------------------------------------------------


def test_an_answer_of_the_gallery_is_explained_after_one_click(visit: Visit) -> None:
    page = opened(visit, "Compare variants")
    page.get_by_text("the first 2,000").click()
    visit.computed(page.get_by_text("2,000 images, those first on which the models are most divided"))
    answer = page.locator("[class*=st-key-why-]").get_by_role("button", name=re.compile("^.*2 · ")).first
    # The last of the models is still asked: a page that the server turns to meanwhile is wiped now and then.
    expect(answer).to_be_enabled()
    key = answer.evaluate("e => e.closest('[class*=st-key-why-]').className.match(/st-key-why-(\\d+)-2/)[1]")
    said = re.search(r"2 · (.+) \d+%", answer.inner_text())
    label = re.search(rf"№ {key} · (.+?) ·", page.get_by_text(f"№ {key} ·").first.inner_text())
    assert key != "0" and said is not None and label is not None
    answer.click()
    # Its maps may ask before they take long, on a busy machine.
    expect(page.get_by_role("heading", name="Attribution", level=1)).to_be_visible()
    visit.settled()
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_label("Number", exact=True)).to_have_value(key)
    expect(sidebar.get_by_text("the label in the test set")).to_have_text(f"{label[1]} · the label in the test set")
    expect(sidebar.get_by_role("combobox", name="Model", exact=True)).to_have_value("ReActNet-A")
    expect(page.get_by_role("combobox", name="Class to explain")).to_have_value(re.compile(f"^{re.escape(said[1])} · "))
    visit.fine()


def test_a_zip_file_of_images_is_asked_about_once_it_is_chosen(visit: Visit, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w") as archive:
        for shade, name in enumerate(["Bag", "Trouser"] * 3):
            stream = io.BytesIO()
            Image.new("RGB", (30, 40), (40 * shade, 90, 200)).save(stream, "PNG")
            archive.writestr(f"{name}/{shade}.png", stream.getvalue())
    page = opened(visit, "Your own")
    page.get_by_test_id("stMain").locator("input[type=file]").last.set_input_files(tmp_path / "tiny.zip")
    expect(page.get_by_text("The set tiny is here")).to_be_visible()
    visit.settled()
    sets = page.get_by_test_id("stSidebar").get_by_label("Images", exact=True)
    frame(sets)  # a menu closes when what it belongs to is scrolled
    sets.click()
    page.get_by_role("option", name="tiny (6)").click()
    expect(page).to_have_url(re.compile("set=images-[0-9a-f]{8}"))
    visit.settled()
    visit.go("Compare variants")
    expect(page.get_by_text("on all 6 images of tiny, here").first).to_be_visible()
    expect(page.get_by_text(re.compile(r"№ \d+ · (Bag|Trouser)"))).to_have_count(6)
    visit.settled()
    visit.fine()


# -- moving -----------------------------------------------------------------------------------------------------------


def hrefs(page: Page, key: str) -> list[str]:
    found: list[str] = chart(page, key).locator(".heatmaplayer image").evaluate_all("m => m.map(e => e.href.baseVal)")
    return found


def pixels(href: str) -> NDArray[np.uint8]:
    """The cells of a heatmap as they are drawn, (H, W, 4)."""
    with Image.open(io.BytesIO(base64.b64decode(href.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGBA"))


def test_the_wipe_moves_the_border_between_two_maps(visit: Visit) -> None:
    page = opened(visit, "Attribution", "Two models")
    wipe = chart(page, "figure-wipe")
    expect(wipe.locator(".heatmaplayer image")).to_have_count(1)
    slider = page.get_by_role("slider", name="Wipe")
    frame(wipe)

    def wiped(key: str, share: int) -> tuple[NDArray[np.uint8], float]:
        """The map after a key was pressed, and where its line is, as a share of its width."""
        slider.press(key)
        expect(slider).to_have_attribute("aria-valuetext", f"{share} %")
        expect(wipe.get_by_text(f"line at {share}%").first).to_be_visible()
        still(visit, "figure-wipe")
        line, area = frame(wipe.locator(".shapelayer path")), frame(wipe.locator(".nsewdrag"))
        return pixels(hrefs(page, "figure-wipe")[0]), (line[0] + line[2] / 2 - area[0]) / area[2]

    right, _ = wiped("Home", 0)
    left, _ = wiped("End", 100)
    assert (left != right).mean() > 0.2
    for share in (95, 90, 85, 80, 75):
        both, at = wiped("ArrowLeft", share)
    width = both.shape[1]
    border = round(0.75 * width)
    assert at == pytest.approx(border / width, abs=0.01)
    assert (both[:, :border] == left[:, :border]).all() and (both[:, border:] == right[:, border:]).all()
    visit.fine()


def test_play_moves_the_tokens_to_the_last_step(visit: Visit) -> None:
    page = opened(visit, "Sampling patterns", "How tokens are rebuilt")
    key = "figure-reconstruction"
    step = chart(page, key).get_by_text(re.compile(r"shifted by \d+ tokens at most"))
    expect(step).to_have_text("shifted by 0 tokens at most")
    before = hrefs(page, key)
    assert len(before) == 4
    chart(page, key).get_by_text("▶ Play").click()
    expect(step).to_have_text("shifted by 3 tokens at most")
    page.wait_for_function(REDRAWN, arg=[key, before])
    # The same tokens, round the border to other places.
    for old, new in zip(map(pixels, before), map(pixels, hrefs(page, key)), strict=True):
        assert (np.sort(old.reshape(-1, 4), 0) == np.sort(new.reshape(-1, 4), 0)).all()
    visit.settled()
    visit.fine()


# -- taking away ------------------------------------------------------------------------------------------------------

#: Page -> name of a figure, kind of its data, and a word that is written in it.
EXPORTS = {
    "Overview": ("accuracies", "CSV", "BCDNet-A"),
    "OPs trade-offs": ("accuracy-cost", "CSV", "MeliusNet-42"),
    "Branch ledger": ("ledger", "CSV", "long"),
    "Attribution": ("attribution", "NPZ", "logit"),
    "Binarization error": ("weights", "NPZ", "weights"),
    "Receptive fields": ("exact-field", "NPZ", "column"),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_figure_is_saved_as_it_stands_with_its_numbers(visit: Visit, name: str) -> None:
    figure, kind, word = EXPORTS[name]
    page = opened(visit, name)
    _, _, width, height = frame(chart(page, f"figure-{figure}").locator(".main-svg").first)
    menu = chart(page, f"figure-{figure}").locator("xpath=following::*[@data-testid='stPopover'][1]")
    menu.get_by_role("button", name="Export").click()
    saved = {}
    for button in ("PNG", "SVG", f"Data ({kind})"):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert download.value.suggested_filename.startswith(f"{figure}.")
        saved[button] = Path(download.value.path()).read_bytes()

    assert saved["PNG"].startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(io.BytesIO(saved["PNG"])) as picture:
        assert picture.size == (int(2 * width), int(2 * height))
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20  # drawn, not blank
    drawing = ET.fromstring(saved["SVG"])
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    written = [text.text or "" for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    written += [text.text or "" for text in drawing.iter("{http://www.w3.org/2000/svg}tspan")]
    assert any(word in text for text in written), written
    data = io.BytesIO(saved[f"Data ({kind})"])
    if kind == "CSV":
        numbers = [pd.read_csv(data).select_dtypes("number").to_numpy(float)]
    else:
        numbers = [np.asarray(array, float) for array in np.load(data).values()]
    assert numbers and all(array.size and np.isfinite(array).any() for array in numbers)
    assert any(len(np.unique(array)) > 1 for array in numbers)
    visit.settled()
    visit.fine()


@pytest.mark.parametrize("name", ["OPs trade-offs", "Receptive fields"])
def test_words_of_figures_follow_the_theme(visit: Visit, name: str) -> None:
    inks = """() => [...new Set([...document.querySelectorAll(".js-plotly-plot :is(.xtick, .ytick, .xtitle) text")]
      .map(word => getComputedStyle(word).fill))].join()"""
    page = opened(visit, name)
    for theme, ink in (("Dark", "rgb(230, 235, 240)"), ("Light", "rgb(31, 41, 51)")):
        page.get_by_role("button", name="Main menu").click()
        page.get_by_role("menuitemradio", name=theme).click()
        page.keyboard.press("Escape")
        page.wait_for_function(f"({inks})() === '{ink}'", timeout=20_000)
    visit.fine()
