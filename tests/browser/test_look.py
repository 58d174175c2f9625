"""How the pages look: legible in both themes, and whole in a narrow window."""

import pytest
from browser.dashboard import PAGES, READY
from playwright.sync_api import Browser, expect

pytestmark = pytest.mark.browser

#: Contrast of every word of every chart with the page behind it, by WCAG 2's formula; words on marks are left out.
CONTRASTS = """() => {
  const parse = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(parse(getComputedStyle(document.querySelector(".stApp")).backgroundColor));
  const words = document.querySelectorAll(
    ".js-plotly-plot :is(.xtick, .ytick, .legendtext, .gtitle, .xtitle, .ytitle, .cbtitle, .colorbar) text, " +
    ".js-plotly-plot text:is(.legendtext, .gtitle, .xtitle, .ytitle)");
  return [...words].filter(word => word.textContent.trim() && word.getBoundingClientRect().width).map(word => {
    const own = light(parse(getComputedStyle(word).fill));
    return [(Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05), word.textContent];
  });
}"""
#: What reaches beyond the right border of the window, inside of what scrolls by itself excepted.
OVERFLOWING = """() => {
  const wide = [...document.querySelectorAll("[data-testid=stMain] :is(.js-plotly-plot, button, svg[role], input)")];
  const scrolls = e => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.clientWidth < innerWidth
    && e.dataset.testid !== "stMain" && e.getBoundingClientRect().right <= innerWidth + 1 || scrolls(e.parentElement));
  return wide.filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e))
    .map(e => e.innerText || e.outerHTML.slice(0, 120));
}"""
#: Numbers and choices of which only a part is seen, because what holds them is too narrow.
CUT = """() => {
  const held = "[data-testid=stMain] :is([data-testid=stMetric], [data-testid=stButtonGroup])";
  return [...document.querySelectorAll(`${held}, ${held} *`)]
    .filter(e => e.checkVisibility() && e.clientWidth && e.scrollWidth > e.clientWidth + 1).map(e => e.innerText);
}"""
GROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 24, 31)"}


@pytest.mark.parametrize("width", [1400, 800])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_legible_and_whole(theme: str, width: int, address: str, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=theme)  # type: ignore[arg-type]
    faults: list[tuple[str, str, str]] = []
    try:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        for name, (text, charts) in PAGES.items():
            if width == 800 and page.get_by_test_id("stExpandSidebarButton").is_visible():
                page.get_by_test_id("stExpandSidebarButton").click()
            page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
            page.wait_for_function(READY, arg=[name, text, charts], polling=50)
            expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=60_000)
            ground = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
            assert ground == GROUND[theme]
            faults += [(name, "pale", word) for contrast, word in page.evaluate(CONTRASTS) if contrast < 4.5]
            faults += [(name, "too wide", element) for element in page.evaluate(OVERFLOWING)]
            faults += [(name, "cut off", element) for element in page.evaluate(CUT)]
    finally:
        context.close()
    assert not faults, "\n".join(map(str, sorted(set(faults))))
