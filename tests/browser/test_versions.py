"""The choice among versions of the nets: the picture stays, its answers change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, Route, expect

from tests.browser.asking import expect_answers, shown, told
from tests.browser.conftest import MODELS, Opener, Watched
from tests.browser.test_asking import EXAMPLES, FOUR, PICTURE, REFUSED, choose, run
from tests.browser.test_for_everyone import focus_on, grave
from tests.browser.test_locked import KEY, enter
from tests.served import serving

SUNFLOWER = (EXAMPLES / "sunflower.webp").read_bytes()
PEAR = (EXAMPLES / "pear.webp").read_bytes()
NEWEST, FIRST = "version 2 · modern recipe", "version 1 · article's recipe"
ONE = "?version=1"
CHOSEN = ".versions [aria-current] span"


def chosen(page: Page) -> str:
    """The name of the choice that is made."""
    return page.locator(CHOSEN).inner_text()


def take(page: Page, name: str) -> None:
    """Choose, and wait for those nets' answers."""
    page.get_by_role("link", name=name).click()
    expect(page.locator(CHOSEN)).to_have_text(name)
    expect(page.locator("#answers")).not_to_have_attribute("aria-busy", "true")


@pytest.mark.parametrize("width", [360, 390, 800, 1280])
def test_the_choices_are_of_one_size_and_say_what_they_show(
    url: str, open_page: Opener, width: int
) -> None:
    page = open_page(url, viewport={"width": width, "height": 900}, java_script_enabled=False)
    for name, shows in (
        (NEWEST, "today's recipe: learns without batch norm too"),
        (FIRST, "constant learning rate: batch norm decides"),
    ):
        link = page.get_by_role("link", name=f"{name} {shows}", exact=True)
        assert [each.strip() for each in link.inner_text().split("\n")] == [name, shows]
    boxes = page.locator(".versions a").evaluate_all(
        "all => all.map((each) => each.getBoundingClientRect().toJSON())"
    )
    one, two = boxes
    for side in ("width", "height"):
        assert one[side] == pytest.approx(two[side], abs=0.1)
    assert (one["x"] == two["x"]) != (one["y"] == two["y"])  # in a row or in a column


def test_another_version_answers_to_the_picture_that_is_there(page: Page, url: str) -> None:
    assert page.locator(".versions a span").all_inner_texts() == [NEWEST, FIRST]
    assert chosen(page) == NEWEST
    take(page, FIRST)
    expect(page.locator("#status")).to_contain_text(f"sunflower, {FIRST}: relu with bn says")
    assert set(shown(page)) == FOUR
    assert shown(page) == told(url, SUNFLOWER, ONE) != told(url, SUNFLOWER)
    assert sum(page.evaluate("window.shifts")) < 0.01  # painted as it is parsed; 0.1 is good
    card = requests.get(f"{url}/models/sigmoid_with_bn{ONE}", timeout=10).json()["card"]
    facts = page.locator(".net[data-variant=sigmoid_with_bn] .facts")
    expect(facts).to_contain_text(f"{100 * card['evaluation']['after_freeze']['top1']:.1f}")
    take(page, NEWEST)
    assert shown(page) == told(url, SUNFLOWER)


@pytest.mark.parametrize(
    ("start", "choices"),
    [
        ("/", {FIRST: "/?version=1", NEWEST: "/"}),
        ("/?version=1", {NEWEST: "/", FIRST: "/?version=1"}),
        ("/?version=1&mark=a#models", {NEWEST: "/?mark=a#models"}),
        ("/?version=2", {FIRST: "/?version=1", NEWEST: "/"}),
    ],
)
def test_a_choice_is_in_the_address_and_a_reload_keeps_it(
    url: str, open_page: Opener, start: str, choices: dict[str, str]
) -> None:
    page = open_page(f"{url}{start}")
    entries = page.evaluate("history.length")
    for name, address in choices.items():
        take(page, name)
        assert page.url == f"{url}{address}"
        page.reload()
        assert (page.url, chosen(page)) == (f"{url}{address}", name)
        assert shown(page) == told(url, SUNFLOWER, ONE if name == FIRST else "")
    assert page.evaluate("history.length") == entries  # and back leads to where one came from


def test_a_version_chosen_before_the_answer_is_for_the_picture_that_was_asked(
    page: Page, url: str
) -> None:
    held: list[Route] = []
    page.route("**/answers", lambda route: held.append(route))
    choose(page, "mine.jpg", PICTURE)
    expect(page.locator("#answers")).to_have_attribute("aria-busy", "true")
    for _ in range(100):
        page.wait_for_timeout(20)
        if held:
            break
    page.unroute("**/answers")
    take(page, FIRST)
    expect_answers(page, "mine.jpg")
    assert shown(page) == told(url, PICTURE, ONE)


