"""Pages are written once, and name the address that each request was sent to."""

from __future__ import annotations

import gzip
import html
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service.site.assets import address, names


def test_the_host_of_a_request_cannot_write_into_the_page(client: FlaskClient) -> None:
    page = client.get("/", headers={"Host": "a'b\"><script>alert(1)</script>"})
    assert "<script>alert" not in page.text


def test_files_are_kept_for_good_by_their_hash_and_revalidated_without(
    client: FlaskClient,
) -> None:
    assert {"page.css", "answers.js", "icon.svg"} <= names()
    kept = client.get(address("page.css"))
    assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert kept.mimetype == "text/css"
    for path in ("/static/page.css", "/static/page.css?v=other"):
        plain = client.get(path)
        assert plain.headers["Cache-Control"] == "no-cache"
        assert plain.data == kept.data
        again = client.get(path, headers={"If-None-Match": plain.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
    packed = client.get("/static/page.css", headers={"Accept-Encoding": "br, gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Vary"] == "Accept-Encoding"
    assert gzip.decompress(packed.data) == kept.data
    assert packed.headers["ETag"] != kept.headers["ETag"]
    picture = client.get("/static/examples/sea.webp", headers={"Accept-Encoding": "gzip"})
    assert picture.mimetype == "image/webp"
    assert "Content-Encoding" not in picture.headers
    assert client.head("/static/page.css").status_code == 200
    assert client.post("/static/page.css").status_code == 405


def test_who_wants_another_file_or_none_gets_none(client: FlaskClient) -> None:
    plain = client.get("/static/page.css")
    for match in (plain.headers["ETag"], "*", f'"x", {plain.headers["ETag"]}'):
        wanted = client.get("/static/page.css", headers={"If-Match": match})
        assert (wanted.status_code, wanted.data) == (200, plain.data)
    refused = client.get("/static/page.css", headers={"If-Match": '"x"'})
    assert refused.status_code == 412
    assert refused.get_json()["detail"] == "the file is none of those in If-Match"
    # Nobody knows when it was changed, so that asking by that asks nothing (section 13.1.4).
    since = {"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}
    assert client.get("/static/page.css", headers=since).status_code == 200


def test_a_page_is_written_once_and_names_the_host_of_each_request(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = app.test_client()
    for path in ("/", "/docs"):
        assert client.get(path).status_code == 200

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the page was made again")

    monkeypatch.setattr("service.site.pages.render_template", refuse)
    monkeypatch.setattr("service.docs.routes.render_template", refuse)
    packing = {"Accept-Encoding": "gzip"}
    for lap in range(2):
        for number in range(20):  # more than are kept ready
            host = f"host-{number}.example"
            for path in ("/", "/docs"):
                text = client.get(path, headers={"Host": host}).text
                assert set(re.findall("host-[0-9]+", text)) == {f"host-{number}"}, (lap, path)
                assert "http://localhost" not in text
                assert ".invalid" not in text
                packed = client.get(path, headers={"Host": host, **packing})
                assert gzip.decompress(packed.data).decode() == text


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("my_service:8000", "http://my_service:8000"),  # as compose calls it
        ("[::1]:8000", "http://[::1]:8000"),
        ("", "http://localhost:80"),
        ("[::1", "http://localhost:80"),
        ("a:123456", "http://localhost:80"),
        ("a" * 300, "http://localhost:80"),
        ("b\u00fccher", "http://localhost:80"),
    ],
)
def test_a_command_names_the_host_or_where_that_is_none_the_server(
    client: FlaskClient, host: str, shown: str
) -> None:
    server = {"HTTP_HOST": host, "SERVER_NAME": "localhost", "SERVER_PORT": "80"}
    for path in ("/", "/docs"):
        text = html.unescape(client.get(path, environ_overrides=server).text)
        text = text.replace("<span data-origin>", "").replace("</span>", "")
        commands = re.findall(r"'([^']*)/predict[?']", text)
        assert commands
        assert set(commands) == {shown}
