"""More than can be served: refused at once and politely, and never in the way of the rest."""

from __future__ import annotations

import asyncio
import io
import logging
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

import service.gate
from service.app import create_app
from service.gate import gate_of
from service.settings import Settings
from service.state import state_of
from tests.service.hostile import PHOTO
from tests.service.test_api import assert_problem
from tests.service.tiny import encode

PNG = encode(PHOTO)


@pytest.fixture
def crowded(app: Flask, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """The application while its queue is full; nobody has been refused within the last second."""
    gate = gate_of(app)
    monkeypatch.setattr(gate, "_unlogged", dict.fromkeys(gate._unlogged, 0))
    monkeypatch.setattr(gate, "_next_line", dict.fromkeys(gate._next_line, 0.0))
    engine = state_of(app).engine
    monkeypatch.setattr(engine, "waiting_images", engine.queue_images)
    return app.test_client()


@pytest.mark.parametrize("path", ["/predict", "/compare"])
def test_a_full_queue_answers_503_with_retry_after(crowded: FlaskClient, path: str) -> None:
    response = crowded.post(path, data=PNG)
    assert_problem(response, 503, "try again later")
    assert response.headers["Retry-After"] == "1"


def test_a_queue_that_fills_while_the_picture_is_decoded_answers_the_same(
    crowded: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {"X-Request-ID": "the-same"}
    at_the_gate = crowded.post("/predict", data=PNG, headers=same)
    engine = state_of(crowded.application).engine
    monkeypatch.setattr(engine, "waiting_images", engine.queue_images - 1)
    form = {"image": [(io.BytesIO(PNG), "a.png"), (io.BytesIO(PNG), "b.png")]}
    behind_it = crowded.post("/predict", data=form, headers=same)
    assert (behind_it.status_code, behind_it.json) == (503, at_the_gate.json)
    assert behind_it.headers["Retry-After"] == at_the_gate.headers["Retry-After"]


def test_a_full_queue_while_draining_ends_the_connection_too(
    crowded: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_of(crowded.application).drain, "begun", True)
    response = crowded.post("/predict", data=PNG)
    assert_problem(response, 503, "try again later")
    assert response.headers["Retry-After"] == "1"
    assert response.headers.getlist("Connection") == ["close"]
    assert crowded.get("/models").headers.getlist("Connection") == ["close"]


def test_a_full_queue_does_not_hide_the_rest(crowded: FlaskClient) -> None:
    for path in ("/health/live", "/health/ready", "/models"):
        assert crowded.get(path).status_code == 200


def test_refusals_are_logged_once_a_second_with_their_count(
    crowded: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="service.gate"):
        for _ in range(100):
            crowded.post("/predict", data=PNG)
    assert 1 <= len(caplog.records) <= 2


def test_the_rest_of_a_burst_is_logged_though_nobody_comes_after_it(
    app: Flask,
    crowded: FlaskClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service.gate, "LOG_SECONDS", 0.05)
    gate = gate_of(app)
    environ = EnvironBuilder(path="/predict", method="POST").get_environ()

    async def main() -> None:
        for _ in range(4):
            gate.refusal(environ)
        async with asyncio.timeout(5):
            while len(caplog.records) < 2:
                await asyncio.sleep(0.01)

    with caplog.at_level(logging.WARNING, logger="service.gate"):
        asyncio.run(main())
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "refused 1 requests",
        "refused 3 requests",
    ]


def test_refusals_are_counted_by_their_reason_which_the_log_names_with_its_setting(
    app: Flask, crowded: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_of(app)
    environ = EnvironBuilder(path="/predict", method="POST").get_environ()
    with caplog.at_level(logging.WARNING, logger="service.gate"):
        _, body = gate.no_room(environ, 70_000, 0.5)
        crowded.post("/predict", data=PNG)
    assert b"too many large uploads are on their way" in body
    assert [record.getMessage() for record in caplog.records] == [
        "refused 1 requests: too many large uploads are on their way (QUEUE_BYTES)",
        "refused 1 requests: too many pictures are waiting (QUEUE_IMAGES)",
    ]


def test_a_request_that_is_late_answers_504(settings: Settings, app: Flask) -> None:
    late = create_app(replace(settings, deadline_seconds=0), state_of(app).repository)
    assert_problem(late.test_client().post("/predict", data=PNG), 504, "within the 0 seconds")
    assert late.test_client().get("/health/ready").status_code == 200
