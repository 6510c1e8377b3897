"""The page where the service asks for an API key."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Download, Page, Route, expect

from service.app import create_app
from service.settings import Settings, key_digest
from tests.browser.asking import expect_answers, shown, told
from tests.browser.conftest import MODELS, Opener, Watched
from tests.browser.test_asking import PICTURE, REFUSED, choose
from tests.browser.test_for_everyone import grave
from tests.served import serving

KEY = "a-key-of-the-page-tests"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped models, in a place where they may be changed."""
    folder = tmp_path_factory.mktemp("locked") / "exported_models"
    shutil.copytree(MODELS, folder)
    return folder


@pytest.fixture(scope="module")
def locked(browser: Browser, models: Path) -> Iterator[str]:
    with serving(models, API_KEYS=KEY, DRAIN_SECONDS="0") as url:
        yield url


def enter(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Open").click()


def with_another_key(route: Route) -> None:
    """On their way, requests lose the key for another, as if the service had got new ones."""
    route.continue_(headers={**route.request.headers, "x-api-key": "a-key-of-another-day"})


@pytest.fixture
def page(locked: str, open_page: Opener, watched: dict[Page, Watched]) -> Page:
    """The page, unlocked."""
    page = open_page(locked)
    watched[page].expected.append(REFUSED)
    enter(page, KEY)
    expect(page.locator(".net[data-variant]")).to_have_count(4)
    return page


def test_with_keys_the_page_asks_for_one_and_shows_nothing_before(
    open_page: Opener, watched: dict[Page, Watched]
) -> None:
    with serving(MODELS, API_KEYS=KEY, DRAIN_SECONDS="0") as url:
        page = open_page(url)
        watched[page].expected.append(REFUSED)
        expect(page.locator("h1")).to_have_text("This service asks for a key")
        expect(page).to_have_title(re.compile("Unauthorized"))
        assert "relu_with_bn" not in page.content()
        assert grave(page) == []
        field = page.get_by_label("API key")
        field.fill("a-wrong-key-for-the-page")
        field.press("Enter")
        expect(page.locator("#locked")).to_have_text("That key is not known.")
        assert "relu_with_bn" not in page.content()
        field.fill(KEY)
        field.press("Enter")
        expect(page.locator(".net[data-variant]")).to_have_count(4)
        assert page.evaluate("document.activeElement.id") == "title"
        expect(page).to_have_title("Four nets, one difference · batchnorm-service")
        choose(page, "mine.jpg", PICTURE)
        expect_answers(page, "mine.jpg")
        assert shown(page) == told(url, PICTURE, **{"X-API-Key": KEY})
        page.get_by_role("link", name="pear").click()
        expect_answers(page, "pear")
        assert '-H "X-API-Key: $API_KEY"' in page.locator(".call pre:visible").inner_text()
        assert page.locator("#lag-says").inner_text() != ""
        page.locator("details.card > summary").first.click()
        for name, check in (("the card as JSON", "json"), ("Download the ONNX file", "onnx")):
            with page.expect_download() as download:
                page.locator("details.card[open]").get_by_role("link", name=name).click()
            assert download.value.suggested_filename.endswith(check)
            content = Path(download.value.path()).read_bytes()
            if check == "json":
                assert json.loads(content)["variant"]
            else:
                assert len(content) > 1_000_000
        assert KEY not in page.content()
        stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        assert KEY not in page.evaluate(stored)
        assert requests.get(f"{url}/", timeout=5).status_code == 401
        watched[page].check()


def test_a_key_that_is_no_longer_known_is_told_so(page: Page, locked: str) -> None:
    before = shown(page)
    page.route(f"{locked}/**", with_another_key)
    alert = page.get_by_role("alert")
    page.locator("details.card > summary").first.click()
    for ask in (
        lambda: choose(page, "mine.jpg", PICTURE),
        lambda: page.get_by_role("link", name="pear").click(),
        lambda: page.get_by_role("link", name="the card as JSON").first.click(),
    ):
        ask()
        expect(alert).to_contain_text("Unauthorized")
        expect(alert).to_contain_text("The key is no longer known. Load the page again")
        page.get_by_role("button", name="Close").click()
        expect(page.locator("#answers")).not_to_have_attribute("aria-busy", "true")
    assert shown(page) == before


def test_a_download_that_fails_is_told_and_nothing_is_saved(
    page: Page, locked: str, models: Path, watched: dict[Page, Watched]
) -> None:
    saved: list[Download] = []
    page.on("download", lambda download: saved.append(download))
    file = sorted(models.glob("*/*/model.onnx"))[0]
    content = file.read_bytes()
    details = page.locator(f"details.card.{file.parts[-3]}").first
    details.locator("summary").first.click()
    link = details.get_by_role("link", name="Download the ONNX file")
    alert = page.get_by_role("alert")
    try:
        file.write_bytes(content + b"\0")
        link.click()
        expect(alert).to_contain_text("Not Found")
        expect(alert).to_contain_text("is no longer the file that was loaded")
    finally:
        file.write_bytes(content)
    watched[page].expected.append("ERR_FAILED")
    page.route("**/model.onnx", lambda route: route.abort())
    link.click()
    expect(alert).to_contain_text("The service cannot be reached")
    page.wait_for_timeout(200)
    assert saved == []
    page.unroute_all()
    with page.expect_download() as download:
        link.click()
    assert Path(download.value.path()).read_bytes() == content


def test_a_download_that_fails_leaves_a_question_in_progress(page: Page) -> None:
    held: list[Route] = []
    page.route("**/answers?example=road", lambda route: held.append(route))
    page.route("**/models/**", with_another_key)
    page.locator("details.card > summary").first.click()
    page.locator(".examples a[title=road]").click(no_wait_after=True)
    page.get_by_role("link", name="the card as JSON").first.click()
    expect(page.get_by_role("alert")).to_contain_text("Unauthorized")
    expect(page.locator("#answers")).to_have_attribute("aria-busy", "true")
    held[0].continue_()
    expect_answers(page, "road")


def test_a_service_that_cannot_show_its_page_says_why_when_it_is_unlocked(
    locked: str, open_page: Opener, watched: dict[Page, Watched], tmp_path: Path
) -> None:
    # It never becomes ready, which is what ``serving`` waits for: its answer comes from the
    # application itself.
    settings = Settings.from_environment({"MODELS_DIR": str(tmp_path / "nothing")})
    client = create_app(replace(settings, api_keys=(key_digest(KEY),))).test_client()
    answer = client.get("/", headers={"X-API-Key": KEY})
    page = open_page(locked)
    watched[page].expected += [REFUSED, "ERR_FAILED"]
    page.route(
        f"{locked}/",
        lambda route: route.fulfill(
            status=answer.status_code, headers=dict(answer.headers), body=answer.data
        ),
    )
    enter(page, KEY)
    words = page.locator("#locked")
    expect(words).to_contain_text("Service Unavailable: no model can be served")
    page.unroute_all()
    page.route(f"{locked}/", lambda route: route.abort())
    enter(page, KEY)
    expect(words).to_have_text("The service does not answer.")
