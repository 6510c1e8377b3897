"""GET /metrics: it parses, and adds up to what was sent, over several processes too."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from service.app import create_app
from service.engine import Engine
from service.journal import DELAY, Answered, Journal
from service.metric_files import FolderError, claim_slot, dead_slots, shared, shared_folder
from service.metrics import Metrics
from service.settings import Settings
from service.state import state_of
from tests.service.hostile import PHOTO
from tests.service.processes import peers
from tests.service.test_api import multipart
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import encode

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
PNG = encode(PHOTO)


def samples(text: str, parse: Any = parse_text) -> Samples:
    """Every sample of an exposition: its name and labels, sorted, with its value."""
    found: Samples = {}
    for family in parse(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, f"{key} stands there twice"
            found[key] = sample.value
    return found


def requests_by(found: Samples, name: str = "batchnorm_requests_total") -> Counter[tuple[str, ...]]:
    """Requests by (route, variant, status), but for those of /metrics itself."""
    counted: Counter[tuple[str, ...]] = Counter()
    for (each, labels), value in found.items():
        key = dict(labels)
        if each == name and key["route"] not in ("/metrics", "/health/live"):
            counted[key["route"], key["variant"], key["status"]] += int(value)
    return counted


def total(found: Samples, name: str, **labels: str) -> float:
    return sum(
        value
        for (each, has), value in found.items()
        if each == name and labels.items() <= dict(has).items()
    )


@pytest.fixture
def app(settings: Settings) -> Flask:
    """An application of its own, that has counted nothing yet."""
    return create_app(replace(settings, max_images=4, max_body_bytes=1 << 20))


@pytest.fixture
def scrape(client: FlaskClient) -> Any:
    return lambda: samples(client.get("/metrics").text)


def send_mixed(post: Any, get: Any) -> Counter[tuple[str, ...]]:
    """Good and bad requests, and how they must be counted."""
    expected: Counter[tuple[str, ...]] = Counter()
    pair = multipart([("image", PNG, "a.png"), ("image", PNG, "b.png")])
    for send, url, body, key, times in (
        (post, "/predict", {"data": PNG}, ("/predict", "sigmoid_without_bn", "200"), 7),
        (post, "/predict?variant=relu_with_bn", pair, ("/predict", "relu_with_bn", "200"), 3),
        (post, "/predict?variant=tanh", {"data": PNG}, ("/predict", "", "404"), 2),
        (post, "/predict", {"data": b"no picture"}, ("/predict", "sigmoid_without_bn", "415"), 4),
        (post, "/compare", {"data": PNG}, ("/compare", "", "200"), 2),
        (get, "/models", {}, ("/models", "", "200"), 1),
        (get, "/models/relu_with_bn", {}, ("/models/<variant>", "", "200"), 2),
        (get, "/models/no-such-model", {}, ("/models/<variant>", "", "404"), 2),
        (get, "/nowhere/at/all", {}, ("none", "", "404"), 3),
        (get, "/predict", {}, ("none", "", "405"), 1),
        (get, "/health/ready", {}, ("/health/ready", "", "200"), 2),
    ):
        for _ in range(times):
            response = send(url, **body)
            assert response.status_code == int(key[2]), url
        expected[key] += times
    return expected


def settled(scrape: Callable[[], Samples]) -> Samples:
    """The metrics once every worker has counted what it has answered."""
    found, until = scrape(), time.monotonic() + DEADLINE
    while time.monotonic() < until:
        time.sleep(5 * DELAY)
        before, found = found, scrape()
        if requests_by(found) == requests_by(before):
            return found
    raise AssertionError("the counters do not come to rest")


def assert_adds_up(found: Samples, expected: Counter[tuple[str, ...]], rounds: int = 1) -> None:
    """``rounds`` is how often ``send_mixed`` was called."""
    assert requests_by(found) == expected
    assert requests_by(found, "batchnorm_request_seconds_count") == expected
    # 7 single pictures, 3 pairs and 2 comparisons of two variants.
    assert total(found, "batchnorm_images_total") == 17 * rounds
    runs = total(found, "batchnorm_executions_total")
    assert total(found, "batchnorm_batch_images_sum") == 17 * rounds
    assert total(found, "batchnorm_batch_images_count") == runs
    assert total(found, "batchnorm_run_seconds_count") == runs
    assert 0 < runs <= total(found, "batchnorm_queue_seconds_count") <= 17 * rounds
    newest = {"variant": "relu_with_bn", "version": "2"}
    assert total(found, "batchnorm_images_total", **newest) == 8 * rounds
    assert total(found, "batchnorm_decode_seconds_count") == 12 * rounds
    assert total(found, "batchnorm_queue_images") == 0


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


def test_what_strangers_send_makes_no_series(client: FlaskClient, scrape: Any) -> None:
    client.get("/nowhere"), client.post("/predict?variant=x", data=PNG), scrape()
    before = set(scrape())
    for number in range(20):
        client.get(f"/nowhere/{number}")
        client.post(f"/predict?variant=variant-{number}", data=PNG)
        client.open("/predict", method=f"METHOD{number}")
    new = {dict(labels).get("status") for _, labels in set(scrape()) - before}
    assert new == {"405"}


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
        return samples(generate_latest(metrics.collected()).decode())

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
    text = generate_latest(metrics.collected()).decode()
    assert 'batchnorm_requests_total{route="/predict",status="200"' in text


# Several processes.


def workers(server: Running) -> dict[int, set[Path]]:
    """The server's workers: the files of metrics that each has mapped."""
    parent, found = server.process.pid, {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        lines = Path(f"/proc/{child}/maps").read_text().splitlines()
        found[int(child)] = {Path(line.split()[-1]) for line in lines if line.endswith(".db")}
    return found


def wait_for_workers(server: Running, gone: int = 0) -> dict[int, set[Path]]:
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        try:
            found = workers(server)
        except OSError:  # one has just ended
            found = {}
        if len(found) == 2 and gone not in found and all(found.values()):
            return found
        time.sleep(0.05)
    raise AssertionError("there are no two workers")


@pytest.fixture
def two_workers(models_dir: Path) -> Iterator[Running]:
    with started(models_dir, WEB_CONCURRENCY="2", PROMETHEUS_MULTIPROC_DIR="") as server:
        wait_until_alive(server)
        wait_for_workers(server)
        yield server


@contextlib.contextmanager
def clients_of_all(server: Running) -> Iterator[Iterator[requests.Session]]:
    """Clients that take turns, whose connections are with one worker and with the other."""
    with contextlib.ExitStack() as stack:
        clients: list[requests.Session] = []
        until = time.monotonic() + DEADLINE
        while not clients or not all(peers(pid) for pid in workers(server)):
            assert time.monotonic() < until, "one worker has taken every connection"
            clients.append(stack.enter_context(requests.Session()))
            clients[-1].get(f"{server.url}/health/live", timeout=DEADLINE)
        yield itertools.cycle(clients)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_workers_count_as_one_even_if_one_is_killed(two_workers: Running) -> None:
    server = two_workers

    def post(url: str, data: bytes, content_type: str | None = None) -> requests.Response:
        headers = {"Content-Type": content_type} if content_type else {}
        return next(clients).post(server.url + url, data=data, headers=headers, timeout=DEADLINE)

    def get(url: str) -> requests.Response:
        return next(clients).get(server.url + url, timeout=DEADLINE)

    def scraped() -> Samples:
        return samples(get("/metrics").text)

    files = set().union(*workers(server).values())
    (folder,) = {path.parent for path in files}
    slots = {path.stem.rpartition("_")[2] for path in files}
    assert slots == {"0", "1"}
    if Path("/dev/shm").is_dir():
        assert folder.parent == Path("/dev/shm")
    assert folder.stat().st_mode & 0o777 == 0o700

    expected: Counter[tuple[str, ...]] = Counter()
    with clients_of_all(server) as clients:
        for _ in range(3):
            expected += send_mixed(post, get)
        settled(scraped)
        for _ in range(8):  # whichever worker answers
            found = scraped()
            assert_adds_up(found, expected, rounds=3)
            assert total(found, "batchnorm_model_info") == 3
    asked = {
        path.name: total(samples_of(path), "images") for path in files if "counter" in path.name
    }
    assert min(asked.values()) > 0, "one worker has answered everything"

    (killed, _) = workers(server)
    os.kill(killed, signal.SIGKILL)
    files = set().union(*wait_for_workers(server, gone=killed).values())
    assert {path.stem.rpartition("_")[2] for path in files} == slots
    with clients_of_all(server) as clients:
        expected += send_mixed(post, get)
        settled(scraped)
        for _ in range(4):
            assert_adds_up(scraped(), expected, rounds=4)

    server.process.terminate()
    server.process.communicate(timeout=DEADLINE)
    assert not folder.exists()


def samples_of(path: Path) -> Samples:
    """How many pictures one worker's own file has counted."""
    from prometheus_client.mmap_dict import MmapedDict

    values = MmapedDict.read_all_values_from_file(str(path))
    return {("images", ()): sum(value for key, value, *_ in values if "_images_total" in key)}


def test_one_worker_needs_no_folder_and_an_operators_own_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    with shared(1):
        assert shared_folder() is None
    with shared(2):
        made = shared_folder()
        assert made is not None
        assert made.is_dir()
    assert not made.exists()
    assert shared_folder() is None
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with shared(2):
        assert shared_folder() == tmp_path
    assert tmp_path.is_dir()


def test_where_no_folder_can_be_made_the_message_says_what_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr("service.metric_files.tempfile.mkdtemp", refuse)
    with pytest.raises(FolderError, match=r"\(Read-only file system\).*WEB_CONCURRENCY to 1"):
        shared(2).__enter__()


def test_a_dead_workers_slot_is_taken_over(tmp_path: Path) -> None:
    assert claim_slot(tmp_path) == 0
    program = """
import sys, time, pathlib
from service.metric_files import claim_slot
print(claim_slot(pathlib.Path(sys.argv[1])), flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        with dead_slots(tmp_path) as slots:
            assert slots == []
        other.kill()
    with dead_slots(tmp_path) as slots:
        assert slots == [1]
        assert claim_slot(tmp_path) == 2
    assert claim_slot(tmp_path) == 1