def test_a_file_that_is_gone_by_then_is_answered_by_another_version_too(
    page: Page, url: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jpg"
    path.write_bytes(PICTURE)
    page.set_input_files("#file", path)
    expect_answers(page, "mine.jpg")
    path.unlink()
    take(page, FIRST)
    assert shown(page) == told(url, PICTURE, ONE)


def test_going_back_shows_the_nets_of_the_address(url: str, open_page: Opener) -> None:
    page = open_page(f"{url}/?version=1")
    page.get_by_role("link", name="The study").click()
    take(page, NEWEST)
    assert page.url == f"{url}/#study"
    page.go_back()
    assert page.url == f"{url}/?version=1"
    expect(page.locator(CHOSEN)).to_have_text(FIRST)
    assert shown(page) == told(url, SUNFLOWER, ONE)
    page.go_forward()
    expect(page.locator(CHOSEN)).to_have_text(NEWEST)
    assert page.url == f"{url}/#study"


def test_a_way_back_that_fails_leaves_the_address_with_the_nets_that_are_shown(
    url: str, open_page: Opener, watched: dict[Page, Watched]
) -> None:
    page = open_page(f"{url}/?version=1")
    page.get_by_role("link", name="The study").click()
    take(page, NEWEST)
    watched[page].expected.append("ERR_FAILED")
    page.route("**/answers?*version=1", lambda route: route.abort())
    page.go_back()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    assert (chosen(page), page.url) == (NEWEST, f"{url}/")
    page.unroute_all()
    take(page, FIRST)
    assert shown(page) == told(url, SUNFLOWER, ONE)


def test_the_name_of_the_service_leads_to_the_top_with_the_choice(
    url: str, open_page: Opener
) -> None:
    page = open_page(f"{url}/?version=1")
    page.locator(".brand").click()
    expect(page).to_have_url(f"{url}/?version=1#try")
    page.goto(f"{url}/answers?example=pear&version=1")
    page.locator(".brand").click()
    expect(page).to_have_url(f"{url}/?version=1#try")


def test_a_picture_leaves_the_address_as_it_is(url: str, open_page: Opener) -> None:
    page = open_page(f"{url}/?version=2")
    page.locator(".examples a[title=pear]").click()
    expect_answers(page, "pear")
    assert page.url == f"{url}/?version=2"


def test_the_pages_sections_are_reached_with_the_choice(page: Page, url: str) -> None:
    take(page, FIRST)
    page.locator(".examples a[title=pear]").click()
    expect_answers(page, "pear")
    page.get_by_role("link", name="The study").click()
    expect(page).to_have_url(f"{url}/?version=1#study")
    expect_answers(page, "pear")  # it is the same page still
    assert chosen(page) == FIRST


@pytest.mark.parametrize(
    "how", [{"modifiers": ["Control"]}, {"button": "middle"}, {"modifiers": ["Shift"]}]
)
def test_a_link_may_be_opened_in_a_tab_of_its_own(
    page: Page, url: str, how: dict[str, Any]
) -> None:
    take(page, FIRST)
    here = shown(page)
    for link, address in (
        (page.get_by_role("link", name=NEWEST), "/"),
        (page.locator(".examples a[title=pear]"), "/answers?example=pear&version=1"),
    ):
        with page.context.expect_page() as opened:
            link.click(**how)
        expect(opened.value).to_have_url(f"{url}{address}")
        expect(opened.value.locator(".net[data-variant]")).to_have_count(4)
        opened.value.close()
    assert (page.url, chosen(page), shown(page)) == (f"{url}/?version=1", FIRST, here)


def test_the_choice_holds_for_every_picture_that_comes_after_it(page: Page, url: str) -> None:
    take(page, FIRST)
    page.locator(".examples a[title=pear]").click()
    expect_answers(page, "pear")
    assert shown(page) == told(url, PEAR, ONE)
    choose(page, "mine.jpg", PICTURE)
    expect_answers(page, "mine.jpg")
    assert shown(page) == told(url, PICTURE, ONE)
    take(page, NEWEST)  # the user's own picture is asked again, and is still shown
    expect_answers(page, "mine.jpg")
    expect(page.locator("#picture canvas")).to_have_attribute("aria-label", "mine.jpg")
    assert shown(page) == told(url, PICTURE)


def test_the_command_asks_the_version_that_is_shown(page: Page, url: str, tmp_path: Path) -> None:
    take(page, FIRST)
    page.locator(".call label", has_text="sigmoid_with_bn").click()
    answer = run(page.locator(".call pre:visible").inner_text(), tmp_path)
    assert (answer["variant"], answer["version"]) == ("sigmoid_with_bn", 1)
    assert page.locator(".badge").count() == 0  # /predict answers by the newest


def test_a_choice_that_fails_is_not_made(
    page: Page, url: str, watched: dict[Page, Watched]
) -> None:
    watched[page].expected.append("ERR_FAILED")
    page.route("**/answers?*version=1", lambda route: route.abort())
    page.get_by_role("link", name=FIRST).click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    assert (chosen(page), page.url) == (NEWEST, f"{url}/")
    page.unroute_all()
    page.locator(".examples a[title=pear]").click()
    expect_answers(page, "pear")
    assert shown(page) == told(url, PEAR)


def test_a_picture_that_comes_before_the_chosen_nets_have_answered_goes_to_them(
    page: Page, url: str
) -> None:
    held: list[Route] = []
    page.route("**/answers?example=sunflower*", lambda route: held.append(route))
    page.get_by_role("link", name=FIRST).click(no_wait_after=True)
    expect(page.locator("#answers")).to_have_attribute("aria-busy", "true")
    page.locator(".examples a[title=pear]").click()
    expect_answers(page, "pear")
    held[0].continue_()
    assert chosen(page) == FIRST
    assert shown(page) == told(url, PEAR, ONE)


def test_it_is_chosen_with_the_keyboard_and_the_focus_stays(page: Page, url: str) -> None:
    focus_on(page, ".versions li:last-child a")
    page.keyboard.press("Enter")
    expect(page.locator(CHOSEN)).to_have_text(FIRST)
    assert page.evaluate("document.activeElement.firstChild.textContent") == FIRST
    assert shown(page) == told(url, SUNFLOWER, ONE)
    assert grave(page) == []


def test_without_scripts_links_lead_to_the_other_version(
    url: str, open_page: Opener, tmp_path: Path
) -> None:
    page = open_page(url, java_script_enabled=False)
    page.get_by_role("link", name=FIRST).click()
    expect(page).to_have_url(f"{url}/?version=1")
    assert chosen(page) == FIRST
    (tmp_path / "mine.jpg").write_bytes(PICTURE)
    page.set_input_files("#file", tmp_path / "mine.jpg")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#answers figcaption").first).to_have_text("mine.jpg")
    expect(page.locator(".hero")).to_contain_text(FIRST)
    for variant, guesses in told(url, PICTURE, ONE).items():
        values = page.locator(f"[data-variant={variant}] data")
        for index, (_, _, probability) in enumerate(guesses):
            assert float(values.nth(index).get_attribute("value") or 0) == probability
    page.get_by_role("link", name="Another picture").click()
    expect(page).to_have_url(f"{url}/?version=1")
    page.get_by_role("link", name="Models").click()
    expect(page).to_have_url(f"{url}/?version=1#models")
    page.locator(".examples a[title=cloud]").click()
    assert chosen(page) == FIRST
    page.get_by_role("link", name=NEWEST).click()
    expect(page).to_have_url(f"{url}/answers?example=cloud")
    assert chosen(page) == NEWEST


def test_a_page_that_opens_with_a_version_goes_on_with_it(url: str, open_page: Opener) -> None:
    page = open_page(f"{url}/{ONE}")
    assert chosen(page) == FIRST
    assert shown(page) == told(url, SUNFLOWER, ONE)
    choose(page, "mine.jpg", PICTURE)
    expect_answers(page, "mine.jpg")
    assert shown(page) == told(url, PICTURE, ONE)
    take(page, NEWEST)
    assert shown(page) == told(url, PICTURE)


def test_with_keys_the_version_is_asked_for_with_the_key(
    open_page: Opener, watched: dict[Page, Watched]
) -> None:
    key = {"X-API-Key": KEY}
    with serving(MODELS, API_KEYS=KEY, DRAIN_SECONDS="0") as url:
        page = open_page(f"{url}/{ONE}")
        watched[page].expected.append(REFUSED)
        enter(page, KEY)
        expect(page.locator(".net[data-variant]")).to_have_count(4)
        assert chosen(page) == FIRST
        assert shown(page) == told(url, SUNFLOWER, ONE, **key)
        take(page, NEWEST)
        assert shown(page) == told(url, SUNFLOWER, **key)
        watched[page].check()
