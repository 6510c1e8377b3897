"""A picture reaches the nets by every way there is, and their answers are the API's."""

from __future__ import annotations

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, Route, expect

from tests.browser.asking import drop, expect_answers, shown, told
from tests.browser.conftest import MODELS, Opener, Watched
from tests.served import ROOT, serving
from tests.service.hostile import BAD, GOOD, PHOTO, oriented
from tests.service.tiny import encode

EXAMPLES = ROOT / "service" / "static" / "examples"
FOUR = {"relu_with_bn", "relu_without_bn", "sigmoid_with_bn", "sigmoid_without_bn"}
PICTURE = encode(PHOTO, "JPEG")
REFUSED = r"the server responded with a status of"


def choose(page: Page, name: str, data: bytes, kind: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


def test_the_page_opens_with_the_answers_to_an_example(page: Page, url: str) -> None:
    answers = shown(page)
    assert set(answers) == FOUR
    assert answers == told(url, (EXAMPLES / "sunflower.webp").read_bytes())


def test_a_chosen_file_is_answered_by_all_four_as_compare_answers(page: Page, url: str) -> None:
    for number in range(2):  # the same file may be chosen again
        choose(page, f"mine {number}.jpg", PICTURE)
        expect_answers(page, f"mine {number}.jpg")
        assert shown(page) == told(url, PICTURE)
    assert page.locator(".examples [aria-current]").count() == 0
    assert page.locator("#picture canvas").get_attribute("aria-label") == "mine 1.jpg"


@pytest.mark.parametrize("paste", [False, True], ids=["dropped", "pasted"])
def test_a_dropped_or_pasted_file_is_answered_too(page: Page, url: str, paste: bool) -> None:
    drop(page, "given.png", "image/png", encode(PHOTO), paste=paste)
    expect_answers(page, "given.png")
    assert shown(page) == told(url, encode(PHOTO))
    assert page.locator("body.dropping").count() == 0
    assert page.get_by_role("alert").count() == 0


@pytest.mark.parametrize("paste", [False, True], ids=["dropped", "pasted"])
def test_of_several_the_first_is_answered_and_the_page_says_so(page: Page, paste: bool) -> None:
    drop(page, "given.png", "image/png", encode(PHOTO), paste=paste, copies=3)
    expect_answers(page, "given.png")
    expect(page.get_by_role("alert")).to_contain_text("3 pictures came; the first is answered.")


def test_every_example_is_of_a_class_that_the_nets_have(page: Page, url: str) -> None:
    card = requests.get(f"{url}/models/relu_with_bn", timeout=10).json()["card"]
    titles = page.locator(".examples a").evaluate_all("all => all.map((each) => each.title)")
    assert len(titles) == 10
    assert {title.replace(" ", "_") for title in titles} <= set(card["classes"])


def test_text_may_still_be_pasted_and_dragged(page: Page) -> None:
    prevented = page.evaluate(
        """() => ["paste", "drop"].map((type) => {
          const data = new DataTransfer();
          data.setData("text/plain", "hello");
          const event = type === "paste"
            ? new ClipboardEvent(type, { clipboardData: data, bubbles: true, cancelable: true })
            : new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
          document.body.dispatchEvent(event);
          return event.defaultPrevented;
        })"""
    )
    assert prevented == [False, False]


def test_an_example_is_answered_and_marked(page: Page, url: str) -> None:
    page.get_by_role("link", name="palm tree").click()
    expect_answers(page, "palm tree")
    assert shown(page) == told(url, (EXAMPLES / "palm_tree.webp").read_bytes())
    expect(page.locator(".examples [aria-current]")).to_have_attribute("title", "palm tree")
    assert page.url == f"{url}/"
    for variant in ("relu_with_bn", "sigmoid_without_bn"):
        card = requests.get(f"{url}/models/{variant}", timeout=10).json()["card"]
        passes = card["training"]["images"] / card["dataset"]["train_images"]
        facts = page.locator(f".net[data-variant={variant}] .facts")
        expect(facts).to_contain_text(f"after {passes:g} passes")


def test_the_pixels_are_those_that_the_nets_get(page: Page) -> None:
    from service.pictures import decode

    for data in (oriented(6, "JPEG"), GOOD["palette PNG with transparency"]()):
        page.locator("#answers figcaption").first.evaluate("each => each.textContent = ''")
        choose(page, "turned", data)
        expect_answers(page, "turned")
        fills = page.locator(".pixels rect").evaluate_all(
            "all => all.map((r) => r.attributes.fill.value)"
        )
        expected = decode(data, max_pixels=10**8).reshape(-1, 3)
        assert fills == ["#" + bytes(pixel).hex() for pixel in expected]
        assert page.locator(".pixels rect").nth(33).bounding_box() is not None


def test_a_text_file_is_refused_in_words(page: Page, watched: dict[Page, Watched]) -> None:
    watched[page].expected.append(REFUSED)
    before = shown(page)
    choose(page, "letter.txt", b"this is not a picture", "text/plain")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Not a picture")
    expect(alert).to_contain_text("'letter.txt': the content is none of PNG, JPEG, WebP, GIF, BMP")
    assert shown(page) == before
    assert sum(page.evaluate("window.shifts")) < 0.01  # painted as it is parsed; 0.1 is good
    page.get_by_role("button", name="Close").click()
    assert alert.count() == 0
    choose(page, "letter.txt", b"this is not a picture", "text/plain")
    expect(alert).to_be_visible()
    page.keyboard.press("Escape")
    assert alert.count() == 0
    choose(page, "letter.txt", b"this is not a picture", "text/plain")
    expect(alert).to_be_visible()
    page.get_by_role("link", name="pear").click()
    expect_answers(page, "pear")
    assert alert.count() == 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("PNG bomb beyond Pillow's own limit", "pixels that are decoded here; scale it down"),
        ("cut PNG", "the PNG data is broken or cut off"),
        ("cut JPEG", "the JPEG data is broken or cut off"),
        ("SVG", "the content is none of"),
        ("HTML", "the content is none of"),
    ],
)
def test_a_hostile_file_is_refused_in_the_problems_words_and_the_service_goes_on(
    page: Page, url: str, watched: dict[Page, Watched], kind: str, words: str
) -> None:
    watched[page].expected.append(REFUSED)
    hostile = BAD[kind][1]()
    # Its name is hostile as well: it must be shown, and do nothing.
    name = '"><img src=x onerror=alert(1)>.png'
    choose(page, name, hostile)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(words)
    expect(alert).to_contain_text("onerror=alert(1)")
    assert page.locator("img[src=x]").count() == 0
    problem = requests.post(f"{url}/predict", files={"image": (name, hostile)}, timeout=30).json()
    assert problem["detail"] in alert.inner_text()
    choose(page, name, PICTURE)
    expect_answers(page, name)
    assert shown(page) == told(url, PICTURE)
    assert page.locator("img[src=x]").count() == 0
    assert requests.get(f"{url}/health/ready", timeout=5).status_code == 200


