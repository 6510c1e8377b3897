"""A connection alone, before an application of the test's own: what order, how much, how long."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from service.bodies import Bodies, NoRoomError
from service.drain import Drain
from service.finish import Finish
from service.gate import Gate
from service.http1 import Connection
from service.incoming import MAX_HEAD_BYTES
from service.journal import Answered
from service.metrics import Metrics
from service.serving import Serving
from service.waiting import Turns
from service.wsgi import OnLoop
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


def test_an_application_that_fails_is_answered_500_and_the_connection_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(environ: Any, start_response: Any) -> Any:
        raise RuntimeError("an inner secret")

    answer, turns = asyncio.run(asked(fail, GET + GET))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"secret" not in answer
    assert "an inner secret" in caplog.text
    assert turns.busy == 0


def test_an_answer_in_parts_is_sent_whole_with_its_length() -> None:
    closed = []

    class Parts(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    def answer_in_parts(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])(b"a")
        return Parts([b"b", b"", b"c"])

    answer, _ = asyncio.run(asked(answer_in_parts, GET + LAST))
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.count(b"\r\nContent-Length: 3\r\n") == 2
    assert answer.count(b"\r\n\r\nabc") == 2
    assert answer.count(b"Connection: close") == 1
    assert closed == [True, True]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_that_may_have_no_body_has_none(status: str) -> None:
    def nothing(environ: Any, start_response: Any) -> Any:
        start_response(status, [])
        return []

    answer, _ = asyncio.run(asked(nothing, GET + LAST))
    assert answer.count(f"HTTP/1.1 {status}\r\n".encode()) == 2
    assert b"Content-Length" not in answer
    assert answer.endswith(b"\r\n\r\n")


def test_thousands_of_pipelined_requests_are_refused_one_by_one() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    answer, _ = asyncio.run(asked(None, 4000 * post + LAST, full=True))
    assert answer.count(b"HTTP/1.1 503 ") == 4000


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    def nothing(environ: Any, start_response: Any) -> Any:
        start_response("204 No Content", [])
        return []

    start = time.monotonic()
    answer, _ = asyncio.run(asked(nothing, GET, idle=0.5))
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert 0.5 <= time.monotonic() - start < 0.5 + DEADLINE


def test_whoever_is_refused_while_sending_gets_to_read_why() -> None:
    def refuse(environ: Any, start_response: Any) -> Any:
        start_response("413 Content Too Large", [("Content-Length", "3")])
        return [b"why"]

    post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9999999\r\n\r\n"

    async def main() -> None:
        async with asking(refuse, post) as (reader, writer, _):
            await asyncio.sleep(0.2)  # what comes now would reset a connection that is closed
            for _ in range(20):
                writer.write(bytes(1000))
                await asyncio.sleep(0.01)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert answer.endswith(b"why")

    asyncio.run(main())


def echo(environ: Any, start_response: Any) -> list[bytes]:
    """Says what it was asked, and how much it was given."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Host", environ.get("HTTP_HOST", "-"))])
    return [f"[{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {len(body)}]".encode()]


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("cut", [0, 10])
def test_a_body_behind_an_upgrade_that_is_not_made_is_a_body(
    framing: str, full: bool, cut: int
) -> None:
    head = (
        f"POST /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{framing}\r\n\r\n"
    )
    body = b"hello" if "Length" in framing else b"5\r\nhello\r\n0\r\n\r\n"
    sent = head.encode() + body + b"GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    async def main() -> bytes:
        parts = sent[: len(head) + cut // 5], sent[len(head) + cut // 5 :]
        async with asking(echo, parts[0], full=full) as (reader, writer, _):
            await asyncio.sleep(0.05 if cut else 0)
            writer.write(parts[1])
            return await reader.read()

    answer = asyncio.run(main())
    if full and "chunked" in framing:  # who knows how much of it is to come
        assert answer.count(b"HTTP/1.1 ") == answer.count(b"\r\nConnection: close\r\n") == 1
        return
    assert answer.count(b"HTTP/1.1 ") == 2
    assert answer.endswith(b"[GET /b 0]")
    assert (b"[POST /a 5]" in answer) == (not full)


@pytest.mark.parametrize("length", ["", "Content-Length: 0\r\n", "Content-Length: 00\r\n"])
@pytest.mark.parametrize("cut", [False, True])
def test_no_body_behind_an_upgrade_that_is_not_made_is_no_body(length: str, cut: bool) -> None:
    head = f"POST /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{length}\r\n"

    async def main() -> bytes:
        async with asking(echo, head.encode() + (b"" if cut else LAST)) as (reader, writer, _):
            async with asyncio.timeout(5):
                first = await reader.readuntil(b"[POST /a 0]")
                writer.write(LAST if cut else b"")
                return first + await reader.read()

    answer = asyncio.run(main())
    assert answer.count(b"HTTP/1.1 200 ") == answer.count(b"HTTP/1.1 ") == 2
    assert answer.endswith(b"[GET / 0]")


def test_a_trailer_without_an_end_is_refused() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: "
    answer, _ = asyncio.run(asked(echo, head + b"a" * (2 * MAX_HEAD_BYTES)))
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 20_000, 3 * MAX_HEAD_BYTES])
def test_a_head_is_too_large_in_one_piece_too(size: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * size + b"\r\n\r\n"
    answer, _ = asyncio.run(asked(echo, head))
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("host", ["b:81", "b", "[::1]:81", "[::1]"])
def test_a_whole_address_as_target_names_the_host(host: str) -> None:
    asks = f"GET http://{host} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer, _ = asyncio.run(asked(echo, asks.encode()))
    assert f"\r\nX-Host: {host}\r\n".encode() in answer
    assert answer.endswith(b"[GET / 0]")


@pytest.mark.parametrize("line", ["", "Host: a b\r\n", "Host: a/b\r\n"])
def test_a_whole_address_as_target_makes_no_host_header_good(line: str) -> None:
    asks = f"GET http://b/ HTTP/1.1\r\n{line}Connection: close\r\n\r\n"
    answer, _ = asyncio.run(asked(echo, asks.encode()))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Host header" in answer


def test_refusals_that_nobody_reads_are_not_piled_up() -> None:
    async def main() -> None:
        post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        async with asking(None, post * 20_000, full=True) as (reader, _, turns):
            steady = 0
            async with asyncio.timeout(DEADLINE):
                while steady < 30:  # not between two of them, but held up by one for good
                    await asyncio.sleep(0.01)
                    steady = steady + 1 if turns.busy == 1 else 0
            answer = await reader.readexactly(1 << 20)
            assert answer.startswith(b"HTTP/1.1 503 ")

    asyncio.run(main())


@pytest.mark.parametrize("draining", [False, True])
def test_overload_is_told_before_the_body_comes_draining_or_not(draining: bool) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"

    async def main() -> bytes:
        async with asking(echo, head, full=True, draining=draining) as (reader, writer, _):
            async with asyncio.timeout(5):
                answer = await reader.readuntil(b"\r\n\r\n")
                if not draining:  # the connection goes on
                    writer.write(bytes(60_000) + LAST)
                return answer + await reader.read()

    answer = asyncio.run(main())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.count(b"\r\nRetry-After: 1\r\n") == 1
    assert answer.count(b"\r\nConnection: close\r\n") == 1
    assert answer.count(b"HTTP/1.1 200 ") == (0 if draining else 1)


def test_a_body_that_finds_no_room_while_draining_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> bytes:
        raise NoRoomError

    monkeypatch.setattr(Bodies, "take", full)
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    answer, _ = asyncio.run(asked(echo, post + LAST, draining=True))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.count(b"\r\nConnection: close\r\n") == answer.count(b"HTTP/1.1 ") == 1


def test_who_asks_for_a_head_alone_gets_no_body_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> bytes:
        raise NoRoomError

    monkeypatch.setattr(Bodies, "take", full)
    told: list[Answered] = []
    head = b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    answer, _ = asyncio.run(asked(echo, head + LAST, told=told))
    first, _, second = answer.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 503 ")
    assert second.startswith(b"HTTP/1.1 200 ")
    assert [(entry.method, entry.status, entry.bytes_out) for entry in told] == [("HEAD", 503, 0)]


def test_what_is_refused_while_a_view_works_for_it_is_told_once(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, go_on, told = threading.Event(), threading.Event(), list[Answered]()

    def written(*_: Any) -> bytes:
        at_work.set()
        assert go_on.wait(DEADLINE)
        return b""

    monkeypatch.setattr(Metrics, "written", written)
    monkeypatch.setattr(Bodies, "wanted", lambda *_: False)  # a GET's, as the service decides
    monkeypatch.setattr(Finish, "tell", lambda _, entry: told.append(entry))
    head = b"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def main() -> bytes:
        async with asking(app.wsgi_app, head, told=told) as (reader, writer, turns):
            try:
                assert await asyncio.to_thread(at_work.wait, DEADLINE)
                writer.write(b"zz\r\n")
                async with asyncio.timeout(5):
                    answer = await reader.read()
            finally:
                go_on.set()
            async with asyncio.timeout(5):
                while turns.busy:
                    await asyncio.sleep(0.01)
            return answer

    answer = asyncio.run(main())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert [(entry.method, entry.path, entry.status) for entry in told] == [
        ("GET", "/metrics", 400)
    ]


BAD = b"Bad Header\r\n"


@pytest.mark.parametrize(
    ("asks", "path"),
    [
        (b"GET /caf%C3%A9?key=secret HTTP/1.1\r\nHost: a\r\n" + BAD, "/caf\u00e9"),
        (b"GET /caf%C3%A9?key=secret HTTP/1.1\r\n", "/caf\u00e9"),
        (b"GET //a//b HTTP/1.1\r\nHost: a\r\n" + BAD, "/a//b"),
        (b"GET http://user:secret@h/x?q=1 HTTP/1.1\r\nHost: a\r\n" + BAD, "/x"),
        (b"GET http://user:secret@h/x/\x01 HTTP/1.1\r\nHost: a\r\n", None),
        (b"GET http://user:secret@h?q=/1 HTTP/1.1\r\nHost: a\r\n" + BAD, "/"),
        (b"CONNECT user:secret@h:443 HTTP/1.1\r\nHost: a\r\n", None),
        (b"CONNECT h:443 HTTP/1.1\r\nHost: a\r\n" + BAD, None),
    ],
)
def test_of_what_becomes_no_request_the_path_is_told_and_no_secret(
    asks: bytes, path: str | None
) -> None:
    told: list[Answered] = []
    answer, _ = asyncio.run(asked(echo, asks + b"\r\n", told=told))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert [entry.path for entry in told] == [path]


def test_who_hangs_up_is_told_with_the_path_that_was_asked_for() -> None:
    told: list[Answered] = []

    async def main() -> None:
        head = b"POST /caf%C3%A9 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
        async with asking(echo, head, told=told) as (_, writer, turns):
            async with asyncio.timeout(5):
                while not turns.busy:
                    await asyncio.sleep(0.01)
                writer.close()
                while turns.busy:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
    assert [(entry.path, entry.status) for entry in told] == [("/caf\u00e9", 499)]


def test_a_body_has_its_time_and_no_more_however_much_comes_at_once() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"

    async def main() -> float:
        start = time.monotonic()
        async with asking(echo, head, body=1) as (reader, writer, _):
            answered = asyncio.ensure_future(reader.readuntil(b"HTTP/1.1 408 "))
            while not answered.done():
                writer.write(bytes(100_000))
                await asyncio.sleep(0.4)
                assert time.monotonic() - start < DEADLINE
            await answered
        return time.monotonic() - start

    assert asyncio.run(main()) < 3
