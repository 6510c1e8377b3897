"""What an operator does to a server under load: ends it, and kills its workers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.service.processes import peers, workers
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import encode, make_card, make_model, oracle, write_repository

CLIENTS = 12
RECOVERY = 2.0
"""Seconds from a worker's death until the service answers again."""


@dataclass
class Traffic:
    """What clients saw who ask, each on its own connection, until they are told to go elsewhere.

    ``lost`` are requests that were sent and not answered, each with the port that its client sent
    it from; ``wrong`` have another picture's answer.
    """

    answered: int = 0
    lost: list[tuple[int, str]] = field(default_factory=list)
    wrong: list[object] = field(default_factory=list)
    last_answer: float = 0.0


@contextmanager
def traffic(server: Running, pixels: np.ndarray, *, stubborn: bool = False) -> Iterator[Traffic]:
    """Clients that keep asking; ``stubborn`` ones connect again whatever happens."""
    seen, lock, end = Traffic(), threading.Lock(), threading.Event()
    expected = oracle("sigmoid_without_bn", pixels).argmax(axis=1)

    def ask(number: int) -> None:
        picture = encode(pixels[number % 8])
        while not end.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
            try:
                connection.connect()
            except OSError:
                if not stubborn:
                    return
                time.sleep(0.02)
                continue
            port = connection.sock.getsockname()[1]
            again = True
            while again and not end.is_set():
                try:
                    connection.request("POST", "/predict", picture)
                    response = connection.getresponse()
                    answer = json.loads(response.read())
                except (OSError, http.client.HTTPException) as error:
                    with lock:
                        seen.lost.append((port, repr(error)))
                    break
                again = response.getheader("Connection") != "close"
                with lock:
                    seen.answered += 1
                    seen.last_answer = time.monotonic()
                    if answer["images"][0]["top"][0]["index"] != expected[number % 8]:
                        seen.wrong.append(answer)
            connection.close()
            if not again and not stubborn:
                return

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        end.set()
        for client in clients:
            client.join(DEADLINE)


def wait_for_answers(seen: Traffic, count: int) -> None:
    end = time.monotonic() + DEADLINE
    while seen.answered < count:
        assert time.monotonic() < end, seen
        time.sleep(0.01)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_under_load_loses_no_request_and_ends_with_status_0(
    models_dir: Path, pixels: np.ndarray, processes: str
) -> None:
    with started(models_dir, WEB_CONCURRENCY=processes, DRAIN_SECONDS="2") as server:
        wait_until_alive(server)
        with traffic(server, pixels) as seen:
            wait_for_answers(seen, 200)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            ready = requests.get(f"{server.url}/health/ready", timeout=DEADLINE)
            live = requests.get(f"{server.url}/health/live", timeout=DEADLINE)
            _, err = server.process.communicate(timeout=DEADLINE)
    assert (ready.status_code, live.status_code) == (503, 200)
    assert "about to end" in ready.json()["detail"]
    assert server.process.returncode == 0
    assert (seen.lost, seen.wrong, err) == ([], [], b"")


def test_a_request_in_progress_at_sigterm_is_finished(models_dir: Path) -> None:
    """Its body is still on its way when the port is closed."""
    with started(models_dir, DRAIN_SECONDS="0") as server:
        wait_until_alive(server)
        picture = encode(np.zeros((32, 32, 3), np.uint8))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(picture)))
        connection.endheaders(picture[:10])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.send(picture[10:])
        assert connection.getresponse().status == 200
        server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_what_waits_when_the_port_is_closed_is_still_computed(
    tmp_path: Path, pixels: np.ndarray, processes: int
) -> None:
    """Full queues, and no time to drain: all that was accepted is answered."""
    model = make_model("relu_with_bn", make_card("relu_with_bn").to_json(), laps=40)
    write_repository(tmp_path, {("relu_with_bn", 1): model}, default="relu_with_bn")
    expected = oracle("relu_with_bn", pixels).argmax(axis=1)
    limits = {"MAX_BATCH": "1", "DRAIN_SECONDS": "0", "DEADLINE_SECONDS": "60"}
    limits["QUEUE_IMAGES"] = "64"
    with started(tmp_path, WEB_CONCURRENCY=str(processes), **limits) as server:
        wait_until_alive(server)
        wait_for_workers(server, processes)
        connections = []
        for number in range(40):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
            connection.request("POST", "/predict", encode(pixels[number % 8]))
            connections.append(connection)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        answers = [json.loads(each.getresponse().read()) for each in connections]
        for each in connections:
            each.close()
        server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode == 0
    found = [answer["images"][0]["top"][0]["index"] for answer in answers]
    assert found == [expected[number % 8] for number in range(40)]


def wait_for_workers(server: Running, count: int, without: int = 0) -> list[int]:
    end = time.monotonic() + DEADLINE
    while len(found := workers(server)) < count or without in found:
        assert time.monotonic() < end, f"{found} instead of {count} workers"
        time.sleep(0.01)
    return found


def kill(server: Running, worker: int, seen: Traffic) -> float:
    """Kill a worker; the seconds until the service answers on."""
    os.kill(worker, signal.SIGKILL)
    killed = time.monotonic()
    time.sleep(0.1)
    wait_for_answers(seen, seen.answered + 50)
    assert server.process.poll() is None
    return time.monotonic() - killed


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_worker_is_replaced_and_only_its_own_requests_fail(
    models_dir: Path, pixels: np.ndarray, processes: int
) -> None:
    with started(models_dir, WEB_CONCURRENCY=str(processes)) as server:
        wait_until_alive(server)
        (victim, *others) = wait_for_workers(server, processes)
        with traffic(server, pixels, stubborn=True) as seen:
            wait_for_answers(seen, 200)
            safe = set().union(*map(peers, others))
            assert len(peers(victim)) + len(safe) == CLIENTS
            recovery = kill(server, victim, seen)
            wait_for_workers(server, processes, without=victim)
            wait_for_answers(seen, seen.answered + 200)
    assert recovery < RECOVERY
    # A client has one request on its way, and may meet the dead worker's port once more.
    assert len(seen.lost) <= 2 * (CLIENTS - len(safe))
    assert [error for port, error in seen.lost if port in safe] == []
    assert seen.wrong == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_may_die_again_and_again(
    models_dir: Path, pixels: np.ndarray, processes: int
) -> None:
    recoveries = []
    with started(models_dir, WEB_CONCURRENCY=str(processes)) as server:
        wait_until_alive(server)
        with traffic(server, pixels, stubborn=True) as seen:
            for _ in range(5):
                victim = wait_for_workers(server, processes)[0]
                wait_for_answers(seen, seen.answered + 50)
                recoveries.append(kill(server, victim, seen))
                wait_for_workers(server, processes, without=victim)
    assert statistics.median(recoveries) < RECOVERY, recoveries
    assert seen.wrong == []


def test_sigterm_while_the_workers_are_starting_is_not_lost(models_dir: Path) -> None:
    """The first worker answers already, the others are on their way."""
    for number in range(6):
        with started(models_dir, WEB_CONCURRENCY="4", DRAIN_SECONDS="0") as server:
            wait_until_alive(server)
            time.sleep(0.03 * number)
            server.process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            server.process.communicate(timeout=DEADLINE)
            took = time.monotonic() - sent
        assert server.process.returncode == 0
        assert took < 8
