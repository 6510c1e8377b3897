"""Clients that are slow, idle, rude or hasty, and what the others notice of them: next to nothing.

The others' p99 is compared with what it was on the same server a moment before.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.service.exposition import samples, total
from tests.service.processes import descriptors
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import encode, make_card, make_model, oracle, write_repository

Trouble = Callable[[Running], AbstractContextManager[None]]

ROUNDS = 5
MOST_ROUNDS = 15
"""Where the machine is too noisy for a verdict after ``ROUNDS``."""

ASKERS = 2
QUESTIONS = 150
"""Of each asker in each round."""

PICTURE = encode(np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def head_of(length: int, path: str = "/predict") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


WHOLE = head_of(len(PICTURE)) + PICTURE


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Running]:
    with started(models_dir, WEB_CONCURRENCY="2", LOG_LEVEL="error") as running:
        wait_until_alive(running)
        yield running


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)


@contextlib.contextmanager
def connections(server: Running, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(server)) for _ in range(count)]


@contextlib.contextmanager
def repeated(act: Callable[[], None]) -> Iterator[None]:
    """Do something over and over, beside the test, which fails if it does."""
    end, faults = threading.Event(), []

    def run() -> None:
        while not end.is_set():
            try:
                act()
            except Exception as error:
                faults.append(error)
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(DEADLINE)
    assert faults == []


def still_open(connection: socket.socket) -> bool:
    """Whether the server has neither answered nor closed."""
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


@contextlib.contextmanager
def one_byte_a_second(server: Running, count: int = 200) -> Iterator[None]:
    """Half of them spend it on the request's head, half on its body."""
    with connections(server, count) as senders:
        turns = [iter(WHOLE if number % 2 else b"x" * 10_000) for number in range(count)]
        for number, each in enumerate(senders):
            each.sendall(b"POST /predict HTTP/1.1\r\nX: " if number % 2 else head_of(10_000))
        numbers = iter(range(10**9))

        def send() -> None:
            number = next(numbers) % count
            senders[number].sendall(bytes([next(turns[number])]))
            time.sleep(1 / count)

        with repeated(send):
            yield
        assert all(map(still_open, senders))


@contextlib.contextmanager
def stalled_uploads(server: Running, count: int = 1000) -> Iterator[None]:
    """More than a server that gives each a thread can have threads."""
    with connections(server, count) as senders:
        for each in senders:
            each.sendall(head_of(10_000) + b"the beginning of a body")
        time.sleep(0.5)
        yield
        assert all(map(still_open, senders))


@contextlib.contextmanager
def idle_connections(server: Running, count: int = 500) -> Iterator[None]:
    """Half of them have never asked anything, half have had an answer."""
    with connections(server, count) as idle:
        for each in idle[::2]:
            each.sendall(WHOLE)
            with each.makefile("rb") as answers:
                read_answer(answers)
        time.sleep(0.2)
        yield
        assert all(map(still_open, idle))


@contextlib.contextmanager
def hang_ups(server: Running) -> Iterator[None]:
    """Thirty a second, in the head, in the body, or before the answer."""
    cuts = iter([20, 100, len(WHOLE)] * 10_000)

    def hang_up() -> None:
        with connect(server) as connection:
            connection.sendall(WHOLE[: next(cuts)])
        time.sleep(1 / 30)

    with repeated(hang_up):
        yield


@contextlib.contextmanager
def pipelines(server: Running) -> Iterator[None]:
    """Eight requests at a time, without waiting for the answers, which come in order."""
    with eight_at_a_time(server, pipelined=True):
        yield


@contextlib.contextmanager
def eight_at_a_time(server: Running, *, pipelined: bool = False) -> Iterator[None]:
    """Eight requests, each after the other's answer or all at once, then a pause; over and over."""
    pictures = np.random.default_rng(6).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    expected = oracle("sigmoid_without_bn", pictures).argmax(axis=1).tolist()
    assert len(set(expected)) > 4
    asked = [head_of(len(body)) + body for body in map(encode, pictures)]

    with connect(server) as connection, connection.makefile("rb") as answers:

        def ask() -> None:
            found = []
            if pipelined:
                connection.sendall(b"".join(asked))
            for each in asked:
                if not pipelined:
                    connection.sendall(each)
                found.append(best(read_answer(answers)))
            assert found == expected
            time.sleep(0.05)

        with repeated(ask):
            yield


def read_answer(stream: BufferedReader) -> Any:
    """One response of a connection that goes on."""
    assert stream.readline().startswith(b"HTTP/1.1 200")
    head = http.client.parse_headers(stream)
    return json.loads(stream.read(int(head["Content-Length"])))


def best(answer: Any) -> int:
    index: int = answer["images"][0]["top"][0]["index"]
    return index