def test_what_cannot_be_read_is_not_blamed_on_the_service(page: Page) -> None:
    """A folder, or a file that has changed: a browser lists it, and cannot read it."""
    before = shown(page)
    page.evaluate(
        "() => { File.prototype.arrayBuffer = () => Promise.reject(new DOMException()); }"
    )
    drop(page, "holiday", "", b"")
    expect(page.get_by_role("alert")).to_contain_text("holiday is a folder, or has changed since")
    expect(page.locator("#answers")).not_to_have_attribute("aria-busy", "true")
    assert shown(page) == before


def test_closing_a_problem_gives_the_focus_back(page: Page, watched: dict[Page, Watched]) -> None:
    watched[page].expected.append(REFUSED)
    page.locator("#file").focus()
    choose(page, "letter.txt", b"this is not a picture", "text/plain")
    expect(page.get_by_role("alert")).to_be_visible()
    for _ in range(100):
        if page.evaluate("document.activeElement.ariaLabel") == "Close":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("alert").count() == 0
    expect(page.locator("#file")).to_be_focused()


TOP = "document.querySelector('.seen').getBoundingClientRect().top"


@pytest.mark.parametrize(("width", "moves"), [(390, True), (1280, False)])
def test_on_a_phone_the_answers_come_into_view(
    url: str, open_page: Opener, width: int, moves: bool
) -> None:
    page = open_page(url, viewport={"width": width, "height": 844}, reduced_motion="reduce")
    assert (page.evaluate(TOP) > 844) == moves
    choose(page, "mine.jpg", PICTURE)
    expect_answers(page, "mine.jpg")
    assert (page.evaluate("scrollY") > 0) == moves
    assert 0 <= page.evaluate(TOP) < 844
    # Pasted further down, wherever: its answers are what one wants to see.
    page.locator("#study").scroll_into_view_if_needed()
    drop(page, "pasted.png", "image/png", encode(PHOTO), paste=True)
    expect_answers(page, "pasted.png")
    assert 0 <= page.evaluate(TOP) < 844


def test_a_small_picture_is_shown_as_large_as_any(page: Page) -> None:
    """As one of CIFAR-100 is: 32 by 32 pixels."""
    choose(page, "small.png", encode(PHOTO.resize((32, 32))))
    expect_answers(page, "small.png")
    canvas = page.locator("#picture canvas")
    box, frame = canvas.bounding_box(), page.locator("#picture").bounding_box()
    assert box is not None
    assert frame is not None
    assert (box["width"], box["height"]) == (frame["width"], frame["height"])
    assert canvas.evaluate("each => getComputedStyle(each).imageRendering") == "pixelated"


