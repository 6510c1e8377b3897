"""The page at /docs: whole, safe, and without anything from elsewhere."""

from __future__ import annotations

import html
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service.app import create_app
from service.settings import Settings, key_digest
from tests.service.test_api import multipart


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


@pytest.fixture
def page(client: FlaskClient) -> Reader:
    return read(client.get("/docs").text)


def test_it_shows_every_operation_and_every_schema(client: FlaskClient, page: Reader) -> None:
    document = client.get("/openapi.json").json
    identities = [o["operationId"] for item in document["paths"].values() for o in item.values()]
    names = [*identities, *document["components"]["schemas"], "schemas", "main"]
    assert sorted(page.ids) == sorted(names)
    for path in document["paths"]:
        assert path in page.text
    assert "10" in page.text


def test_it_is_there_where_no_model_is(settings: Settings, tmp_path: Path) -> None:
    broken = create_app(replace(settings, models_dir=tmp_path)).test_client()
    page = read(broken.get("/docs").text)
    assert "'http://localhost/models/{variant}'" in page.text


def test_every_link_of_it_leads_somewhere_here(client: FlaskClient, page: Reader) -> None:
    assert len(page.links) > 50
    for link in set(page.links):
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            # A scheme or a host would be wrong where a proxy has another.
            assert re.match("/([^/]|$)", link)
            assert client.get(link).status_code == 200


def test_a_browser_is_told_to_run_nothing_and_has_nothing_to_run(client: FlaskClient) -> None:
    response = client.get("/docs")
    assert response.content_type == "text/html; charset=utf-8"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    reader = read(response.text)
    assert not {"script", "style", "iframe", "form", "object"} & set(reader.tags)
    assert not {name for name in reader.attributes if name == "style" or name.startswith("on")}
    style = client.get(next(link for link in reader.links if ".css" in link))
    assert style.content_type == "text/css; charset=utf-8"
    assert "immutable" in style.headers["Cache-Control"]
    assert "url(" not in style.text
    assert "@import" not in style.text
    assert len(response.data) + len(style.data) < 200_000


def test_its_commands_ask_the_service_where_it_is_and_with_its_key(settings: Settings) -> None:
    key = "a-key-of-the-service"
    locked = create_app(replace(settings, api_keys=(key_digest(key),))).test_client()
    answer = locked.get("/docs", headers={"X-API-Key": key, "Host": "api.example:8080"})
    page = read(answer.text)
    commands = re.findall(r"curl.*", page.text)
    assert len(commands) > 20
    for command in commands:
        assert "http://api.example:8080/" in command
    assert '-H "X-API-Key: $KEY" --data-binary @picture.png' in page.text
    assert key not in answer.text


def test_each_of_its_commands_is_answered_as_it_stands(client: FlaskClient, page: Reader) -> None:
    asked = []
    for command in re.findall(r"curl.*", page.text):
        words = shlex.split(command)
        url, options = words.pop(), [word for word in words[1:] if word != "-O"]
        given = list(zip(options[::2], options[1::2], strict=True))
        headers = dict(value.split(": ") for option, value in given if option == "-H")
        bodies = [value.removeprefix("@") for option, value in given if option == "--data-binary"]
        files = [value.removeprefix("image=@") for option, value in given if option == "-F"]
        method = "POST" if bodies or files or ("-X", "POST") in given else "GET"
        sent = [client.get(f"/docs/examples/{name}").data for name in (*bodies, *files)]
        body = multipart([("image", each, "a.png") for each in sent]) if files else {}
        if bodies:
            body = {"data": sent[0], "content_type": "application/x-www-form-urlencoded"}
        answer = client.open(url, method=method, headers=headers, **body)
        assert answer.status_code == 200, command
        asked.append((method, url.partition("?")[0].removeprefix("http://localhost")))
    assert {("GET", "/answers"), ("POST", "/answers"), ("POST", "/predict")} <= set(asked)


def test_below_a_path_its_links_and_commands_begin_with_that(app: Flask) -> None:
    # As a WSGI server sets it where the service is not at its host's root.
    answer = app.test_client().get("/docs", environ_overrides={"SCRIPT_NAME": "/nets"})
    page = read(answer.text)
    assert all(link.startswith(("#", "/nets/")) for link in page.links)
    assert "curl -O 'http://localhost/nets/docs/examples/picture.png'" in page.text
    assert "--data-binary @picture.png 'http://localhost/nets/predict?" in page.text


@pytest.mark.parametrize("host", ['"><script>alert(1)</script>', "a'; rm -rf ~; '", "$(id)"])
def test_a_hostile_host_is_in_no_command(client: FlaskClient, host: str) -> None:
    answer = client.get("/docs", headers={"Host": host})
    assert host not in html.unescape(answer.text)


def test_what_a_proxy_is_said_to_say_is_not_believed(client: FlaskClient) -> None:
    said = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Forwarded": "host=e"}
    assert client.get("/docs", headers=said).text == client.get("/docs").text


def test_an_example_that_is_not_there_is_refused_with_a_list(client: FlaskClient) -> None:
    response = client.get("/docs/examples/secret.png")
    assert response.status_code == 404
    assert "there are picture.png, tensor.json, tensor.bin" in response.json["detail"]
