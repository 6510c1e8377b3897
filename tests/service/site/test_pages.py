"""The page as HTML: its headers, its form without a script, its files and its downloads."""

from __future__ import annotations

import gzip
import html
import json
import re
import shutil
import socket
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.engine import Engine, OverloadedError
from service.models.study import StudyError, read_studies
from service.settings import Settings
from service.site.wording import counted
from tests.service.hostile import BAD, PHOTO
from tests.service.tiny import encode, make_card, make_model, write_repository

PNG = encode(PHOTO)
EXAMPLE = (
    Path(__file__).parents[3] / "service" / "static" / "examples" / "striped_star.png"
).read_bytes()
SHIPPED = Path(__file__).parents[3] / "exported_models"


def guesses(page: str) -> dict[str, list[tuple[str, float]]]:
    """Label and probability of every guess, by variant."""
    found = {}
    for net in re.findall(r"<article class=\"net.*?</article>", page, re.DOTALL):
        variant = re.search(r'data-variant="([^"]+)"', net)
        if variant:
            labels = re.findall(r'title="([^"]+), of [^"]+"', net)
            values = [float(value) for value in re.findall(r'<data value="([^"]+)"', net)]
            found[variant[1]] = list(zip(labels, values, strict=True))
    return found


def compared(
    client: FlaskClient, data: bytes, query: str = ""
) -> dict[str, list[tuple[str, float]]]:
    answer = client.post(f"/compare{query}", data=data).json["images"][0]["variants"]
    return {
        variant: [(each["label"], each["probability"]) for each in top]
        for variant, top in answer.items()
    }


def test_the_form_answers_as_compare_does(client: FlaskClient) -> None:
    response = client.post("/answers", data={"image": (BytesIO(PNG), "a.png")})
    assert response.status_code == 200
    assert guesses(response.text) == compared(client, PNG)
    assert "a.png" in response.text


def test_an_example_answers_by_its_address(client: FlaskClient) -> None:
    folder = Path(__file__).parents[3] / "service" / "static" / "examples"
    for entry in json.loads((folder / "index.json").read_text()):
        response = client.get("/answers", query_string={"example": entry["name"]})
        assert guesses(response.text) == compared(client, (folder / entry["file"]).read_bytes())
    assert client.get("/answers?example=<b>").status_code == 404
    assert "&lt;b&gt;" in client.get("/answers?example=<b>").text
    assert client.get("/answers").headers["Location"] == "/"


def choices(page: str) -> list[tuple[str, str, bool]]:
    """Address and name of every choice of nets, and whether it is made."""
    (shown,) = re.findall(r'<div class="versions">.*?</div>', page, re.DOTALL) or [""]
    links = re.findall(r'<a href="([^"]+)"([^>]*)><span>([^<]+)</span>', shown)
    return [
        (html.unescape(href), html.unescape(name), "aria-current" in more)
        for href, more, name in links
    ]


def test_what_a_browser_is_told_of_the_answers(
    client: FlaskClient, settings: Settings, tmp_path: Path
) -> None:
    page = client.get("/answers?example=sea").text
    assert "<title>sea: what two nets say</title>" in page
    # What can be scrolled has the focus, and then needs a role for its name to be told.
    for pre in re.findall(r"<pre[^>]*>", page):
        assert 'role="region"' in pre
    folder = tmp_path / "one"
    file = make_model("relu_with_bn", make_card("relu_with_bn").to_json())
    write_repository(folder, {("relu_with_bn", 1): file}, default="relu_with_bn")
    alone = create_app(replace(settings, models_dir=folder)).test_client()
    assert "<title>sea: what one net says</title>" in alone.get("/answers?example=sea").text
    for path in ("/", "/answers?example=sea"):  # there is nothing to choose from
        assert choices(alone.get(path).text) == []
    assert counted(12, "net") == "12 nets"


def test_no_browser_restores_a_box_that_hides_nothing(settings: Settings) -> None:
    page = create_app(replace(settings, models_dir=SHIPPED)).test_client().get("/").text
    boxes = re.findall(r'<input type="checkbox"[^>]*>', page)
    assert len(boxes) == 4
    assert all('autocomplete="off"' in box and "checked" in box for box in boxes)


