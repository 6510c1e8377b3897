"""A connection alone: what order, how much, how long, and what is a body."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

import service.http.http1
import service.http.incoming
from service.http.incoming import MAX_HEAD_BYTES
from tests.service.connections import GET, LAST, asked, asking, echo
from tests.service.test_server import DEADLINE


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


@pytest.mark.parametrize("most", [30.0, 2.0])
def test_whoever_sends_on_after_a_refusal_has_time_and_not_for_ever(
    most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than one that has ended sending, who has ``LINGER_SECONDS``."""
    monkeypatch.setattr(service.http.http1, "LINGER_SECONDS", 1.0)
    monkeypatch.setattr(service.http.http1, "MOST_LINGER_SECONDS", most)

    async def main() -> float:
        start = time.monotonic()
        async with asking(echo, b"no HTTP\r\n\r\n") as (reader, writer, _):
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 400 ")
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < start + 5:
                    writer.write(bytes(1000))
                    await writer.drain()
                    await asyncio.sleep(0.05)
        return time.monotonic() - start

    seconds = asyncio.run(main())
    assert (seconds >= 5) == (most > 5)
    assert seconds >= 2


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


@pytest.mark.parametrize("behind", [b"", GET])
def test_a_connection_that_a_trailer_ends_ends_with_the_answer(behind: bytes) -> None:
    """The parser is deaf then: the next request on it, perhaps another's, would wait for ever."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"

    async def main() -> bytes:
        async with asyncio.timeout(5):
            return (await asked(echo, head + b"Connection: close\r\n\r\n" + behind))[0]

    answer = asyncio.run(main())
    assert answer.endswith(b"[POST / 5]")
    assert answer.count(b"\r\nConnection: close\r\n") == 1


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 20_000, 3 * MAX_HEAD_BYTES])
def test_a_head_is_too_large_in_one_piece_too(size: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * size + b"\r\n\r\n"
    answer, _ = asyncio.run(asked(echo, head))
    assert answer.startswith(b"HTTP/1.1 431 ")


def headers_of(size: int, count: int) -> bytes:
    """Lines of ``count`` headers that take ``size`` bytes."""
    each, rest = divmod(size, count)
    lines = [b"X: %b\r\n" % (b"a" * (each + (rest if n == 0 else 0) - 5)) for n in range(count)]
    return b"".join(lines)


SLICES = (1, 500, service.http.incoming.SLICE_BYTES)
"""In which bytes may come to be parsed: in small writes, or in one."""


@pytest.mark.parametrize("count", [1, 10, 5000])
@pytest.mark.parametrize(("beyond", "status"), [(0, b"200"), (1, b"431"), (4464, b"431")])
@pytest.mark.parametrize("trailer", [False, True])
def test_headers_have_their_limit_however_they_are_cut(
    count: int, beyond: int, status: bytes, trailer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, most = b"GET /b%b HTTP/1.1\r\n" % (b"a" * 60_000), MAX_HEAD_BYTES + beyond
    host = b"Host: a\r\nConnection: close\r\n"
    if trailer:
        head = (
            b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
        )
        sent = head + headers_of(most, count) + b"\r\n"
    else:
        sent = line + host + headers_of(most - len(host), count) + b"\r\n"
    for size in SLICES:
        monkeypatch.setattr(service.http.incoming, "SLICE_BYTES", size)
        for before in (b"", GET):
            answer, _ = asyncio.run(asked(echo, before + sent))
            assert answer.rpartition(b"HTTP/1.1 ")[2].startswith(status), size


@pytest.mark.parametrize(("length", "status"), [(65_535, b"200"), (65_536, b"414")])
def test_a_target_has_its_limit_however_it_is_cut(
    length: int, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % (b"a" * (length - 1))
    for size in SLICES:
        monkeypatch.setattr(service.http.incoming, "SLICE_BYTES", size)
        answer, _ = asyncio.run(asked(echo, sent))
        assert answer.startswith(b"HTTP/1.1 " + status), size


@pytest.mark.parametrize(
    ("what", "status"), [(b"GET /", b"414"), (b"GET / HTTP/1.1\r\nX: ", b"431")]
)
@pytest.mark.parametrize("size", SLICES)
def test_what_never_ends_is_refused_at_its_limit(
    what: bytes, status: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.http.incoming, "SLICE_BYTES", size)
    answer, _ = asyncio.run(asked(echo, what + b"a" * (80 << 10)))
    assert answer.startswith(b"HTTP/1.1 " + status)


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
