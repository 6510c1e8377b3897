"""Keyboard, screen reader, narrow and wide, light and dark, slow, without scripts, with keys."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import FileChooser, Page, Route, expect

from tests.browser.asking import expect_answers, shown, told
from tests.browser.conftest import Opener, Watched
from tests.browser.test_asking import EXAMPLES, FOUR, PICTURE, REFUSED, choose
from tests.served import serving
from tests.service.tiny import make_card, make_model, write_repository

KILOBYTES = 150


def grave(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    found: dict[str, Any] = Axe().run(page).response
    return [
        f"{each['id']}: {each['help']}: {[node['target'] for node in each['nodes']][:3]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious(
    url: str, open_page: Opener, watched: dict[Page, Watched], scheme: str, width: int
) -> None:
    page = open_page(url, color_scheme=scheme, viewport={"width": width, "height": 900})
    page.emulate_media(reduced_motion="reduce")
    for details in page.locator("details.card > summary").all():
        details.click()
    assert grave(page) == []
    watched[page].expected.append(REFUSED)
    choose(page, "letter.txt", b"this is not a picture", "text/plain")
    expect(page.get_by_role("alert")).to_be_visible()
    assert grave(page) == []
    page.goto(f"{url}/answers?example=pear")
    assert grave(page) == []
    page.goto(f"{url}/answers?example=nothing")
    expect(page.locator("h1")).to_have_text("Not Found")
    assert grave(page) == []


@pytest.mark.parametrize("width", [360, 390, 640, 820, 1080, 1440, 2200])
def test_nothing_is_wider_than_the_window(url: str, open_page: Opener, width: int) -> None:
    page = open_page(url, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for net in page.locator(".net").all():
        box = net.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("width", [360, 390, 640, 720, 820])
def test_every_section_is_named_in_the_window(url: str, open_page: Opener, width: int) -> None:
    page = open_page(url, viewport={"width": width, "height": 800})
    links = page.get_by_role("navigation", name="Sections").get_by_role("link").all()
    assert len(links) == 6
    for link in links:
        box = link.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_landmarks_and_headings_tell_the_page(page: Page) -> None:
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("banner").count() == 1
    assert page.get_by_role("contentinfo").count() == 1
    assert page.get_by_role("navigation", name="Sections").count() == 1
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"


def focus_on(page: Page, selector: str, most: int = 80) -> None:
    """Press Tab until ``selector`` has the focus, which must be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    pytest.fail(f"Tab does not reach {selector}")


def test_everything_is_done_with_the_keyboard_alone(page: Page, url: str) -> None:
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    focus_on(page, "#file")
    page.keyboard.press("Enter")
    for _ in range(100):
        page.wait_for_timeout(50)
        if choosers:
            break
    choosers[0].set_files({"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": PICTURE})
    expect_answers(page, "mine.jpg")
    assert shown(page) == told(url, PICTURE)
    focus_on(page, ".examples a[title=sea]")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect_answers(page, "sea")
    expect(page.locator("#status")).to_contain_text(
        "sea, version 2 · modern recipe: relu with bn says"
    )
    focus_on(page, ".call input")
    before = page.locator(".call input:checked").get_attribute("value")
    page.keyboard.press("ArrowRight")
    after = page.locator(".call input:checked").get_attribute("value")
    assert after != before
    assert f"variant={after}" in page.locator(".call pre:visible").inner_text()
    focus_on(page, "#copy")
    focus_on(page, "#momentum")
    says = page.locator("#lag-says").inner_text()
    page.keyboard.press("Home")
    assert page.locator("#lag-says").inner_text() != says
    focus_on(page, ".toggles input[value=relu_with_bn]")
    page.keyboard.press("Space")
    assert not page.locator(".chart .curve.relu_with_bn").first.is_visible()
    focus_on(page, ".chart")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".chart .reading").first).to_contain_text("passes")
    focus_on(page, "details.card > summary")
    page.keyboard.press("Enter")
    assert page.locator("details.card[open] dl").first.is_visible()


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_nothing_moves_when_answers_arrive_and_the_spinner_waits(
    url: str, open_page: Opener, width: int
) -> None:
    """Layout shifts are the browser's own measure; the answer is the service's, held back."""
    page = open_page(url, viewport={"width": width, "height": 900})
    held: list[Route] = []
    page.route("**/answers*", lambda route: held.append(route))
    spinner = "getComputedStyle(document.querySelector('#answers .right-hand'), '::before')"
    heights = "document.querySelector('#why').getBoundingClientRect().top + scrollY"
    page.wait_for_timeout(200)
    assert sum(page.evaluate("window.shifts")) < 0.01  # painted as it is parsed; 0.1 is good
    before = page.evaluate(heights)
    # The opacity, every frame, since the click: the time is the browser's.
    seen = page.evaluate(
        f"""() => new Promise((done) => {{
          const started = performance.now(), seen = [];
          document.querySelector(".examples a[title=road]").click();
          const look = () => {{
            const at = performance.now() - started;
            seen.push([at, Number({spinner}.opacity)]);
            if (at < 1200) requestAnimationFrame(look);
            else done(seen);
          }};
          look();
        }})"""
    )
    assert all(opacity == 0 for at, opacity in seen if at < 250)
    assert seen[-1][1] == 1
    held[0].continue_()
    expect_answers(page, "road")
    page.wait_for_timeout(200)
    assert sum(page.evaluate("window.shifts")) < 0.01  # painted as it is parsed; 0.1 is good
    assert page.evaluate(heights) == before
    assert page.evaluate(f"{spinner}.content") == "none"


