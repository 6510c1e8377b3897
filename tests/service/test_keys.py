"""API keys: with keys set, every route but health refuses without one."""

from __future__ import annotations

import hmac
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.app import create_app
from service.settings import Settings, key_digest
from service.state import state_of
from tests.service.hostile import PHOTO
from tests.service.test_api import assert_problem
from tests.service.tiny import VARIANTS, encode

KEYS = ("first-key-of-the-service", "second-key/with+signs=")
PAGES = {"/", "/answers"}
STATIC = "/static/<path:name>"
OPEN = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}
PNG = encode(PHOTO)


@pytest.fixture(scope="module")
def app(settings: Settings) -> Flask:
    return create_app(replace(settings, api_keys=tuple(map(key_digest, KEYS))))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def assert_refused(
    response: TestResponse, challenge: str = 'Bearer realm="batchnorm-service"'
) -> None:
    assert response.status_code == 401, response.request.path
    assert response.headers["WWW-Authenticate"] == challenge
    if response.request.method == "HEAD":
        assert response.data == b""
    elif response.request.path.startswith("/v2"):
        assert list(response.json) == ["error"]
    elif response.request.path in PAGES or response.request.path.endswith(".onnx"):
        assert response.mimetype == "text/html"
        assert "asks for a key" in response.text
        assert not any(variant in response.text for variant in VARIANTS)
    else:
        assert_problem(response, 401)


def test_every_route_but_health_refuses_without_a_key(app: Flask, client: FlaskClient) -> None:
    rules = list(app.url_map.iter_rules())
    assert {"/predict", "/compare", "/models", "/metrics"} <= {rule.rule for rule in rules}
    for rule in rules:
        path = re.sub(r"<[^>]*>", "1", rule.rule)
        for method in rule.methods or ():
            response = client.open(path, method=method)
            if rule.rule in OPEN:
                assert response.status_code == 200, rule
            elif rule.rule == STATIC:  # the page's own files, of which none is called so
                assert response.status_code == (200 if method == "OPTIONS" else 404), rule
            else:
                assert_refused(response)


def test_the_open_files_are_those_of_this_repository(client: FlaskClient, models_dir: Path) -> None:
    folder = Path(__file__).parents[2] / "service" / "static"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        response = client.get(f"/static/{path.relative_to(folder).as_posix()}")
        assert response.status_code == 200
        assert response.data == path.read_bytes()
    for name in (
        "../app.py",
        "..%2fapp.py",
        "%2e%2e/app.py",
        "examples/../../app.py",
        "/etc/passwd",
        f"/{models_dir}/manifest.json",
        "examples",
        "",
        "page.css%00",
    ):
        assert client.get(f"/static/{name}").status_code in (401, 404), name


def test_a_route_that_is_added_refuses_too(settings: Settings) -> None:
    app = create_app(replace(settings, api_keys=(key_digest(KEYS[0]),)))

    @app.route("/new", methods=["GET", "POST", "PUT"])
    def new() -> str:
        return "a secret"

    client = app.test_client()
    for method in ("GET", "POST", "PUT", "HEAD", "OPTIONS"):
        assert_refused(client.open("/new", method=method))
    assert client.get("/new", headers=bearer(KEYS[0])).text == "a secret"


@pytest.mark.parametrize("method", ["GET", "DELETE", "NONSENSE"])
@pytest.mark.parametrize("path", ["/nowhere", "/predict", "/health", "/health/live/../x"])
def test_a_stranger_does_not_learn_which_routes_there_are(
    client: FlaskClient, path: str, method: str
) -> None:
    assert_refused(client.open(path, method=method))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["Authorization", "authorization", "X-API-Key", "x-api-key"])
def test_each_key_opens_by_either_header(client: FlaskClient, key: str, name: str) -> None:
    value = key if name.lower() == "x-api-key" else f"bEaReR {key}"
    assert client.post("/predict", data=PNG, headers={name: value}).status_code == 200
    assert client.get("/metrics", headers={name: value}).status_code == 200
    assert client.get("/nowhere", headers={name: value}).status_code == 404


def test_a_proxys_own_credentials_do_not_stand_in_the_way(client: FlaskClient) -> None:
    headers = {"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": KEYS[1]}
    assert client.get("/models", headers=headers).status_code == 200
    assert client.get("/models", headers={**bearer(KEYS[0]), "X-API-Key": "its"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        bearer("wrong"),
        bearer(KEYS[0] + "x"),
        bearer(KEYS[0][:-1]),
        bearer(KEYS[0].upper()),
        bearer(",".join(KEYS)),
        bearer("é" * 20),
        bearer("x" * 50_000),
        {"X-API-Key": "none"},
        {"X-API-Key": f"Bearer {KEYS[0]}"},
    ],
)
def test_a_wrong_key_is_refused_and_told_so(client: FlaskClient, headers: dict[str, str]) -> None:
    response = client.get("/models", headers=headers)
    assert_refused(response, 'Bearer realm="batchnorm-service", error="invalid_token"')


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": KEYS[0]},
        {"Authorization": f"Basic {KEYS[0]}"},
        {"Cookie": f"key={KEYS[0]}"},
    ],
)
def test_what_is_no_key_counts_as_none(client: FlaskClient, headers: dict[str, str]) -> None:
    assert_refused(client.get("/models", headers=headers))
    assert_refused(client.get(f"/models?key={KEYS[0]}"))


def test_every_key_is_compared_whichever_is_right(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[Any, Any]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr("service.keys.hmac", type("hmac", (), {"compare_digest": compare}))
    for key in (*KEYS, "wrong"):
        compared.clear()
        client.get("/models", headers=bearer(key))
        assert len(compared) == len(KEYS)
        assert {len(each) for pair in compared for each in pair} == {32}


def test_no_key_is_logged_or_shown(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for key in (*KEYS, "a-wrong-secret"):
        response = client.get("/models", headers=bearer(key))
        state_of(app).journal.flush()
        for text in (response.text, str(response.headers), caplog.text, str(vars(caplog))):
            assert key not in text
    assert not [record for record in caplog.records if "secret" in str(vars(record))]


def test_without_keys_nothing_is_asked(settings: Settings) -> None:
    client = create_app(settings).test_client()
    assert client.get("/models").status_code == 200
    assert client.get("/models", headers=bearer("anything")).status_code == 200
