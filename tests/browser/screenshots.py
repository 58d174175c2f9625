"""Takes the pictures of ``docs/views.md``, each page as a newcomer finds it, then its tabs: ``make screenshots``.

``PYTHONPATH=tests python -m browser.screenshots "Compare variants"`` takes those of some pages only.
"""

import io
import re
import sys
from collections.abc import Collection
from pathlib import Path

from browser.dashboard import FLAGS, PAGES, READY, ROOT, chromium, serving
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from bcdnet.files import write_atomically

FOLDER = ROOT / "docs" / "views"
#: Window, and the number of colours, which few people see missing and everybody downloads.
WIDTH, HEIGHT, COLOURS = 1400, 1000, 128


#: Page -> its tabs that get a picture of their own.
TABS = {
    "Overview": ("How they were trained",),
    "Sampling patterns": ("Back to the image", "How tokens are rebuilt", "Without wrap-round"),
    "Receptive fields": ("From layer to layer", "How much each pixel counts"),
    "Attribution": ("Is it faithful?", "Randomised", "Surrogate meter", "Grid", "Two models"),
    "Branch ledger": ("One channel over all tokens", "Accuracy", "Every branch alone", "Shares"),
    "Binarization error": ("Margins", "Thresholds", "Fewest flips", "Information"),
    "Deployment": ("One layer, both ways", "What comes out, and what it takes", "How fast it runs here"),
    "Training runs": ("Flips and binarization error", "By branch and kind of binary weight"),
}


def file_name(*names: str) -> str:
    """Of a picture: "Branch ledger", "Shares" -> "branch-ledger-shares.png"."""
    return f"{'-'.join(re.findall(r'[a-z]+', ' '.join(names).lower()))}.png"


def main(names: Collection[str] = (), folder: Path = FOLDER, theme: str = "light") -> None:
    """One picture for every page, of what fits a window, and one for each of its tabs."""
    folder.mkdir(exist_ok=True)
    with serving() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme)  # type: ignore[arg-type]
        page.goto(address)
        for name in names or PAGES:
            text, charts = PAGES[name]
            page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
            page.wait_for_function(READY, arg=[name, text, charts], polling=50, timeout=120_000)
            settled(page)
            agree(page, "Compute it")
            save(folder / file_name(name), page.screenshot())
            for tab in TABS.get(name, ()):
                page.get_by_test_id("stMain").get_by_role("tab", name=tab, exact=True).click()
                settled(page)
                agree(page, "Compute it|Measure now")
                panel = page.locator("[data-testid=stTabs]", has=page.get_by_role("tab", name=tab, exact=True)).last
                save(folder / file_name(name, tab), panel.screenshot())
        browser.close()


def agree(page: Page, to: str) -> None:
    """Press what asks before it computes, so that there is something to see."""
    for ask in page.get_by_test_id("stMain").get_by_role("button", name=re.compile(to)).all():
        ask.click()
        settled(page)


def settled(page: Page) -> None:
    """Wait for fonts, what fades in, and jobs that begin by themselves."""
    page.wait_for_timeout(2000)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0, timeout=300_000)
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=60_000)


def save(path: Path, picture: bytes) -> None:
    """Write a picture with few colours."""
    with Image.open(io.BytesIO(picture)) as shot:
        stream = io.BytesIO()
        shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    write_atomically(path, stream.getvalue())
    print(f"{path.parent.name}/{path.name}: {len(stream.getvalue()) >> 10} KB", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
