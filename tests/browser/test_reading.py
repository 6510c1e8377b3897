"""What the page explains: the study's charts and table, the freeze, the cards, the knobs."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.browser.conftest import MODELS, Opener
from tests.browser.study import twenty_epochs

COMPARISON = json.loads((MODELS / "comparison.json").read_text())
FIRST, MODERN = COMPARISON["recipes"]
ARTICLE = COMPARISON["article"]["variants"]


def row(page: Page, variant: str) -> list[str]:
    cells = page.locator(
        f"#study [data-recipe={FIRST['recipe']}] tbody tr.{variant} > *"
    ).all_inner_texts()
    return [re.sub(r"\s", " ", cell) for cell in cells]


def test_the_table_is_the_comparisons(page: Page) -> None:
    for summary in FIRST["summary"]:
        name = summary["variant"]
        cells = row(page, name)
        spread = f" ± {100 * summary['after']['top1']['spread']:.2f}" if summary["n"] > 1 else ""
        assert cells[1] == f"{100 * summary['after']['top1']['mean']:.1f} %{spread}"
        assert cells[3] == f"{100 * summary['before']['top1']['mean']:.1f} %"
        time, unit = cells[6].split()
        one = {"s": 1, "min": 60, "h": 3600}[unit]
        digits = 0.05 if "." in time else 0.5
        assert float(time) == pytest.approx(summary["seconds"] / one, abs=1.01 * digits)
        assert cells[7] == "—"  # these nets do not answer here
        *_, now = page.locator("#study tr", has=page.get_by_text(name.replace("_", " "))).all()
        assert float(now.locator("td").nth(6).inner_text().removesuffix("\u202fms")) > 0
        assert cells[8] == f"{100 * ARTICLE[name]['top1']:.1f} %"


def test_on_a_phone_the_table_begins_with_what_it_is_for(url: str, open_page: Opener) -> None:
    """Population, the freeze and moving averages are seen without a scroll, and names stay."""
    page = open_page(url, viewport={"width": 390, "height": 844})
    table = page.locator("#study table").first
    heads = table.locator("thead th")
    assert heads.all_inner_texts()[:4] == ["variant", "population", "the freeze", "moving averages"]
    for cell in [heads.nth(3), *table.locator("tbody td:nth-child(4)").all()]:
        box = cell.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 390
    table.locator("tbody td:last-child").first.scroll_into_view_if_needed()
    assert page.locator("#study .scroll").first.evaluate("each => each.scrollLeft") > 0
    name = table.locator("tbody th").first.bounding_box()
    assert name is not None
    assert 0 <= name["x"] < 390


def test_a_box_shows_and_hides_its_variant_in_every_chart(page: Page) -> None:
    parts = page.locator(".chart [data-variant=relu_with_bn]")
    # A curve for each seed and the article's mark, in the two charts of each recipe.
    sections = COMPARISON["recipes"]
    seeds = [trial["variant"] for each in sections for trial in each["trials"]]
    assert parts.count() == 2 * (seeds.count("relu_with_bn") + len(sections))
    box = page.get_by_role("checkbox", name="relu with bn")
    for wanted in (False, True):
        box.set_checked(wanted)
        for index in range(parts.count()):
            expect(parts.nth(index)).to_be_visible(visible=wanted)
        assert page.locator(".chart [data-variant=sigmoid_with_bn]").first.is_visible()


def test_hovering_tells_the_values_of_what_is_shown(page: Page) -> None:
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    plot = chart.locator(".plot").bounding_box()
    assert plot is not None
    page.mouse.move(plot["x"] + plot["width"] - 3, plot["y"] + 40)
    reading = chart.locator(".reading")
    for name, score in ARTICLE.items():
        words = f"{name.replace('_', ' ')} 2018 {100 * score['top1']:.1f} %"
        expect(reading).to_contain_text(words.replace(" %", "\u202f%"))
    page.get_by_role("checkbox", name="relu with bn").uncheck()
    expect(reading).not_to_contain_text("relu with bn")
    expect(reading).to_contain_text("relu without bn")


def test_nothing_is_read_of_nets_that_are_hidden(page: Page) -> None:
    chart = page.locator(".chart").first
    hint = chart.locator(".reading").inner_text()
    chart.focus()
    page.keyboard.press("End")
    expect(chart.locator(".reading")).to_contain_text("relu with bn")
    for box in page.locator(".toggles input").all():
        box.uncheck()
    expect(chart.locator(".reading")).to_have_text(hint)
    assert chart.get_attribute("data-at") is None


def test_marks_stand_where_their_values_say(page: Page) -> None:
    """The pixel of every mark, against the axis' own labels."""
    chart = page.locator(".chart").first
    ticks = {
        float(text.removesuffix(" %").strip()) / 100: box
        for text, box in chart.locator(".plot text.y").evaluate_all(
            "all => all.map((t) => [t.textContent, Number(t.getAttribute('y').replace('%', ''))])"
        )
    }
    low, high = min(ticks), max(ticks)
    trial = next(each for each in FIRST["trials"] if each["variant"] == "relu_with_bn")
    for selector, value in (
        (".curve.relu_with_bn .epoch", trial["history"][-1]["val_accuracy"]),
        (".curve.relu_with_bn .frozen", trial["freeze"]["after"]["top1"]),
    ):
        place = float(chart.locator(selector).last.get_attribute("cy").rstrip("%"))  # type: ignore[union-attr]
        expected = ticks[low] + (value - low) / (high - low) * (ticks[high] - ticks[low])
        assert place == pytest.approx(expected, abs=0.01)