def p99(server: Running) -> float:
    """Of well-behaved clients, in milliseconds, once what has just begun or ended is over."""
    ask_politely(server, QUESTIONS // 3)
    taken = ask_politely(server, QUESTIONS)
    return sorted(taken)[-len(taken) // 100] * 1e3


def ask_politely(server: Running, questions: int) -> list[float]:
    """How long each question of each asker took, in seconds."""
    taken: list[float] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        for _ in range(questions):
            start = time.perf_counter()
            connection.request("POST", "/predict", PICTURE)
            response = connection.getresponse()
            response.read()
            taken.append(time.perf_counter() - start)
            assert response.status == 200
        connection.close()

    askers = [threading.Thread(target=ask) for _ in range(ASKERS)]
    for each in askers:
        each.start()
    for each in askers:
        each.join()
    assert len(taken) == ASKERS * questions, "the others got no answer"
    return taken


@pytest.mark.parametrize(
    ("trouble", "instead"),
    [
        (one_byte_a_second, None),
        (stalled_uploads, None),
        (idle_connections, None),
        (hang_ups, None),
        # Its requests are to be answered, and as many take their time from anybody else.
        (pipelines, eight_at_a_time),
    ],
)
def test_others_hardly_notice(server: Running, trouble: Trouble, instead: Trouble | None) -> None:
    quiet: list[float] = []
    troubled: list[float] = []
    while len(quiet) < MOST_ROUNDS:
        with instead(server) if instead else contextlib.nullcontext():
            quiet.append(p99(server))
        with trouble(server):
            troubled.append(p99(server))
        before, meanwhile = statistics.median(quiet), statistics.median(troubled)
        if len(quiet) >= ROUNDS and meanwhile <= 2 * before:
            break
    print(f"{trouble.__name__}: p99 {before:.1f} ms before, {meanwhile:.1f} ms meanwhile")
    assert meanwhile <= 2 * before, (quiet, troubled)


def test_hang_ups_leave_nothing_behind(server: Running) -> None:
    ask_politely(server, QUESTIONS)
    before = descriptors(server)
    with contextlib.ExitStack() as stack:
        for number in range(300):
            connection = stack.enter_context(connect(server))
            connection.sendall(WHOLE[: (20, 100, len(WHOLE))[number % 3]])
    until = time.monotonic() + DEADLINE
    while descriptors(server) > before + 5:
        assert time.monotonic() < until, f"{descriptors(server) - before} descriptors are kept"
        time.sleep(0.1)


# Limits of time: two seconds for a head, three for a body.

HEAD_SECONDS, BODY_SECONDS = 2, 3


@pytest.fixture(scope="module")
def strict(models_dir: Path) -> Iterator[Running]:
    limits = {"HEAD_SECONDS": str(HEAD_SECONDS), "BODY_SECONDS": str(BODY_SECONDS)}
    with started(models_dir, WEB_CONCURRENCY="1", **limits) as running:
        wait_until_alive(running)
        yield running


def trickled(server: Running, start: bytes, drop: bytes) -> tuple[float, bytes]:
    """Send ``start``, and then ``drop`` four times a second.

    Seconds until the server is through with it, and its last words.
    """
    with connect(server) as connection, selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        begun, said = time.monotonic(), b""
        connection.sendall(start)
        while (taken := time.monotonic() - begun) < 15:
            if selector.select(0.25):
                try:
                    part = connection.recv(1 << 16)
                except ConnectionResetError:
                    part = b""
                if not part:
                    return taken, said
                said += part
            elif drop:
                with contextlib.suppress(OSError):
                    connection.sendall(drop)
    raise AssertionError("the server takes all the time in the world")


@pytest.mark.parametrize(
    ("start", "limit", "answered"),
    [
        (b"", HEAD_SECONDS, False),
        (b"POST /predict HTTP/1.1\r\nX-Slow: ", HEAD_SECONDS, True),
        (WHOLE + b"POST /predict HTTP/1.1\r\nX-Slow: ", HEAD_SECONDS, True),
        (head_of(10_000), BODY_SECONDS, True),
        (head_of(10_000) + b"x" * 9_000, BODY_SECONDS, True),
        (head_of(10_000, "/v2/models/relu_with_bn/infer"), BODY_SECONDS, True),
        (
            b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n",
            BODY_SECONDS,
            True,
        ),
    ],
    ids=["nothing", "head", "second head", "body", "body's end", "tensor", "chunk"],
)
def test_a_request_that_takes_too_long_to_arrive_is_ended(
    strict: Running, start: bytes, limit: int, answered: bool
) -> None:
    took, said = trickled(strict, start, b"x" if start else b"")
    assert limit - 0.5 < took < limit + 2
    if answered:
        assert b"HTTP/1.1 408 " in said


def test_within_the_limits_a_slow_client_is_served(strict: Running) -> None:
    with connect(strict) as connection, connection.makefile("rb") as answers:
        for _ in range(2):  # longer together than any limit
            for part in (WHOLE[:30], WHOLE[30:100], WHOLE[100:500], WHOLE[500:]):
                connection.sendall(part)
                time.sleep(0.5)
            read_answer(answers)
            time.sleep(1)


# A model that takes its time, so that pictures wait.

VARIANT = "relu_with_bn"
WAITING = 40


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