@pytest.mark.parametrize("kind", sorted(BAD))
def test_problems_are_told_in_the_apis_words(client: FlaskClient, kind: str) -> None:
    status, make = BAD[kind]
    data = make()
    response = client.post("/answers", data=data, content_type="image/png")
    assert response.status_code == status
    assert response.mimetype == "text/html"
    problem = client.post("/predict", data=data, content_type="image/png").json
    assert html.escape(problem["detail"], quote=True) in response.text.replace(
        "&#34;", "&quot;"
    ).replace("&#39;", "&#x27;")


def test_an_overloaded_engine_is_told_with_its_headers(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OverloadedError

    monkeypatch.setattr(Engine, "run", refuse)
    response = client.post("/answers", data=PNG)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert "too many pictures are waiting already" in response.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/answers?example=sea"),
        ("POST", "/answers"),
        ("GET", "/answers?example=x"),
    ],
)
def test_pages_allow_their_own_files_and_nothing_else(
    client: FlaskClient, method: str, path: str
) -> None:
    response = client.open(path, method=method, data=PNG if method == "POST" else None)
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    # Who goes back to the page finds it as it was left; answers are nobody else's.
    assert response.headers["Cache-Control"] == ("no-cache" if path == "/" else "no-store")
    text = response.text
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=", text)
    assert set(re.findall(r'(?:src|href)="(https?://[^/"]+)', text)) <= {
        "https://arxiv.org",
        "https://towardsdatascience.com",
    }
    assert not re.search(r'(?:src|stylesheet" href|icon" href)="(?!/static/)', text)


def test_the_page_counts_as_no_picture(client: FlaskClient) -> None:
    def counted() -> list[str]:
        lines = client.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith("batchnorm_images_total")]

    before = counted()
    assert client.get("/").status_code == 200
    assert counted() == before


def test_a_download_is_the_file_that_was_loaded_or_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(settings.models_dir, folder)
    client = create_app(replace(settings, models_dir=folder)).test_client()
    path = folder / "relu_with_bn" / "2" / "model.onnx"
    loaded = path.read_bytes()
    path.write_bytes(loaded + b"\0")
    changed = client.get("/models/relu_with_bn/2/model.onnx")
    assert changed.status_code == 404
    assert "no longer the file that was loaded" in changed.text
    path.write_bytes(loaded)
    response = client.get("/models/relu_with_bn/2/model.onnx")
    assert response.data == loaded
    assert response.mimetype == "application/octet-stream"
    assert response.headers["Content-Disposition"] == 'attachment; filename="relu_with_bn-2.onnx"'
    for missing in ("relu_with_bn/3", "tanh/1"):
        assert client.get(f"/models/{missing}/model.onnx").status_code == 404
    path.unlink()  # what was loaded goes on being served, and so it is here
    assert client.get("/models/relu_with_bn/2/model.onnx").data == loaded
    other = client.get("/models/relu_with_bn/1/model.onnx")
    assert other.data == (folder / "relu_with_bn" / "1" / "model.onnx").read_bytes()


def test_both_versions_have_a_card_and_the_newest_answers(client: FlaskClient) -> None:
    page = client.get("/").text
    assert '<a href="/models/relu_with_bn/1/model.onnx"' in page
    assert '<a href="/models/relu_with_bn/2/model.onnx"' in page
    assert guesses(page) == compared(client, EXAMPLE)


