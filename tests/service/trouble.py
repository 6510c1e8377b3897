"""Clients that are slow, idle, rude or hasty: contexts in which a server has to do with them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.service.clients import WHOLE, connect, connections, head_of, read_answer
from tests.service.test_server import DEADLINE, Running
from tests.service.tiny import encode, oracle


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


def best(answer: Any) -> int:
    index: int = answer["images"][0]["top"][0]["index"]
    return index