def test_nets_that_do_not_reach_the_articles_are_named(page: Page) -> None:
    best = {}
    for entry in json.loads((MODELS / "manifest.json").read_text())["models"]:
        best[entry["variant"]] = entry["top1"]  # the newest version stands last
    short = [name for name, top1 in best.items() if top1 < ARTICLE[name]["top1"]]
    assert page.locator("#note-short").count() == bool(short)
    for name in short:
        expect(page.locator("#note-short")).to_contain_text(name.replace("_", " "))


def test_a_long_study_is_drawn_epoch_by_epoch(
    open_page: Opener, tmp_path: Path, serve_with: object
) -> None:
    content = twenty_epochs(COMPARISON)
    url = serve_with(json.dumps(content))  # type: ignore[operator]
    page = open_page(url)
    assert page.locator(".chart").first.locator(".curve.relu_with_bn .epoch").count() == 20
    chart = page.locator(".chart").first
    chart.focus()
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    trial = next(
        each for each in content["recipes"][0]["trials"] if each["variant"] == "relu_with_bn"
    )
    fifth = trial["history"][4]
    reading = chart.locator(".reading")
    assert fifth["step"] * 80 / 50_000 == 16
    expect(reading).to_contain_text("16 passes")
    expect(reading).to_contain_text(f"relu with bn {100 * fifth['val_accuracy']:.1f}\u202f%")


def test_seeds_are_told_apart(page: Page) -> None:
    seeds = {str(each["seed"]) for each in MODERN["trials"] if each["variant"] == "relu_with_bn"}
    assert len(seeds) > 1
    chart = page.locator("[data-recipe=modern] .chart").first
    chart.focus()
    page.keyboard.press("Home")
    reading = chart.locator(".reading").inner_text()
    (ours,) = re.findall(r"relu with bn ([^·]*)", reading)
    assert set(re.findall(r"seed (\d+) [0-9.]+\s%", ours)) == seeds


def test_reading_a_chart_moves_nothing_below_it(page: Page) -> None:
    """The longest of what is told has its place already."""
    for chart in page.locator(".chart").all():
        chart.focus()
        heights = set()
        for key in ("Home", *["ArrowRight"] * 5, "End"):
            page.keyboard.press(key)
            heights.add(chart.evaluate("each => each.offsetHeight"))
        assert len(heights) == 1


def test_a_scrolled_table_keeps_its_names(page: Page) -> None:
    page.set_viewport_size({"width": 768, "height": 900})
    table = page.locator("#study .scroll").first
    table.evaluate("each => each.scrollLeft = each.scrollWidth")
    assert table.evaluate("each => each.scrollLeft") > 0
    names, box = table.locator("tbody th").all(), table.bounding_box()
    assert box is not None
    for name in names:
        place = name.bounding_box()
        assert place is not None
        assert place["x"] == pytest.approx(box["x"], abs=1)


def test_on_paper_nothing_is_cut(page: Page) -> None:
    page.set_viewport_size({"width": 718, "height": 1000})
    page.emulate_media(media="print")
    for part in (".scroll", ".call pre:visible"):
        for each in page.locator(part).all():
            assert each.evaluate("each => each.scrollWidth - each.clientWidth") <= 0, part


def test_the_freeze_is_the_cards(page: Page, url: str) -> None:
    gains = []
    for article in page.locator("article.thaw").all():
        name, version = str(article.get_attribute("aria-label")).split(", version ")
        address = f"{url}/models/{name.replace(' ', '_')}?version={version}"
        card = requests.get(address, timeout=10).json()["card"]
        score = card["evaluation"]
        gains.append(score["after_freeze"]["top1"] - score["before_freeze"]["top1"])
        heading = article.locator("h3").inner_text()
        assert f"{name} version {version}, recipe {card['recipe']}" in re.sub(r"\s+", " ", heading)
        gain = article.locator(".gain").inner_text().replace("\u202f", " ")
        assert f"{100 * score['before_freeze']['top1']:.1f} %" in gain
        assert f"{100 * score['after_freeze']['top1']:.1f} %" in gain
        charts = article.locator("svg.plot")
        assert charts.count() == 2
        for index, field in enumerate(("mean_shift_sd", "variance_ratio")):
            words = charts.nth(index).get_attribute("aria-label")
            assert words is not None
            for layer in card["frozen"]["layers"]:
                median = f"{layer[field][2]:.2f}".replace("-", "\u2212")
                assert f"{layer['name']}, " in words
                assert f"median {median}" in words
            assert charts.nth(index).locator(".box").count() == len(card["frozen"]["layers"])
    entries = json.loads((MODELS / "manifest.json").read_text())["models"]
    assert len(gains) == sum(each["variant"].endswith("with_bn") for each in entries)
    assert gains == sorted(gains, reverse=True)