def test_a_card_names_the_step_that_was_kept_and_the_pictures_held_out(
    client: FlaskClient, settings: Settings, tmp_path: Path
) -> None:
    card = make_card("relu_with_bn")
    training = replace(card.training, steps=6_000, kept_step=4_000, hold_out=5_000)
    file = make_model("relu_with_bn", replace(card, training=training).to_json())
    write_repository(tmp_path, {("relu_with_bn", 1): file}, default="relu_with_bn")
    alone = create_app(replace(settings, models_dir=tmp_path)).test_client()
    page, plain = (html.unescape(each.get("/").text) for each in (alone, client))
    assert "; weights of step 4,000; 5,000 training pictures held out; learning rate" in page
    assert "weights of step" not in plain
    assert "held out; learning" not in plain
    shown = alone.get("/models").json["models"][0]["card"]["training"]
    assert (shown["kept_step"], shown["hold_out"]) == (4_000, 5_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no comparison.json"),
        ("{", "comparison.json cannot be read"),
        ("[]", "comparison.json is not as"),
        ('{"schema_version": 2}', "comparison.json is not as"),
        ('{"schema_version": 1}', "has schema_version 1, and 2 is read here"),
        (
            (SHIPPED / "comparison.json").read_text().replace('"steps": 30000', '"steps": 0'),
            "comparison.json is not as .*ZeroDivisionError",
        ),
    ],
)
def test_a_comparison_that_cannot_be_shown_is_explained(
    settings: Settings, tmp_path: Path, text: str | None, words: str
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(settings.models_dir, folder)
    if text is not None:
        (folder / "comparison.json").write_text(text)
    with pytest.raises(StudyError, match=words):
        read_studies(folder)
    page = create_app(replace(settings, models_dir=folder)).test_client().get("/")
    assert page.status_code == 200
    assert re.search(words, html.unescape(page.text))


def test_the_page_is_made_once_of_what_was_there_with_the_models(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(settings.models_dir, folder)
    shutil.copy(SHIPPED / "comparison.json", folder)
    client = create_app(replace(settings, models_dir=folder)).test_client()
    pages = {path: client.get(path) for path in ("/", "/docs")}
    assert "top-5 is of the frozen net" in pages["/"].text
    (folder / "comparison.json").write_text("{")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the page is written again")

    monkeypatch.setattr("service.site.pages.render_template", refuse)
    monkeypatch.setattr("service.docs.routes.render_template", refuse)
    for path, first in pages.items():
        again = client.get(path)
        assert again.data == first.data
        packed = client.get(path, headers={"Accept-Encoding": "gzip"})
        assert gzip.decompress(packed.data) == first.data
        for name in ("Content-Security-Policy", "Cache-Control", "Content-Type"):
            assert again.headers[name] == first.headers[name]
        assert client.head(path).headers["Content-Length"] == str(len(first.data))


def test_a_comparison_may_say_more_and_may_have_no_article(tmp_path: Path) -> None:
    content = json.loads((SHIPPED / "comparison.json").read_text())
    content["more"] = {"of": "this"}
    section = content["recipes"][0]
    for row in section["summary"]:
        row["n"], row["more"] = 3, 1
        row["before"]["top5"] = {"mean": None, "spread": None}  # one of the nets diverged
    for trial in section["trials"]:
        trial["history"][0]["learning_rate"] = 0.1
    content["article"] = None
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    study, *_ = read_studies(tmp_path)
    assert [row.variant for row in study.rows] == [row["variant"] for row in section["summary"]]
    assert all(row.before["top5"] is None for row in study.rows)
    assert study.article is None
    assert all(row.article is None for row in study.rows)


def test_seeds_are_shown_as_their_mean_and_spread(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(settings.models_dir, folder)
    content = json.loads((SHIPPED / "comparison.json").read_text())
    summary = content["recipes"][0]["summary"]
    alone, several = summary[:2]
    alone["n"] = 1
    several |= {"n": 3, "after": several["after"] | {"top1": {"mean": 0.5012, "spread": 0.0043}}}
    (folder / "comparison.json").write_text(json.dumps(content))
    page = create_app(replace(settings, models_dir=folder)).test_client().get("/").text
    rows = re.findall(r'<tr class="(\w+)"><th scope="row">(.*?)</tr>', page)
    found = {name: re.sub(r"<.*?>", "", text) for name, text in rows[: len(summary)]}
    assert "mean of 3" in found[several["variant"]]
    assert "50.1\N{NARROW NO-BREAK SPACE}% ± 0.43" in found[several["variant"]]
    assert "mean of" not in found[alone["variant"]]
    assert "±" not in found[alone["variant"]]


def test_no_address_is_looked_up_for_the_page(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the page opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert client.get("/").status_code == 200
