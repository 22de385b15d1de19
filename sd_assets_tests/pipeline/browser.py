"""A headless Chromium that looks at pages, and what it may see there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

from sd_assets_tests.optional import missing

# By the names that distributions give it. Playwright's own build would be another download.
NAMES = ("chromium", "chromium-browser", "google-chrome")

# Its size and how many colours it shows: a picture whose parts were not decoded is empty in places.
_SEEN = """
picture => {
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return [canvas.width, canvas.height, new Set(pixels).size];
}
"""


@contextmanager
def opened_page() -> Iterator[Page]:
    """An empty page of a browser of its own; where there is no Chromium, the test is skipped, or fails in CI."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing("Chromium", "apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        # Root has no sandbox, and small machines no large /dev/shm.
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=Path(found), args=options)
        try:
            yield browser.new_page(viewport={"width": 1400, "height": 1000})
        finally:
            browser.close()


def seen(picture: Locator) -> tuple[int, int, int]:
    """Width and height of a picture that the page has decoded, px, and how many colours it shows."""
    picture.page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture.element_handle())
    width, height, colours = picture.evaluate(_SEEN)
    return width, height, colours