def test_a_card_says_everything_and_hands_out_the_file(page: Page, url: str) -> None:
    details = page.locator("details.card.sigmoid_with_bn").last  # of its newest version
    details.locator("summary").first.click()
    model = requests.get(f"{url}/models/sigmoid_with_bn", timeout=10).json()
    text = details.inner_text().replace("\u202f", " ")
    card = model["card"]
    wanted = [
        model["sha256"],
        model["file"],
        model["provider"],
        card["recipe"],
        f"seed {card['seed']}",
        f"{card['training']['steps']:,} steps of {card['training']['batch']}",
        f"{card['training']['images'] / card['dataset']['train_images']:g} passes over",
        f"scored {card['training']['epochs']} times",
        str(card["training"]["learning_rate"]),
        card["training"]["hardware"],
        card["training"]["backend"],
        card["training"]["precision"],
        {"cifar100": "CIFAR-100"}[card["dataset"]["name"]],
        card["dataset"]["checksum"],
        f"{card['dataset']['train_images']:,}",
        f"{card['training_mean']:.3f}",
        f"{card['frozen']['images']:,} training pictures in {card['frozen']['batches']} batches",
        f"{100 * card['evaluation']['before_freeze']['top5']:.2f} %",
        f"{card['evaluation']['after_freeze']['loss']:.4f}",
        f"{card['parity']['max_abs_error']:.1e}",
        card["created"],
        *(f"{name} {version}" for name, version in card["tools"].items()),
    ]
    assert [each for each in wanted if each not in text] == []
    details.locator("details summary").click()
    classes = details.locator(".classes").inner_text()
    assert all(name.replace("_", " ") in classes for name in card["classes"])
    with page.expect_download() as download:
        details.get_by_role("link", name="Download the ONNX file").click()
    content = Path(download.value.path()).read_bytes()
    assert hashlib.sha256(content).hexdigest() == model["sha256"]
    assert download.value.suggested_filename == f"sigmoid_with_bn-{model['version']}.onnx"


def test_the_knobs_are_named_and_say_where_they_stand(page: Page) -> None:
    for name in ("Momentum", "Batch size", "Speed of the weights"):
        knob = page.get_by_role("slider", name=name)
        expect(knob).to_have_count(1)
        place = knob.evaluate("each => each.offsetTop")
        for end in ("Home", "End"):
            knob.press(end)
            assert knob.evaluate("each => each.offsetTop") == place  # whatever is said beside it
    speed = page.get_by_role("slider", name="Speed of the weights")
    expect(speed).to_have_attribute("aria-valuetext", "10.0 of 10")
    page.locator("label", has_text="Momentum").click(position={"x": 2, "y": 2})
    expect(page.locator("#momentum")).to_be_focused()


def test_the_knobs_show_why_a_moving_average_is_late(page: Page) -> None:
    says = page.locator("#lag-says")

    def off(momentum: float, drift: float) -> tuple[float, float]:
        for name, value in (("momentum", momentum), ("drift", drift)):
            page.locator(f"#{name}").fill(str(value))
        late, frozen = re.findall("([0-9.]+) \u03c3", says.inner_text())
        return float(late), float(frozen)

    slow, fast = off(0.9, 5), off(0.99, 5)
    assert fast[0] > slow[0]
    # A drifting mean is followed 1 / (1 - momentum) steps late.
    assert off(0.99, 10)[0] == pytest.approx(2 * fast[0], abs=0.06)
    assert off(0.99, 0)[0] < 0.03
    assert all(each[1] <= 0.04 for each in (slow, fast))


@pytest.mark.parametrize(
    ("query", "batch", "population"), [("", "100", "20,000"), ("?version=1", "80", "8,000")]
)
def test_how_it_works_is_told_by_the_nets_that_are_chosen(
    url: str, open_page: Opener, query: str, batch: str, population: str
) -> None:
    page = open_page(f"{url}/{query}")
    training, _, frozen = page.locator(".whose li p").all_inner_texts()
    name = "article's" if query else "modern"
    assert f"in a batch of {batch} by the {name} recipe" in training
    assert f"run {population} training pictures" in frozen
    assert page.locator("#batch").input_value() == batch
    expect(page.locator("output[for=batch]")).to_have_text(batch)
    expect(page.locator("#lag-says")).to_contain_text(f"the mean of {population} pictures")
    card = requests.get(f"{url}/models/relu_with_bn{query}", timeout=10).json()["card"]
    assert f"{card['training']['batch']:,}" == batch
    assert f"{card['frozen']['images']:,}" == population


def test_every_link_of_the_page_answers(page: Page, url: str) -> None:
    links = page.locator("a[href]").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
    paths = {link for link in links if link.startswith("/")}
    assert len(paths) > 20
    for path in paths:
        assert requests.get(url + path, timeout=10).status_code == 200, path
    anchors = {link.split("#")[1] for link in links if "#" in link}
    for anchor in anchors:
        assert page.locator(f"#{anchor}").count() == 1, anchor
