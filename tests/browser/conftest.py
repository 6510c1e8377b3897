"""Debian's Chromium, driven by Playwright, on the real service with the shipped models.

Every page is watched: a console message that is an error, a broken Content-Security-Policy, an
exception, or a request that leaves 127.0.0.1 fails the test it happened in. ``CHROMIUM`` names the
browser; where it is not set and none is found, these tests are skipped, and say so.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.served import ROOT, serving

MODELS = ROOT / "exported_models"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Told by the page itself, in the order in which it happens.
WATCH = """
window.shifts = [];
window.violations = [];
new PerformanceObserver((list) => {
  for (const each of list.getEntries()) window.shifts.push(each.value);
}).observe({ type: "layout-shift", buffered: true });
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`);
});
"""


def chromium() -> str:
    """The browser's path. Fails where the one that ``CHROMIUM`` names is missing."""
    named = os.environ.get("CHROMIUM")
    if named:
        assert Path(named).is_file(), f"CHROMIUM={named}: there is no such file"
        return named
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("NO BROWSER: the page is not tested; apt-get install chromium, or set CHROMIUM")


@pytest.fixture(scope="package")  # no longer: its event loop would be in the way of other tests'
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="package")
def url(browser: Browser) -> Iterator[str]:
    """The service with the models that this repository ships."""
    with serving(MODELS, DRAIN_SECONDS="0") as address:
        yield address


class Watched:
    """What went wrong on a page; ``expected`` are patterns of what is meant to."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.expected: list[str] = []
        self.said: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.said.append(f"exception: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def check(self) -> None:
        said = [
            text for text in self.said if not any(re.search(each, text) for each in self.expected)
        ]
        assert said == []
        strangers = [
            each
            for each in self.requests
            if not each.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:"))
        ]
        assert strangers == []
        assert self.requests
        if self.page.evaluate("'violations' in window"):
            assert self.page.evaluate("window.violations") == []


Opener = Callable[..., Page]


@pytest.fixture
def watched() -> dict[Page, Watched]:
    return {}


@pytest.fixture
def open_page(browser: Browser, watched: dict[Page, Watched]) -> Iterator[Opener]:
    """Opens an address in a context of its own, whose options may be given."""
    with ExitStack() as contexts:

        def open_it(address: str, **options: Any) -> Page:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
            contexts.callback(context.close)
            context.set_default_timeout(15_000)
            context.add_init_script(WATCH)
            page = context.new_page()
            watched[page] = Watched(page)
            page.goto(address)
            return page

        yield open_it
        for each in watched.values():
            each.check()


@pytest.fixture
def page(url: str, open_page: Opener) -> Page:
    """The page of the shipped models."""
    return open_page(url)


@pytest.fixture
def serve_with(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Serves the shipped models beside another comparison, whose text is given."""
    with ExitStack() as services:

        def serve(comparison: str) -> str:
            models = tmp_path / "exported_models"
            shutil.copytree(MODELS, models)
            (models / "comparison.json").write_text(comparison)
            return services.enter_context(serving(models, DRAIN_SECONDS="0"))

        yield serve
