"""What a request leaves behind: next to nothing, as collecting it would keep others waiting."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import uvloop
from flask import Flask

from service.gate import gate_of
from service.http.waiting import Turns
from service.http.wsgi import GONE, OnLoop
from service.journal import DELAY
from tests.service.connections import GET, LAST, asked
from tests.service.engines import make_bodies
from tests.service.hostile import PHOTO
from tests.service.test_server import DEADLINE
from tests.service.tiny import encode

BODY = encode(PHOTO)
REQUESTS = 200

OBJECTS = 8
"""Werkzeug's matcher leaves a function that calls itself, and what it holds."""


def environ() -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/predict",
        "QUERY_STRING": "top_k=2",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "HTTP_HOST": "localhost",
        "CONTENT_LENGTH": str(len(BODY)),
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
        GONE: lambda: False,
    }


async def answered(app: Flask, requests: int) -> None:
    gate = gate_of(app)
    application, turns, statuses = OnLoop(app, gate, make_bodies(1 << 20)), Turns(), list[bytes]()

    def answer() -> None:
        statuses.append(application(environ(), lambda: (BODY, False)).head[:12])

    async with asyncio.timeout(DEADLINE):
        for number in range(requests):
            turns.begin(answer)
            while len(statuses) <= number:
                await asyncio.sleep(0)
        await asyncio.sleep(5 * DELAY)
    assert set(statuses) == {b"HTTP/1.1 200"}


def test_a_request_leaves_next_to_no_garbage(app: Flask) -> None:
    async def main() -> int:
        await answered(app, 20)
        gc.collect()
        gc.disable()
        try:
            await answered(app, REQUESTS)
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(main()) / REQUESTS < OBJECTS + 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (LAST, b"204"),
        (b"\x00nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (GET + b"\x00nonsense\r\n\r\n", b"204"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
    ],
    ids=["one request", "none", "no host", "none behind one", "a broken body"],
)
def test_a_connection_leaves_none(sent: bytes, status: bytes) -> None:
    def nothing(environ: Any, start_response: Any) -> list[bytes]:
        start_response("204 No Content", [])
        return []

    async def main() -> int:
        await asked(nothing, sent)
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                answer, _ = await asked(nothing, sent)
                assert answer.startswith(b"HTTP/1.1 %b " % status)
            await asyncio.sleep(0.1)
            return gc.collect()
        finally:
            gc.enable()

    assert uvloop.run(main()) / 50 < 1
