"""What an operator does to a server under load: ends it, and kills its workers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import encode, oracle

CLIENTS = 12
RECOVERY = 4.0
"""Seconds. It is 1 on an idle machine, and 2 are promised; tests share theirs."""


@dataclass
class Traffic:
    """What clients saw who ask, each on its own connection, until they are told to go elsewhere.

    ``lost`` are requests that were sent and not answered; ``wrong`` have another picture's answer.
    """

    answered: int = 0
    lost: list[str] = field(default_factory=list)
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
            again = True
            while again and not end.is_set():
                try:
                    connection.request("POST", "/predict", picture)
                    response = connection.getresponse()
                    answer = json.loads(response.read())
                except (OSError, http.client.HTTPException) as error:
                    with lock:
                        seen.lost.append(repr(error))
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


def workers(server: Running) -> list[int]:
    pid = server.process.pid
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


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
def test_a_killed_worker_is_replaced_and_only_its_own_requests_fail(
    models_dir: Path, pixels: np.ndarray, processes: int
) -> None:
    with started(models_dir, WEB_CONCURRENCY=str(processes)) as server:
        wait_until_alive(server)
        with traffic(server, pixels, stubborn=True) as seen:
            wait_for_answers(seen, 200)
            before = workers(server)
            assert len(before) == processes
            os.kill(before[0], signal.SIGKILL)
            killed = time.monotonic()
            time.sleep(0.1)
            answered = seen.answered
            wait_for_answers(seen, answered + 50)
            recovery = time.monotonic() - killed
            while len(workers(server)) < processes or before[0] in workers(server):
                assert time.monotonic() - killed < DEADLINE
                time.sleep(0.01)
            wait_for_answers(seen, seen.answered + 200)
        assert recovery < RECOVERY
        # A client has one request on its way, and may meet the dead worker's port once more.
        assert len(seen.lost) <= 2 * CLIENTS
        assert seen.wrong == []
        assert server.process.poll() is None
