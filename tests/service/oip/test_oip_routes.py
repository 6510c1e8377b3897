"""The protocol's routes: what they list, and refusals in its own form whatever the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service.app import create_app
from service.engine import DeadlineError, Engine, OverloadedError
from service.settings import Settings
from service.state import state_of
from tests.service.inference import PATH, assert_error, document, post


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v2/nothing/here", 404, "no such route"),
        ("GET", "/v2/models", 404, "no such route"),
        ("GET", "/v2/models/vgg", 404, "there are relu_with_bn, sigmoid_without_bn"),
        ("GET", "/v2/models/vgg/ready", 404, "no variant 'vgg'"),
        ("GET", "/v2/models/relu_with_bn/versions/9", 404, "there are 1, 2"),
        ("GET", "/v2/models/relu_with_bn/versions/-1/ready", 404, "no version '-1'"),
        ("GET", f"/v2/models/relu_with_bn/versions/{'9' * 5000}", 404, "no version '999"),
        ("POST", "/v2/models/vgg/infer", 404, "no variant 'vgg'"),
        ("POST", "/v2/repository/models/relu_with_bn/unload", 404, "no such route"),
        ("GET", "/v2//models/relu_with_bn", 404, "no such route"),
        ("POST", "/v2//models/relu_with_bn/infer", 404, "no such route"),
        ("GET", PATH, 405, "is not allowed here; allowed: "),
        ("DELETE", "/v2", 405, "is not allowed here; allowed: "),
    ],
)
def test_errors_of_routing_have_the_protocols_form(
    client: FlaskClient, method: str, path: str, status: int, words: str
) -> None:
    response = client.open(path, method=method)
    assert_error(response, status, words)
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": true}', b'{"ready": false}'])
def test_the_index_lists_every_version(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/v2/repository/index", data=body).json
    assert [f"{each['name']}/{each['version']}" for each in answer] == [
        "relu_with_bn/1",
        "relu_with_bn/2",
        "sigmoid_without_bn/1",
    ]


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b'{"ready": 1}', b"0" * 9])
def test_the_index_refuses_what_is_no_request_for_it(client: FlaskClient, body: bytes) -> None:
    assert_error(client.post("/v2/repository/index", data=body), 400)


def test_the_servers_metadata_are_there_with_and_without_a_slash(client: FlaskClient) -> None:
    without, with_slash = client.get("/v2"), client.get("/v2/")
    assert (without.status_code, without.json["name"]) == (200, "batchnorm-service")
    assert with_slash.json == without.json


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OverloadedError(), 503, "too many pictures are waiting"),
        (DeadlineError(), 504, "no answer within the 10 seconds"),
        (RuntimeError("secret"), 500, "the service failed; its log says why"),
    ],
)
def test_the_engines_refusals_and_faults_have_the_protocols_form(
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    words: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(state_of(app).engine, "run", fail)
    response = post(app.test_client(), document())
    assert_error(response, status, words)
    assert ("Retry-After" in response.headers) == (status == 503)


def test_the_gate_refuses_each_path_in_its_own_form(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "full", property(lambda _: True))
    response = post(app.test_client(), document())
    assert_error(response, 503, "too many pictures are waiting")
    assert response.headers["Retry-After"] == "1"
    assert app.test_client().post("/predict").content_type == "application/problem+json"


def test_without_models_the_server_is_live_but_not_ready(
    settings: Settings, tmp_path: Path
) -> None:
    client = create_app(replace(settings, models_dir=tmp_path / "none")).test_client()
    assert client.get("/v2").status_code == 200
    assert client.get("/v2/health/live").json == {"live": True}
    for answer in (
        client.get("/v2/health/ready"),
        client.get("/v2/models/relu_with_bn"),
        client.get("/v2/models/relu_with_bn/ready"),
        client.post("/v2/repository/index"),
        post(client, document()),
    ):
        assert_error(answer, 503, "none/manifest.json: there is no such file")