def test_only_the_latest_question_is_answered(page: Page) -> None:
    held: list[Route] = []
    page.route("**/answers?example=road", lambda route: held.append(route))
    page.locator(".examples a[title=road]").click(no_wait_after=True)
    page.locator(".examples a[title=pear]").click()
    expect_answers(page, "pear")
    held[0].continue_()
    page.wait_for_timeout(300)
    expect_answers(page, "pear")


def test_the_first_load_is_small(url: str, open_page: Opener) -> None:
    page = open_page("about:blank")
    sizes: dict[str, int] = {}
    responses = []
    page.on("response", lambda response: responses.append(response))
    page.goto(url, wait_until="networkidle")
    for response in responses:
        found = response.request.sizes()
        sizes[response.url.removeprefix(url)] = (
            found["responseBodySize"] + found["responseHeadersSize"]
        )
    assert len(sizes) > 15
    assert sum(sizes.values()) < KILOBYTES * 1000, sizes
    # All but the page itself is kept for good.
    again = open_page("about:blank")
    again.goto(url, wait_until="networkidle")
    entries = (
        "performance.getEntriesByType('resource').filter((each) => each.transferSize > 0).length"
    )
    assert again.evaluate(entries) > 0
    again.goto(f"{url}/?", wait_until="networkidle")
    assert again.evaluate(entries) == 0


def test_without_scripts_a_form_and_links_do_the_same(
    url: str, open_page: Opener, watched: dict[Page, Watched], tmp_path: Path
) -> None:
    page = open_page(url, java_script_enabled=False)
    assert page.locator(".net[data-variant]").count() == 4
    # What only a script brings to life is not there; the field says which file is chosen.
    for part in (".toggles", ".reading", ".knobs", "#lag-chart", "#copy"):
        expect(page.locator(part).first).to_be_hidden()
    expect(page.locator(".drop")).not_to_contain_text("paste", use_inner_text=True)
    assert page.locator("#file").evaluate("each => getComputedStyle(each).opacity") == "1"
    (tmp_path / "mine.jpg").write_bytes(PICTURE)
    page.set_input_files("#file", tmp_path / "mine.jpg")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#answers figcaption").first).to_have_text("mine.jpg")
    expect(page.locator("#picture")).to_be_hidden()
    expect(page.locator(".pixels")).to_be_visible()
    expected = told(url, PICTURE)
    assert set(expected) == FOUR
    for variant, guesses in expected.items():
        values = page.locator(f"[data-variant={variant}] data")
        for index, (_, _, probability) in enumerate(guesses):
            assert float(values.nth(index).get_attribute("value") or 0) == probability
    page.get_by_role("link", name="Another picture").click()
    page.locator(".examples a[title=cloud]").click()
    expect(page.locator("#answers figcaption").first).to_have_text("cloud")
    page.goto(f"{url}/?version=1")
    watched[page].expected.append(REFUSED)
    (tmp_path / "letter.txt").write_text("this is not a picture")
    page.set_input_files("#file", tmp_path / "letter.txt")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("h1")).to_have_text("Not a picture")
    expect(page.locator("#problem")).to_contain_text("'letter.txt': the content is none of")
    page.get_by_role("link", name="Another picture").click()
    assert page.url == f"{url}/?version=1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_forced_colours_what_is_chosen_is_seen(url: str, open_page: Opener, scheme: str) -> None:
    page = open_page(url, forced_colors="active", color_scheme=scheme)

    def colours(selector: str) -> list[str]:
        found: list[str] = page.locator(selector).evaluate_all(
            "all => all.map((each) => getComputedStyle(each).backgroundColor)"
        )
        return found

    for chosen, others in (
        (".versions [aria-current]", ".versions a:not([aria-current])"),
        (".call input:checked + label", ".call input:not(:checked) + label"),
    ):
        (one,) = colours(chosen)
        assert colours(others)
        assert one not in colours(others)
    swatches = page.locator(".lag .lines li").evaluate_all(
        "all => all.map((each) => getComputedStyle(each, '::before').backgroundColor)"
    )
    assert len(set(swatches)) == len(swatches) == 4


def test_one_variant_trained_on_drawn_pictures_says_so_and_works(
    open_page: Opener, tmp_path: Path
) -> None:
    card = make_card("relu_with_bn")
    models = write_repository(
        tmp_path / "models",
        {("relu_with_bn", 1): make_model("relu_with_bn", card.to_json())},
        default="relu_with_bn",
    )
    with serving(models, DRAIN_SECONDS="0") as url:
        page = open_page(url)
        expect(page.locator("#note-missing")).to_contain_text("1 of the study's four variants is")
        expect(page.locator("#note-synthetic")).to_contain_text("trained on drawn pictures")
        assert page.locator(".net[data-variant]").count() == 1
        assert page.locator(".net.absent").count() == 3
        # What it knows comes first, and is what the page opens with.
        assert page.locator(".examples a").first.get_attribute("title") == "striped star"
        assert shown(page) == told(url, (EXAMPLES / "striped_star.png").read_bytes())
        expect(page.locator("#study")).to_contain_text("there is no comparison.json")
        choose(page, "mine.jpg", PICTURE)
        expect_answers(page, "mine.jpg")
        assert shown(page) == told(url, PICTURE)
        assert grave(page) == []


def test_a_service_without_models_says_why(open_page: Opener, tmp_path: Path) -> None:
    from service.app import create_app
    from service.settings import Settings

    # It never becomes ready, which is what ``serving`` waits for: ask the application itself.
    settings = Settings.from_environment({"MODELS_DIR": str(tmp_path / "nothing")})
    response = create_app(settings).test_client().get("/")
    assert response.status_code == 503
    assert "no model can be served" in response.text
    assert "<h1" in response.text
