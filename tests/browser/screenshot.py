"""The README's picture of the page: ``python -m tests.browser.screenshot docs/page.png``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.conftest import FLAGS, MODELS, chromium
from tests.served import serving


def main(path: Path) -> None:
    """Open the page on the shipped models, and keep what is seen first."""
    with serving(MODELS, DRAIN_SECONDS="0") as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 960})
        page.goto(url)
        page.wait_for_timeout(1000)
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
