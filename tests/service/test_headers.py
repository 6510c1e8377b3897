"""The headers of every answer, and which other origins may read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.app import create_app
from service.engine import Engine
from service.settings import Settings, key_digest
from tests.service.hostile import PHOTO
from tests.service.tiny import encode

PNG = encode(PHOTO)
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
ORIGIN = "https://app.example"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "x-api-key,content-type",
}


def make(settings: Settings, **changes: Any) -> FlaskClient:
    app: Flask = create_app(replace(settings, **changes))

    @app.get("/page")
    def page() -> Response:
        headers = {"Content-Security-Policy": "default-src 'self'", "Cache-Control": "max-age=60"}
        return Response("<p>", headers=headers)

    @app.get("/bug")
    def bug() -> str:
        raise RuntimeError

    return app.test_client()


def cors(response: TestResponse) -> dict[str, str]:
    return {name: value for name, value in response.headers if name.startswith("Access-Control")}


@pytest.mark.parametrize(
    ("method", "path", "data", "status"),
    [
        ("GET", "/health/live", None, 200),
        ("GET", "/models", None, 200),
        ("HEAD", "/models", None, 200),
        ("OPTIONS", "/models", None, 200),
        ("GET", "/metrics", None, 200),
        ("GET", "/v2", None, 200),
        ("GET", "/v2/health/ready", None, 200),
        ("GET", "/v2/models/relu_with_bn/config", None, 200),
        ("GET", "/v2/models/tanh", None, 404),
        ("POST", "/v2/models/relu_with_bn/infer", b"no tensor", 400),
        ("GET", "/v2/nowhere", None, 404),
        ("POST", "/predict", PNG, 200),
        ("POST", "/predict", b"no picture", 415),
        ("GET", "/nowhere", None, 404),
        ("GET", "/predict", None, 405),
        ("GET", "/bug", None, 500),
    ],
)
def test_every_answer_is_safe_in_a_browser(
    settings: Settings, method: str, path: str, data: bytes | None, status: int
) -> None:
    response = make(settings).open(path, method=method, data=data)
    assert response.status_code == status
    for name, value in SECURITY.items():
        assert response.headers.getlist(name) == [value]
    assert len(response.headers.getlist("X-Request-ID")) == 1
    assert len(response.headers.getlist("Content-Type")) == 1
    assert cors(response) == {}
    assert "Set-Cookie" not in response.headers
    assert "Server" not in response.headers


def test_answers_of_the_gate_and_refusals_bear_them_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(settings, cors_origins=(ORIGIN,), api_keys=(key_digest("k" * 16),))
    headers = {"Origin": ORIGIN, "X-Request-ID": "mine"}
    refused = client.post("/predict", data=PNG, headers=headers)
    monkeypatch.setattr(Engine, "full", True)
    full = client.post("/predict", data=PNG, headers=headers)
    assert (refused.status_code, full.status_code) == (401, 503)
    for response in (refused, full):
        for name, value in SECURITY.items():
            assert response.headers.getlist(name) == [value]
        assert response.headers["X-Request-ID"] == response.json["request_id"] == "mine"
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Retry-After" in cors(full)["Access-Control-Expose-Headers"]


def test_a_page_keeps_headers_of_its_own(settings: Settings) -> None:
    response = make(settings).get("/page")
    assert response.headers.getlist("Content-Security-Policy") == ["default-src 'self'"]
    assert response.headers.getlist("Cache-Control") == ["max-age=60"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("origin", [ORIGIN, "null", "https://other.example"])
def test_no_other_origin_reads_anything_unless_it_is_set(settings: Settings, origin: str) -> None:
    client = make(settings)
    for response in (
        client.get("/models", headers={"Origin": origin}),
        client.options("/predict", headers={**PREFLIGHT, "Origin": origin}),
    ):
        assert cors(response) == {}
        assert "Vary" not in response.headers


def test_an_origin_that_is_named_reads_answers_and_errors(settings: Settings) -> None:
    client = make(settings, cors_origins=("https://first.example", ORIGIN))
    for path in ("/models", "/nowhere", "/bug", "/metrics", "/page"):
        response = client.get(path, headers={"Origin": ORIGIN})
        assert set(cors(response)) == {
            "Access-Control-Allow-Origin",
            "Access-Control-Expose-Headers",
        }
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert response.headers["Vary"] == "Origin"
        assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"]


def test_caches_are_told_of_the_origin_beside_what_an_answer_itself_depends_on(
    settings: Settings,
) -> None:
    client = make(settings, cors_origins=(ORIGIN,))
    response = client.get("/static/page.css", headers={"Origin": ORIGIN})
    assert {*response.headers.getlist("Vary")} == {"Accept-Encoding", "Origin"}


@pytest.mark.parametrize(
    "origin",
    [
        "https://other.example",
        f"{ORIGIN}.other.example",
        f"{ORIGIN}:8443",
        "http://app.example",
        ORIGIN.upper(),
        "null",
        "",
        "*",
    ],
)
def test_any_other_origin_reads_nothing_and_caches_are_told(
    settings: Settings, origin: str
) -> None:
    client = make(settings, cors_origins=(ORIGIN,))
    answer = client.get("/models", headers={"Origin": origin})
    preflight = client.options("/predict", headers={**PREFLIGHT, "Origin": origin})
    assert cors(answer) == cors(preflight) == {}
    assert answer.headers["Vary"] == preflight.headers["Vary"] == "Origin"


def test_the_star_is_for_all_and_credentials_are_for_none(settings: Settings) -> None:
    client = make(settings, cors_origins=("*",))
    for origin in (ORIGIN, "null"):
        response = client.get("/models", headers={"Origin": origin})
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "Vary" not in response.headers
        assert "Access-Control-Allow-Credentials" not in response.headers
    assert cors(client.get("/models")) == {}


def test_a_preflight_is_answered_without_a_key(settings: Settings) -> None:
    client = make(settings, cors_origins=(ORIGIN,), api_keys=(key_digest("k" * 16),))
    response = client.options("/predict", headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.data == b""
    found = cors(response)
    assert found["Access-Control-Allow-Origin"] == ORIGIN
    methods = found["Access-Control-Allow-Methods"].split(", ")
    assert sorted(methods) == ["OPTIONS", "POST"]
    allowed = found["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type", "x-api-key", "x-request-id"} <= set(allowed)
    assert found["Access-Control-Max-Age"] == "600"
    # What is no preflight, of no known origin or for no route, needs a key as ever.
    for path, headers in (
        ("/predict", {"Origin": ORIGIN}),
        ("/predict", {**PREFLIGHT, "Origin": "https://other.example"}),
        ("/nowhere", PREFLIGHT),
    ):
        assert client.options(path, headers=headers).status_code == 401
    assert client.post("/predict", headers=PREFLIGHT, data=PNG).status_code == 401
