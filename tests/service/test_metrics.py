"""GET /metrics of one process: it parses, and adds up to what was sent."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from werkzeug.test import create_environ

from service.app import create_app
from service.engine import Engine
from service.http.wsgi import call
from service.journal import DELAY, Answered, Journal
from service.metrics import Metrics, metrics_of
from service.settings import Settings, key_digest
from service.state import state_of
from tests.service.counted import PNG, assert_adds_up, send_mixed
from tests.service.exposition import Samples, requests_by, samples, total
from tests.service.http.test_waiting import in_turn
from tests.service.test_server import DEADLINE

REQUESTS = "batchnorm_requests_total"


@pytest.fixture
def app(settings: Settings) -> Flask:
    """An application of its own, that has counted nothing yet."""
    return create_app(replace(settings, max_images=4, max_body_bytes=1 << 20))


@pytest.fixture
def scrape(client: FlaskClient) -> Any:
    return lambda: samples(client.get("/metrics").text)


def test_the_counters_add_up_to_what_was_sent(client: FlaskClient, scrape: Any) -> None:
    expected = send_mixed(client.post, client.get)
    assert_adds_up(scrape(), expected)
    assert total(scrape(), "batchnorm_requests_total", route="/metrics") == 1


def test_every_model_is_named_with_where_it_runs_and_what_it_is(app: Flask, scrape: Any) -> None:
    repository = state_of(app).repository
    assert repository is not None
    expected = {
        (
            ("dataset", "synthetic"),
            ("provider", "CPUExecutionProvider"),
            ("sha256", model.sha256[:12]),
            ("variant", model.variant),
            ("version", str(model.version)),
        )
        for versions in repository.models.values()
        for model in versions.values()
    }
    found = scrape()
    assert {labels for name, labels in found if name == "batchnorm_model_info"} == expected
    assert total(found, "batchnorm_model_info") == len(expected) == 3
    # Series are there from the start, so that a rate over the first request is right.
    assert sum(name == "batchnorm_images_total" for name, _ in found) == 3


def test_openmetrics_is_spoken_to_who_asks_for_it(client: FlaskClient) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    response = client.get("/metrics", headers={"Accept": accept})
    assert response.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert total(samples(response.text, parse_openmetrics), "batchnorm_model_info") == 3
    plain = client.get("/metrics")
    assert plain.content_type.startswith("text/plain; version=")


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("version", ["abc", "1..0", "\u00b2", "2.\u00b2", "1.0.x", "9" * 5000])
def test_who_asks_for_a_version_that_is_none_is_answered(
    client: FlaskClient, kind: str, version: str
) -> None:
    response = client.get("/metrics", headers={"Accept": f"{kind};version={version}"})
    assert response.status_code == 200
    assert "batchnorm_model_info{" in response.text


def test_what_strangers_send_makes_no_series(client: FlaskClient, scrape: Any) -> None:
    client.get("/nowhere"), client.post("/predict?variant=x", data=PNG), scrape()
    before = set(scrape())
    for number in range(20):
        client.get(f"/nowhere/{number}")
        client.post(f"/predict?variant=variant-{number}", data=PNG)
        client.open("/predict", method=f"METHOD{number}")
    new = [dict(labels) for name, labels in set(scrape()) - before if name.endswith("_total")]
    assert new == [{"route": "none", "variant": "", "status": "405"}]


def test_preflights_are_not_among_a_routes_answers(settings: Settings) -> None:
    app = create_app(replace(settings, cors_origins=("*",), api_keys=(key_digest("k" * 16),)))
    client, key = app.test_client(), {"X-API-Key": "k" * 16}
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    for _ in range(3):
        assert client.options("/predict", headers=asks).status_code == 200
    assert client.post("/predict", data=PNG, headers=key).status_code == 200
    assert client.options("/predict").status_code == 401
    assert client.options("/nowhere", headers=key).status_code == 404
    found = samples(client.get("/metrics", headers=key).text)
    expected = {
        ("/predict", "sigmoid_without_bn", "200"): 1,
        ("options", "", "200"): 3,
        ("options", "", "401"): 1,
        ("options", "", "404"): 1,
    }
    assert requests_by(found) == expected
    assert requests_by(found, "batchnorm_request_seconds_count") == expected


def test_requests_that_are_refused_at_the_gate_are_counted_by_their_route(
    app: Flask, client: FlaskClient, scrape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "full", True)
    for url in ("/predict", "/predict?variant=relu_with_bn", "/compare", "/nowhere"):
        assert client.post(url, data=PNG).status_code == 503
    expected = {("/predict", "", "503"): 2, ("/compare", "", "503"): 1, ("none", "", "503"): 1}
    assert requests_by(scrape()) == expected


def test_the_queue_is_shown_while_it_waits_and_after() -> None:
    started, go_on = threading.Event(), threading.Event()

    def run(images: np.ndarray) -> np.ndarray:
        started.set()
        assert go_on.wait(DEADLINE)
        return np.zeros((len(images), 100), np.float32)

    card = SimpleNamespace(dataset=SimpleNamespace(name="synthetic"))
    facts = {"variant": "relu_with_bn", "version": 1, "provider": "CPU", "sha256": "0" * 64}
    model: Any = SimpleNamespace(run=run, card=card, **facts)
    repository: Any = SimpleNamespace(models={"relu_with_bn": {1: model}})
    metrics = Metrics(repository, Journal())
    engine = Engine(threads=1, max_batch=32, queue_images=64, observer=metrics)

    def found() -> Samples:
        return samples(metrics.written(generate_latest).decode())

    async def ask() -> None:
        tasks = [(model, np.zeros((3, 32, 32, 3), np.uint8))]
        calls = [engine.submit(tasks, deadline=time.monotonic() + DEADLINE)]
        await asyncio.to_thread(started.wait, DEADLINE)
        calls += [engine.submit(tasks, deadline=time.monotonic() + DEADLINE) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert total(found(), "batchnorm_queue_images") == 9
        go_on.set()
        while not all(call.done() for call in calls):
            await asyncio.sleep(0.001)

    asyncio.run(ask())
    after = found()
    assert total(after, "batchnorm_queue_images") == 0
    assert total(after, "batchnorm_executions_total") == 2
    assert total(after, "batchnorm_batch_images_bucket", le="2.0") == 0
    assert total(after, "batchnorm_batch_images_bucket", le="4.0") == 1
    assert total(after, "batchnorm_batch_images_bucket", le="16.0") == 2
    assert total(after, "batchnorm_queue_seconds_sum") >= 3 * 0.05


def test_the_loop_goes_on_while_metrics_are_written_and_they_hold_together(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    metrics = metrics_of(app)
    answered = Answered(
        *(time.time(), "id", None, "POST", "/predict"), *("/predict", "", 200, 0, 0, 4e-3)
    )

    def encode(registry: CollectorRegistry) -> bytes:
        """As slow as with very many workers; requests are answered meanwhile."""
        threads.append(threading.current_thread())
        before = generate_latest(registry)
        for _ in range(10):
            state_of(app).journal.add(metrics.read, answered)
            time.sleep(2 * DELAY / 10)
        assert generate_latest(registry) == before
        return before

    monkeypatch.setattr("service.metrics.choose_encoder", lambda _: (encode, "text/plain"))
    environ = create_environ("/metrics")

    async def ask() -> int:
        asked, turns = asyncio.ensure_future(in_turn(lambda: call(app, environ))), 0
        while not asked.done():
            turns += 1
            await asyncio.sleep(DELAY / 10)
        assert (await asked).head.startswith(b"HTTP/1.1 200 ")
        return turns

    assert asyncio.run(ask()) > 5
    assert threads != [threading.main_thread()]
    assert total(samples(metrics.written(generate_latest).decode()), REQUESTS) == 10 + 1


def test_counting_a_request_costs_less_than_50_microseconds(app: Flask) -> None:
    repository = state_of(app).repository
    assert repository is not None
    journal = Journal()
    metrics, engine = Metrics(repository, journal), state_of(app).engine
    model, costs = repository.get(), []
    answered = Answered(
        *(time.time(), "id", None, "POST", "/predict"),
        *("/predict", "relu_with_bn", 200, 1000, 100, 4e-3),
    )
    for _ in range(20):
        start = time.process_time()
        for _ in range(100):
            metrics.decoded(4e-4)
            metrics.waiting(engine)
            metrics.ran(model, 1, (0.0,), 2e-3)
            journal.add(metrics.read, answered)
        journal.flush()
        costs.append((time.process_time() - start) / 100)
    assert min(costs) < 50e-6
    text = metrics.written(generate_latest).decode()
    assert 'batchnorm_requests_total{route="/predict",status="200"' in text
