"""Clients that hang up leave nothing behind, and what they have asked is not computed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from service.journal import DELAY
from tests.service.clients import ASKERS, PICTURE, WHOLE, ask_politely, connect, connections
from tests.service.exposition import samples, total
from tests.service.processes import descriptors
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import make_card, make_model, write_repository

VARIANT = "relu_with_bn"
WAITING = 40


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Running]:
    with started(models_dir, WEB_CONCURRENCY="2", LOG_LEVEL="error") as running:
        wait_until_alive(running)
        yield running


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("slow") / "exported_models"
    model = make_model(VARIANT, make_card(VARIANT).to_json(), laps=80)
    write_repository(folder, {(VARIANT, 1): model}, default=VARIANT)
    with started(folder, WEB_CONCURRENCY="1", MAX_BATCH="1", DEADLINE_SECONDS="60") as running:
        wait_until_alive(running)
        yield running


def computed(server: Running) -> float:
    text = requests.get(f"{server.url}/metrics", timeout=DEADLINE).text
    return total(samples(text), "batchnorm_images_total")


def test_hang_ups_leave_nothing_behind(server: Running) -> None:
    ask_politely(server, 150)
    before = descriptors(server)
    until = time.monotonic() + DEADLINE
    with contextlib.ExitStack() as stack:
        for number in range(300):
            connection = stack.enter_context(connect(server))
            connection.sendall(WHOLE[: (20, 100, len(WHOLE))[number % 3]])
        # When those were counted, the connections of who had asked may not all have been let go.
        while descriptors(server) < before + 300 - ASKERS:
            assert time.monotonic() < until, "some were not taken"
            time.sleep(0.1)
    while descriptors(server) > before + 5:
        assert time.monotonic() < until, f"{descriptors(server) - before} descriptors are kept"
        time.sleep(0.1)


def test_pictures_of_clients_that_have_hung_up_are_not_computed(slow_server: Running) -> None:
    def ask() -> float:
        start = time.monotonic()
        answer = requests.post(f"{slow_server.url}/predict", data=PICTURE, timeout=DEADLINE)
        assert answer.status_code == 200
        return time.monotonic() - start

    alone = min(ask() for _ in range(3))
    assert alone > 0.02, "the model is too quick for this test"
    before = computed(slow_server)
    with connections(slow_server, WAITING) as senders:
        for each in senders:
            each.sendall(WHOLE)
        time.sleep(2 * alone)  # their requests are read, and most of them wait
    time.sleep(0.1)
    assert ask() < WAITING * alone / 4
    assert computed(slow_server) - before < WAITING / 2
    time.sleep(5 * DELAY)
    told = [line["status"] for line in slow_server.lines() if line.get("path") == "/predict"]
    assert set(told) == {200, 499}
    assert told.count(499) > WAITING / 2
