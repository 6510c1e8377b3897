"""Limits of time: two seconds for a request's head and three for its body, and then it is ended."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.clients import WHOLE, connect, head_of, read_answer
from tests.service.test_server import Running, started, wait_until_alive

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
    else:
        assert said == b""


def test_within_the_limits_a_slow_client_is_served(strict: Running) -> None:
    with connect(strict) as connection, connection.makefile("rb") as answers:
        for _ in range(2):  # longer together than any limit
            for part in (WHOLE[:30], WHOLE[30:100], WHOLE[100:500], WHOLE[500:]):
                connection.sendall(part)
                time.sleep(0.5)
            read_answer(answers)
            time.sleep(1)
