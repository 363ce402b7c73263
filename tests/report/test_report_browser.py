"""The page in a real browser: wide, narrow and on paper."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from assay.report import LANGUAGES

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# Every visible text against what is behind it, by WCAG 2.2; returns those under 4.5. Text in pictures stands on cells
# whose contrast is computed from the palette elsewhere.
CONTRAST = r"""() => {
  const rgb = text => (text.match(/[\d.]+/g) || []).map(Number);
  const linear = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const luminance = c => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
  const behind = el => {
    for (; el; el = el.parentElement) {
      const c = rgb(getComputedStyle(el).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const hasText = el => [...el.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const seen = [...document.body.querySelectorAll('*')].filter(el => !el.closest('svg') && hasText(el));
  const bad = seen.filter(el => {
    const pair = [rgb(getComputedStyle(el).color), behind(el)].map(luminance).sort((x, y) => y - x);
    return (pair[0] + .05) / (pair[1] + .05) < 4.5;
  });
  return [seen.length, bad.map(el => el.tagName + ' ' + el.textContent.slice(0, 30))];
}"""
# The smallest text of any picture, in pixels on the screen.
SMALLEST = """() => Math.min(...[...document.querySelectorAll('svg')].flatMap(svg => {
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return [...svg.querySelectorAll('text')].map(one => parseFloat(getComputedStyle(one).fontSize) * scale); }))"""
# Texts of a picture that reach out of it, or over one another.
LAID_OUT = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  const all = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim());
  const texts = all.map(t => [t.textContent, t.getBoundingClientRect()]);
  const within = r => r.left >= box.left - 1 && r.right <= box.right + 1
    && r.top >= box.top - 1 && r.bottom <= box.bottom + 1;
  const shared = (a, b, from, to) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
  const meet = (a, b) => shared(a, b, 'left', 'right') > 2 && shared(a, b, 'top', 'bottom') > 4;
  const out = texts.filter(([, r]) => !within(r)).map(([t]) => 'out: ' + t);
  const over = texts.flatMap(([t, a], i) =>
    texts.slice(i + 1).filter(([, b]) => meet(a, b)).map(([u]) => t + ' over ' + u));
  return out.concat(over);
})"""
SCROLLING = """[...document.querySelectorAll('*')].filter(
  e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'auto')"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(every_page, media_pages, tmp_path_factory) -> dict[tuple[str, str], Path]:
    folder, written = tmp_path_factory.mktemp("browser"), every_page | media_pages
    paths = {key: folder / f"{key[0]}.{key[1]}.html" for key in written}
    for key, path in paths.items():
        path.write_text(written[key], "utf-8")
    return paths


def opened(browser, path, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None
    )
    page.goto(path.as_uri())
    return page, said


@pytest.mark.parametrize("width", [1280, 380, 320])
@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_fits_is_silent_and_legible(browser, files, lang, width):
    for (_, language), path in files.items():
        if language != lang:
            continue
        page, said = opened(browser, path, width)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        assert page.evaluate(SMALLEST) >= 9
        assert page.evaluate(LAID_OUT) == []
        seen, bad = page.evaluate(CONTRAST)
        assert seen > 200
        assert bad == []
        assert said == []
        page.close()


def test_what_the_layout_test_would_find(browser, tmp_path):
    svg = '<svg viewBox="0 0 100 40" width="100"><text x="5" y="20" font-size="10">one</text>{}</svg>'
    texts = '<text x="8" y="21" font-size="10">two</text><text x="95" y="35" font-size="8">wide</text>'
    path = tmp_path / "bad.html"
    path.write_text(f"<body><p style='color:#888'>pale</p>{svg.format(texts)}</body>")
    page, _ = opened(browser, path, 380)
    assert page.evaluate(LAID_OUT) == ["out: wide", "one over two"]
    assert page.evaluate(SMALLEST) == 8
    assert page.evaluate(CONTRAST) == [1, ["P pale"]]
    page.close()


def comes_true(page, condition):
    """Poll from outside for ten seconds: the page's own policy lets no script wait inside it."""
    for _ in range(100):
        if page.evaluate(condition):
            return True
        page.wait_for_timeout(100)
    return False


def test_what_scrolls_can_be_reached_and_scrolled_by_keyboard(browser, files):
    page, _ = opened(browser, files["compared", "en"], 320)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert comes_true(page, "location.hash === '#main'")
    assert page.evaluate("document.querySelector(location.hash) !== null")
    assert page.evaluate(f"{SCROLLING}.length") > 0
    assert page.evaluate(f"{SCROLLING}.filter(e => e.tabIndex !== 0).length") == 0
    page.evaluate(f"{SCROLLING}[0].focus()")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert comes_true(page, "document.activeElement.scrollLeft > 0")
    page.close()


def test_a_screen_reader_gets_names(browser, files):
    page, _ = opened(browser, files["compared", "en"], 1280)
    for role, least in (("main", 1), ("navigation", 1), ("banner", 1), ("contentinfo", 1), ("img", 8), ("table", 1)):
        assert page.get_by_role(role).count() >= least, role
    assert page.get_by_role("heading", name="Side effects in words").count() == 1
    assert page.get_by_role("img", name="error rate: 5 values. Lowest:").count() == 1
    page.close()


def columns(page):
    return page.evaluate("[...document.querySelectorAll('#heat thead th[data-col]')].map(one => one.dataset.name)")


def test_the_matrix_sorts_by_keyboard_says_so_and_leads_to_its_evidence(browser, files):
    page, said = opened(browser, files["compared", "en"], 1280)
    assert columns(page) == ["base", "quantize_int8"]
    size = page.locator("#heat th[data-name='model size']")
    size.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert columns(page) == ["quantize_int8", "base"]  # the larger gain first
    assert size.get_attribute("aria-sort") == "descending"
    assert page.get_by_role("status").inner_text() == "Systems by the change of model size."
    cells = page.evaluate("[...document.querySelectorAll('#heat tr[data-dim]')].map(one => one.cells[1].dataset.col)")
    assert set(cells) == {"1"}  # every row moved with its heads
    page.keyboard.press("Space")
    assert (columns(page), size.get_attribute("aria-sort")) == (["base", "quantize_int8"], "ascending")
    page.locator("#heat thead th button").first.click()
    assert size.get_attribute("aria-sort") is None
    page.locator("#heat thead th[data-col='1'] button").click()
    first = page.locator("#heat tbody").nth(6).locator("tr[data-dim]").first
    assert "model size" in first.inner_text()
    assert not page.locator("#cells").evaluate("one => one.open")
    first.locator("td[data-col='1'] a").click()
    assert comes_true(page, "document.querySelector('#cells').open && document.querySelector('tr:target') !== null")
    assert "model size" in page.locator("tr:target").inner_text()
    assert said == []
    page.close()


def test_without_scripts_the_matrix_is_a_table_and_its_links_lead_on(browser, files):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(files["compared", "en"].as_uri())
    assert page.locator("#heat button").count() == 0
    assert not page.locator("#heat-help").is_visible()
    page.locator("#heat td a").first.click()
    assert page.locator("tr:target").is_visible()  # the browser opens what holds it
    context.close()


def test_a_screen_reader_gets_the_curve_the_map_and_the_words(browser, files):
    for name, title, first in (
        ("image", "Shapley attribution: 16 values. Lowest: patch ", "patch"),
        ("english", "", "word"),
    ):
        page, _ = opened(browser, files[name, "en"], 1280)
        for one in ("loss by epoch: ", "accuracy by epoch: ", title or "Shapley attribution: "):
            assert page.get_by_role("img", name=one).count() == 1, one
        page.locator("#measurements summary").click()
        assert page.locator("#measurements").get_by_role("cell", name=f"{first} ").count() >= 5
        page.locator("#training summary").click()
        assert page.locator("#training").get_by_role("rowheader").count() == 5
        page.close()


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", ["compared", "image", "chinese"])
def test_on_paper_nothing_is_wider_than_the_sheet(browser, files, name, lang):
    page, _ = opened(browser, files[name, lang], 1280)
    data = page.pdf(prefer_css_page_size=True)
    assert data.startswith(b"%PDF")
    assert 3 <= data.count(b"/Type /Page\n") <= 30
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 702, "height": 1000})  # A4 less its margins, at 96 dots an inch
    assert page.evaluate("document.documentElement.scrollWidth") <= 702
    pictures = page.evaluate("[...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().toJSON())")
    assert len(pictures) >= 5
    assert max(one["right"] for one in pictures) <= 702
    assert max(one["height"] for one in pictures) <= 1017  # one sheet
    page.close()
