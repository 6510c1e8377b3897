"""A connection alone, before an application of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from service.drain import Drain
from service.gate import Gate
from service.http.http1 import Connection
from service.http.serving import Serving
from service.http.waiting import Turns
from service.http.wsgi import OnLoop
from service.journal import Answered
from tests.service.engines import make_bodies
from tests.service.test_server import DEADLINE


@contextlib.asynccontextmanager
async def asking(
    application: Any,
    sent: bytes,
    *,
    full: bool = False,
    draining: bool = False,
    head: float = DEADLINE,
    body: float = DEADLINE,
    idle: float = DEADLINE,
    told: list[Answered] | None = None,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, Turns]]:
    """A connection on which ``sent`` has been sent."""
    loop, turns = asyncio.get_running_loop(), Turns()
    engine: Any = SimpleNamespace(full=full)
    drain = Drain()
    if draining:
        drain.begin()
    gate = Gate(
        application,
        engine,
        drain,
        route=lambda _: None,
        origins=(),
        on_refusal=lambda *_: None,
        tell=(told if told is not None else []).append,
    )
    serving = Serving(
        OnLoop(gate, gate, make_bodies(1 << 20)),
        turns,
        *(head, body, idle),
        ended=lambda: None,
    )
    serving.sweep()
    server = await loop.create_server(lambda: Connection(serving), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(sent)
    yield reader, writer, turns
    writer.close()
    server.close()


async def asked(application: Any, sent: bytes, **options: Any) -> tuple[bytes, Turns]:
    """What a connection answers to ``sent`` until it is closed."""
    async with asking(application, sent, **options) as (reader, _, turns):
        async with asyncio.timeout(DEADLINE):
            return await reader.read(), turns


GET, LAST = (
    f"GET / HTTP/1.1\r\nHost: a\r\n{end}\r\n".encode() for end in ("", "Connection: close\r\n")
)


def echo(environ: Any, start_response: Any) -> list[bytes]:
    """Says what it was asked, and how much it was given."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Host", environ.get("HTTP_HOST", "-"))])
    return [f"[{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {len(body)}]".encode()]
