"""The report as a person uses it, in a browser that opens it from the disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from sd_assets_tests.pipeline.browser import opened_page, seen
from sd_assets_tests.report.dataset import Dataset
from sd_assets_tests.views.hostile import HOSTILE

pytestmark = pytest.mark.browser
COUNT = 303
SCRIPT = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_page() as page:
        assert page.context.browser is not None
        yield page.context.browser


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pairs with odd texts, of which there was a report before; then one came, one went, and one is not kept any more."""
    found = Dataset.of(tmp_path_factory.mktemp("report"), COUNT)
    for row, text in zip(found.rows["text_image_pairs"][10:], HOSTILE, strict=False):
        stored = text.encode("utf-8", "replace").decode()
        row.update(captions=[f"hostile {stored}"], text=stored, licence=stored)
    found.rows["curated_pairs"][10].update(reasons=[SCRIPT], keep=False, split=None)
    found.report()
    found.add([COUNT])
    found.rows["curated_pairs"][0].update(keep=False, reasons=["low_alignment"], split=None)
    found.remove(50)
    return found


@pytest.fixture(scope="module")
def report(dataset: Dataset) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sd_assets.report.write._CHUNK_PAIRS", 100)
        return dataset.report().page


@pytest.fixture
def page(browser: Browser, report: str) -> Iterator[Page]:
    """The page, whole; it may ask for nothing but files beside it, and has nothing to say to the console."""
    asked: list[str] = []
    said: list[str] = []
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(10_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(f"file://{report}")
    page.wait_for_selector("main:not([aria-busy])")
    yield page
    page.close()
    folder = f"file://{Path(report).parent}/"
    assert [url for url in asked if not url.startswith((folder, "data:image/jpeg"))] == []
    assert said == []


def expect_count(page: Page, count: int) -> None:
    expect(page.locator("#count")).to_have_text(f"{count:,} of {COUNT:,} pairs")


def test_it_opens_and_shows_the_pictures(page: Page) -> None:
    expect_count(page, COUNT)
    width, height, colours = seen(page.locator(".tile img").first)
    assert (width, height) == (64, 64) and colours >= 1
    # Few of the many tiles exist.
    assert 5 < page.locator(".tile").count() < 80


def test_it_filters_by_a_reason_and_searches_a_caption(page: Page, dataset: Dataset) -> None:
    count = len(dataset.against("low_sharpness"))
    page.get_by_label("Reason against it").select_option(label=f"low_sharpness ({count})")
    expect_count(page, count)
    expect(page.locator(".verdict").first).to_have_text("not kept: near_duplicate, low_sharpness")
    page.get_by_label("Search captions").fill("LAMP 191")
    expect_count(page, 0)
    page.get_by_label("Search captions").fill("PLANT number 191")
    expect_count(page, 1)
    expect(page.locator(".tile .caption")).to_have_text("a plant, number 191")
    page.get_by_role("button", name="Clear").click()
    expect_count(page, COUNT)


def test_it_filters_by_score_split_origin_and_host_and_sorts(page: Page) -> None:
    page.get_by_text("Scores", exact=True).click()
    page.get_by_label("sharpness from").fill("20")  # number / 7
    page.get_by_label("sharpness to").fill("21")
    expect_count(page, 8)
    page.get_by_label("Order", exact=True).select_option(label="sharpness, highest first")
    expect(page.locator(".tile .caption").first).to_have_text("a plant, number 147")
    page.get_by_label("Kept", exact=True).select_option("kept")
    expect_count(page, 6)
    page.get_by_label("Origin").select_option(
        label=next(
            it for it in page.locator("[name=origin] option").all_inner_texts() if it.startswith("retrieved")
        )
    )
    expect_count(page, 4)
    page.get_by_label("Host").fill("WWW0.example")
    expect_count(page, 1)
    page.get_by_label("Split").select_option(
        label=next(
            it for it in page.locator("[name=split] option").all_inner_texts() if it.startswith("train")
        )
    )
    expect_count(page, 0)


def test_the_keyboard_reaches_every_pair(page: Page) -> None:
    page.locator(".tile").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("a lamp, number 1")
    expect(dialog).to_contain_text("80 × 64")
    expect(dialog).to_contain_text("https://www1.example.org/1.jpg?…")
    expect(dialog.locator(".side")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text(f"number {COUNT}")
    dialog.get_by_role("button", name="Previous").press("Enter")
    expect(dialog).to_contain_text(f"number {COUNT - 1}")
    expect(dialog.get_by_role("button", name="Previous")).to_be_focused()
    page.keyboard.press("Escape")


def test_scrolling_loads_what_comes_into_sight(page: Page) -> None:
    page.locator("#results").evaluate("box => { box.scrollTop = box.scrollHeight }")
    last = page.locator(".tile", has_text=f"number {COUNT}")
    expect(last.locator("img")).to_be_visible()
    assert page.locator(".tile").count() < 80


def test_the_funnel_says_what_speaks_against_pairs(page: Page, dataset: Dataset) -> None:
    against = dataset.against("near_duplicate")
    alone = [row for row in against if len(row["reasons"]) == 1]
    page.get_by_role("link", name="Funnel").click()
    row = page.locator("#funnel tr", has=page.get_by_role("button", name="near_duplicate"))
    assert row.locator("td").all_inner_texts()[1:3] == [str(len(against)), str(len(alone))]
    row.get_by_role("button").click()
    expect_count(page, len(against))


def test_distributions_are_of_all_and_of_what_is_chosen(page: Page, dataset: Dataset) -> None:
    known = [row for row in dataset.rows["curated_pairs"] if row["alignment"] is not None]
    sofas = {row["image_id"] for row in dataset.rows["text_image_pairs"] if "sofa" in row["captions"][0]}
    chosen = [row for row in known if row["image_id"] in sofas]
    page.get_by_label("Search captions").fill("sofa")
    expect(page.locator("#count")).not_to_contain_text(f"{COUNT:,} of")
    page.get_by_role("link", name="Distributions").click()
    expect(page.locator("#histograms figure")).to_have_count(5)
    rows = page.locator("#distributions tbody tr").all_inner_texts()
    counts = [row.split("\t")[:3] for row in rows if row.startswith("alignment")]
    assert counts == [["alignment", "all", str(len(known))], ["alignment", "chosen", str(len(chosen))]]
    assert any(row.startswith("colourfulness") for row in rows)


def test_near_duplicates_stand_side_by_side(page: Page) -> None:
    page.get_by_role("link", name="Near-duplicates").click()
    expect(page.locator(".cluster")).to_have_count(1)
    expect(page.locator(".cluster .side img")).to_have_count(2)
    expect(page.locator(".cluster .side").first).to_contain_text("3 bits, cosine 0.97")


def test_changes_since_the_last_report(page: Page) -> None:
    page.get_by_role("link", name="Changes").click()
    rows = page.locator("#changes tbody tr").all_inner_texts()
    assert sorted(row.split("\t") for row in rows) == [
        ["added", "1"],
        ["no longer kept", "1"],
        ["removed", "1"],
    ]
    page.get_by_role("button", name="added").click()
    expect(page.locator(".tile .caption")).to_have_text(f"a plant, number {COUNT}")


def test_files_that_are_gone_are_said_to_be(browser: Browser, report: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(Path(report).parent, folder)
    for file in folder.glob("thumbnails-*"):
        file.unlink()
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri())
    expect(page.get_by_role("alert")).to_contain_text("reload this page")
    page.close()


def test_texts_of_the_web_are_nothing_but_text(page: Page) -> None:
    page.get_by_label("Search captions").fill("hostile")
    expect_count(page, len(HOSTILE))
    page.locator(".tile").first.click()
    expect(page.get_by_role("dialog")).to_contain_text(SCRIPT)
    assert page.locator("img[src=x], a[href*=evil]").count() == 0
    page.keyboard.press("Escape")


def test_it_can_be_read_in_light_and_dark_and_heard(page: Page) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
        contrasts = page.evaluate(_CONTRASTS)
        assert min(contrasts.values()) >= 4.5, (scheme, contrasts)
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('input, select')].filter(it => !it.labels.length && !it.ariaLabel).length"
    )
    assert unnamed == 0


# Contrast (WCAG 2.2, 1.4.3) of each kind of text with the page and with panels.
_CONTRASTS = """
() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    let hex = style.getPropertyValue(name).trim().slice(1);
    if (hex.length === 3) hex = [...hex].map(digit => digit + digit).join("");
    const [r, g, b] = [0, 2, 4].map(at => {
      const value = parseInt(hex.slice(at, at + 2), 16) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrasts = {};
  for (const back of ["--paper", "--panel"])
    for (const front of ["--ink", "--faint", "--link", "--kept", "--against"]) {
      const [low, high] = [light(back), light(front)].sort((a, b) => a - b);
      contrasts[`${front} on ${back}`] = (high + 0.05) / (low + 0.05);
    }
  return contrasts;
}
"""
