"""Clients of a running server: some write their requests byte by byte, others ask politely."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

import numpy as np

from tests.service.test_server import DEADLINE, Running
from tests.service.tiny import encode

ASKERS = 2

PICTURE = encode(np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def head_of(length: int, path: str = "/predict") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


WHOLE = head_of(len(PICTURE)) + PICTURE


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)


@contextlib.contextmanager
def connections(server: Running, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(server)) for _ in range(count)]


def read_answer(stream: BufferedReader) -> Any:
    """One response of a connection that goes on."""
    assert stream.readline().startswith(b"HTTP/1.1 200")
    head = http.client.parse_headers(stream)
    return json.loads(stream.read(int(head["Content-Length"])))


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