def test_the_bars_of_neighbours_stand_side_by_side(page: Page) -> None:
    for width in range(640, 1500, 20):
        page.set_viewport_size({"width": width, "height": 900})
        tops = page.locator(".guesses").evaluate_all(
            "all => all.map((each) => each.getBoundingClientRect().top)"
        )
        assert tops[0] == tops[1], width
        assert tops[2] == tops[3], width


def test_what_is_too_large_is_not_even_sent(page: Page, watched: dict[Page, Watched]) -> None:
    choose(page, "huge.png", bytes(11 << 20))
    expect(page.get_by_role("alert")).to_contain_text("huge.png has 11.53 MB; at most 10.49 MB")
    # So is what is too large with the form around it.
    choose(page, "full.png", bytes(10 * (1 << 20) - 200))
    expect(page.get_by_role("alert")).to_contain_text("full.png has 10.49 MB; at most 10.49 MB")
    assert not [each for each in watched[page].requests if each.endswith("/answers")]


def test_what_is_too_large_ends_the_wait_for_an_earlier_question(page: Page) -> None:
    held: list[Route] = []
    page.route("**/answers?example=road", lambda route: held.append(route))
    answers = page.locator("#answers")
    before = shown(page)
    page.locator(".examples a[title=road]").click(no_wait_after=True)
    expect(answers).to_have_attribute("aria-busy", "true")
    choose(page, "huge.png", bytes(11 << 20))
    expect(page.get_by_role("alert")).to_contain_text("huge.png has 11.53 MB; at most 10.49 MB")
    expect(answers).not_to_have_attribute("aria-busy", "true")
    # The answer to the earlier question comes too late to take the problem's place.
    held[0].continue_()
    page.wait_for_timeout(300)
    expect(page.get_by_role("alert")).to_be_visible()
    assert shown(page) == before


def test_an_overloaded_service_is_told_in_words(
    open_page: Opener, watched: dict[Page, Watched], tmp_path: Path
) -> None:
    many = [("image", (f"{i}.png", encode(PHOTO))) for i in range(16)]
    with serving(MODELS, QUEUE_IMAGES="2", MAX_BATCH="1", DRAIN_SECONDS="0") as url:
        page = open_page(url)
        watched[page].expected.append(REFUSED)
        over = threading.Event()

        def hammer(_: int) -> None:
            while not over.is_set():
                requests.post(f"{url}/compare", files=many, timeout=30)

        with ThreadPoolExecutor(6) as pool:
            clients = [pool.submit(hammer, i) for i in range(6)]
            try:
                for _ in range(60):
                    choose(page, "mine.png", PICTURE)
                    busy = page.locator("#answers[aria-busy]")
                    expect(busy).to_have_count(0, timeout=15_000)
                    if page.get_by_role("alert").count():
                        break
                words = page.get_by_role("alert").inner_text()
            finally:
                over.set()
            for each in clients:
                each.result()
        assert "Service Unavailable" in words
        assert "too many pictures are waiting already" in words
        choose(page, "mine.png", PICTURE)
        expect_answers(page, "mine.png")
        watched[page].check()


def test_a_service_that_is_gone_is_told_in_words(
    open_page: Opener, watched: dict[Page, Watched]
) -> None:
    with serving(MODELS, DRAIN_SECONDS="0") as url:
        page = open_page(url)
    watched[page].expected.append("ERR_CONNECTION_REFUSED")
    choose(page, "mine.png", PICTURE)
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    expect(page.locator("#answers")).not_to_have_attribute("aria-busy", "true")


def run(command: str, folder: Path) -> dict[str, object]:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, timeout=60, check=True
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_the_curl_line_asks_exactly_this(page: Page, url: str, tmp_path: Path) -> None:
    name = "my cat's $HOME.png"
    (tmp_path / name).write_bytes(PICTURE)
    line = page.locator(".call pre:visible")
    page.locator(".call label", has_text="sigmoid_with_bn").click()
    expected = (EXAMPLES / "sunflower.webp").read_bytes()
    for data in (expected, PICTURE):
        if data == PICTURE:
            choose(page, name, PICTURE)
            expect_answers(page, name)
        assert line.count() == 1
        answer = run(line.inner_text(), tmp_path)
        same = requests.post(f"{url}/predict?variant=sigmoid_with_bn", data=data, timeout=30).json()
        assert answer == same
        assert answer["variant"] == "sigmoid_with_bn"


def test_the_line_is_copied(url: str, open_page: Opener) -> None:
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator(".call pre:visible").inner_text()


def test_the_default_is_the_manifests(page: Page) -> None:
    default = json.loads((MODELS / "manifest.json").read_text())["default"]
    assert page.locator(".net:has(.badge)").get_attribute("data-variant") == default
    assert page.locator(".call input:checked").get_attribute("value") == default
