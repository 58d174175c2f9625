"""Takes the pictures of ``docs/views.md``, each page as a newcomer finds it: ``make screenshots``."""

import io
import sys
from pathlib import Path

from browser.dashboard import FLAGS, PAGES, READY, ROOT, chromium, serving
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from bcdnet.files import write_atomically

FOLDER = ROOT / "docs" / "views"
#: Window, and the number of colours, which few people see missing and everybody downloads.
WIDTH, HEIGHT, COLOURS = 1400, 1000, 128


def file_name(page: str) -> str:
    """Of a page's picture: "Branch ledger" -> "branch-ledger.png"."""
    return f"{page.lower().replace(' ', '-')}.png"


def main(folder: Path = FOLDER, theme: str = "light") -> None:
    """One picture for every page, of what fits a window."""
    folder.mkdir(exist_ok=True)
    with serving() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme)  # type: ignore[arg-type]
        page.goto(address)
        for name, (text, charts) in PAGES.items():
            page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
            page.wait_for_function(READY, arg=[name, text, charts], polling=50, timeout=120_000)
            page.wait_for_timeout(2000)  # fonts, what fades in, and jobs that begin by themselves
            expect(page.get_by_role("button", name="Cancel")).to_have_count(0, timeout=120_000)
            with Image.open(io.BytesIO(page.screenshot())) as shot:
                stream = io.BytesIO()
                shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
            write_atomically(folder / file_name(name), stream.getvalue())
            print(f"{folder.name}/{file_name(name)}: {len(stream.getvalue()) >> 10} KB", file=sys.stderr)
        browser.close()


if __name__ == "__main__":
    main()
