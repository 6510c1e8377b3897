"""Which nets answer, as the page's HTML has it: the choices, what they say, how they are timed."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.models.model import Model
from service.models.repository import load_repository
from service.settings import Settings
from service.site.looks import RUNS, choice_of, first_look
from service.site.samples import examples
from tests.service.site.test_pages import EXAMPLE, PNG, SHIPPED, choices, compared, guesses
from tests.service.tiny import make_card, make_model, write_repository


@pytest.mark.parametrize(
    ("query", "place"), [("", 0), ("?version=2", 1), ("?version=1", 2)], ids=["newest", "2", "1"]
)
def test_one_version_of_the_nets_can_be_asked_without_a_script(
    client: FlaskClient, query: str, place: int
) -> None:
    page = client.get(f"/{query}")
    assert choices(page.text) == [
        ("/", "current versions · quick recipe", place == 0),
        ("/?version=2", "version 2 · quick recipe", place == 1),
        ("/?version=1", "version 1 · quick recipe", place == 2),
    ]
    assert guesses(page.text) == compared(client, EXAMPLE, query)
    # The form, the examples and the command ask the same nets.
    (form,) = re.findall(r'<form id="form" method="post" action="([^"]+)"', page.text)
    assert guesses(client.post(form, data=PNG).text) == compared(client, PNG, query)
    (link,) = re.findall(r'<a href="([^"]+)" title="striped star"', page.text)
    answers = client.get(html.unescape(link)).text
    assert guesses(answers) == compared(client, EXAMPLE, query)
    assert [made for _, _, made in choices(answers)] == [each == place for each in range(3)]
    assert f'<a href="/{query}">Another picture</a>' in answers
    commands = re.findall(r"/predict\?variant=relu_with_bn([^']*)'", html.unescape(page.text))
    assert commands == [query.replace("?", "&")]
    assert client.get(f"/answers{query}").headers["Location"] == f"/{query}"


def test_a_choice_on_the_page_of_an_example_keeps_the_example(client: FlaskClient) -> None:
    addresses = [href for href, _, _ in choices(client.get("/answers?example=sea").text)]
    assert addresses == [
        "/answers?example=sea",
        "/answers?example=sea&version=2",
        "/answers?example=sea&version=1",
    ]
    # An upload is not kept: its page says who answered, and cannot ask again.
    answers = client.post("/answers?version=1", data={"image": (BytesIO(PNG), "a.png")}).text
    assert choices(answers) == []
    assert "version 1 · quick recipe" in answers


def test_a_variant_that_lacks_the_version_is_left_out_and_said_so(client: FlaskClient) -> None:
    page = client.get("/?version=2").text
    assert set(guesses(page)) == {"relu_with_bn"}
    assert "not exported in version 2" in page
    for query in ("", "?version=2"):
        note = client.get(f"/{query}").text
        assert "2 of the study's four variants\nare exported here" in note


def test_only_the_model_that_predict_answers_by_is_called_the_default(
    client: FlaskClient, settings: Settings
) -> None:
    shipped = create_app(replace(settings, models_dir=SHIPPED)).test_client()
    for query, badges in (("", 1), ("?version=2", 1), ("?version=1", 0)):
        assert shipped.get(f"/{query}").text.count('class="badge"') == badges
    # The newest of each are all of version 2: that is one choice, not two.
    assert choices(shipped.get("/?version=2").text) == [
        ("/", "version 2 · modern recipe", True),
        ("/?version=1", "version 1 · article's recipe", False),
    ]


def test_a_choice_says_what_is_to_be_seen_by_it_where_that_is_known(
    client: FlaskClient, settings: Settings, tmp_path: Path
) -> None:
    def said(page: str) -> list[str]:
        (shown,) = re.findall(r'<div class="versions">.*?</div>', page, re.DOTALL)
        return [html.unescape(each) for each in re.findall(r"<small>([^<]+)</small></a>", shown)]

    shipped = create_app(replace(settings, models_dir=SHIPPED)).test_client()
    assert said(shipped.get("/").text) == [
        "today's recipe: learns without batch norm too",
        "constant learning rate: batch norm decides",
    ]
    assert said(client.get("/").text) == []  # of the recipe "quick" nothing is known
    files = {
        (variant, version): make_model(
            variant, replace(make_card(variant), recipe=recipe).to_json()
        )
        for variant, version, recipe in (
            ("relu_with_bn", 1, "article"),
            ("relu_with_bn", 2, "modern"),
            ("sigmoid_with_bn", 1, "article"),
        )
    }
    folder = tmp_path / "mixed"
    write_repository(folder, files, default="relu_with_bn")
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["models"]:
        entry["recipe"] = {1: "article", 2: "modern"}[entry["version"]]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    mixed = create_app(replace(settings, models_dir=folder)).test_client().get("/").text
    assert choices(mixed)[0][1] == "current versions · modern recipe and article's recipe"
    assert said(mixed) == [  # of two recipes, neither's
        "today's recipe: learns without batch norm too",
        "constant learning rate: batch norm decides",
    ]


@pytest.mark.parametrize(
    "busy", [range(2), range(6, 12)], ids=["as the first ones warm up", "for a while"]
)
def test_a_busy_moment_counts_for_no_single_net(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, busy: range
) -> None:
    repository = load_repository(models_dir)
    now, runs = 0.0, list[str]()
    run = Model.run

    def slow(model: Model, images: np.ndarray) -> np.ndarray:
        nonlocal now
        now += 1.0 if len(runs) in busy else 0.002
        runs.append(model.variant)
        return run(model, images)

    monkeypatch.setattr(Model, "run", slow)
    monkeypatch.setattr("service.site.looks.time", SimpleNamespace(perf_counter=lambda: now))
    (first, *_) = examples(frozenset({"synthetic"}))
    look = first_look(repository, choice_of(repository, None), first)
    assert [each.milliseconds for each in look.answers] == [pytest.approx(2)] * 2
    assert runs == [each.variant for each in repository.each().values()] * (1 + RUNS)


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("version=9", 404, "no version 9 of any variant: there are 1, 2"),
        ("version=x", 400, "version is &#39;x&#39;; allowed: 1 to"),
        ("version=1&version=1", 400, "query parameter version is given twice"),
    ],
)
def test_a_version_that_is_not_there_is_told_in_words(
    client: FlaskClient, query: str, status: int, words: str
) -> None:
    for response in (
        client.get(f"/?{query}"),
        client.get(f"/answers?example=sea&{query}"),
        client.post(f"/answers?{query}", data=PNG),
    ):
        assert (response.status_code, response.mimetype) == (status, "text/html")
        assert words in response.text


def test_a_link_to_the_page_may_bring_marks_of_others(client: FlaskClient) -> None:
    assert client.get("/?utm_source=a&utm_source=b").status_code == 200
    marked = client.get("/?fbclid=1&version=1").text
    assert [made for _, _, made in choices(marked)] == [False, False, True]
