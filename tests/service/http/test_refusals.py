"""What a connection is refused, when it is told so, and how often the log and the metrics are."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from flask import Flask

from service.finish import Finish
from service.http.bodies import Bodies, NoRoomError
from service.journal import Answered
from service.metrics import Metrics
from tests.service.connections import LAST, asked, asking, echo
from tests.service.test_server import DEADLINE


def test_thousands_of_pipelined_requests_are_refused_one_by_one() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    answer, _ = asyncio.run(asked(None, 4000 * post + LAST, full=True))
    assert answer.count(b"HTTP/1.1 503 ") == 4000


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


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """For any body."""

    def full(*_: Any) -> bytes:
        raise NoRoomError

    monkeypatch.setattr(Bodies, "take", full)


@pytest.mark.usefixtures("no_room")
def test_a_body_that_finds_no_room_while_draining_ends_its_connection() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    answer, _ = asyncio.run(asked(echo, post + LAST, draining=True))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.count(b"\r\nConnection: close\r\n") == answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.usefixtures("no_room")
def test_who_asks_for_a_head_alone_gets_no_body_where_there_is_no_room() -> None:
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
