"""How a request ends whose client does not keep up: told once, and at no cost to others."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from service.http.bodies import Bodies
from service.http.incoming import MAX_HEAD_BYTES
from service.http.serving import Serving
from service.http.waiting import Turns, wait
from service.journal import Answered
from tests.service.connections import GET, asked, asking, echo
from tests.service.test_server import DEADLINE


def test_a_client_that_asks_without_reading_is_not_answered_into_memory() -> None:
    answers = 0

    def much(environ: Any, start_response: Any) -> Any:
        nonlocal answers
        answers += 1
        start_response("200 OK", [])
        return [bytes(1 << 20)]

    async def main() -> None:
        async with asking(much, GET * 500) as (reader, _, _):
            await asyncio.sleep(0.5)
            assert 1 <= answers < 20
            for _ in range(100):  # whoever reads goes on being answered
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(1 << 20)
            assert answers >= 100

    asyncio.run(main())


def test_an_answer_that_is_not_taken_is_not_kept_for_ever() -> None:
    def much(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [bytes(32 << 20)]

    async def main() -> None:
        async with asking(much, GET + GET, idle=0.5) as (reader, _, turns):
            await asyncio.sleep(0.3)
            assert turns.busy == 1  # the second answer waits for the first to be taken
            await asyncio.sleep(1)
            assert turns.busy == 0
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(32 << 20)

    asyncio.run(main())


@pytest.mark.parametrize("sent", [0, 70_000])
def test_a_hang_up_within_a_body_is_told_once_as_one(sent: int) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"
    told: list[Answered] = []

    async def main() -> None:
        async with asking(echo, head + bytes(sent), told=told) as (_, writer, turns):
            await asyncio.sleep(0.2)
            assert turns.busy == 1
            writer.close()
            async with asyncio.timeout(DEADLINE):
                while turns.busy:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
    (entry,) = told
    assert (entry.method, entry.path, entry.status) == ("POST", "/a", 499)
    assert entry.bytes_in == sent
    assert 0.1 < entry.seconds < DEADLINE


def test_a_body_that_is_too_late_is_told_once_and_not_as_a_hang_up() -> None:
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"
    told: list[Answered] = []
    answer, turns = asyncio.run(asked(echo, head, body=0.3, told=told))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert turns.busy == 0
    assert [entry.status for entry in told] == [408]


NONSENSE = b"\x00nonsense\r\n\r\n"
BROKEN = b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nno chunk\r\n"
LARGE = b"GET /b HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (2 * MAX_HEAD_BYTES)


def statuses(answer: bytes) -> list[bytes]:
    """Of the answers that a connection has given, which each begin where the last one ends."""
    return re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)


@pytest.mark.parametrize(
    ("bad", "status", "path"),
    [(NONSENSE, 400, None), (BROKEN, 400, "/b"), (LARGE, 431, "/b")],
    ids=["no request", "a broken body", "a large head"],
)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_is_refused_is_answered_and_told_in_its_turn(
    bad: bytes, status: int, path: str | None, before: int
) -> None:
    told: list[Answered] = []
    reached: list[str] = []

    def listen(environ: Any, start_response: Any) -> Any:
        reached.append(environ["PATH_INFO"])
        return echo(environ, start_response)

    answer, turns = asyncio.run(asked(listen, before * GET + bad + GET, told=told))
    assert statuses(answer) == [b"200"] * before + [str(status).encode()]
    assert reached == ["/"] * before  # neither it nor what follows
    assert answer.count(b"\r\nConnection: close\r\n") == 1
    assert b"\r\nConnection: close\r\n" in answer.rpartition(b"HTTP/1.1 ")[2]
    assert [(entry.status, entry.path) for entry in told] == [(status, path)]
    assert turns.busy == 0


def test_a_head_that_is_too_late_behind_a_slow_answer_is_refused_in_its_turn() -> None:
    told: list[Answered] = []

    def slow(environ: Any, start_response: Any) -> Any:
        woken = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1.5, woken.set_result, None)
        wait(woken)
        return echo(environ, start_response)

    late = b"GET /late HTTP/1.1\r\nHost: a\r\n"
    answer, _ = asyncio.run(asked(slow, GET + late, head=0.3, told=told))
    assert statuses(answer) == [b"200", b"408"]
    (entry,) = told
    assert (entry.status, entry.path) == (408, "/late")
    assert 0.3 < entry.seconds < 1.5  # until it was refused, not until that was said


def test_a_refusal_waits_until_the_answers_before_it_are_taken() -> None:
    """And comes whole behind them."""

    def much(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [bytes(16 << 20)]

    async def main() -> None:
        async with asking(much, GET + NONSENSE) as (reader, _, turns):
            await asyncio.sleep(0.3)
            assert turns.busy == 1
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(16 << 20) == bytes(16 << 20)
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")

    asyncio.run(main())


def test_what_breaks_before_its_turn_begins_does_not_reach_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even one that would not have read its body."""
    monkeypatch.setattr(Bodies, "wanted", lambda *_: False)
    told: list[Answered] = []
    reached: list[bool] = []

    def listen(environ: Any, start_response: Any) -> Any:
        reached.append(True)
        return echo(environ, start_response)

    answer, turns = asyncio.run(asked(listen, BROKEN, told=told))
    assert statuses(answer) == [b"400"]
    assert [entry.status for entry in told] == [400]
    assert not reached
    assert turns.busy == 0


class Slow:
    """A connection whose client has taken nothing of 20 bytes for ``seconds``."""

    unsent = 20

    def __init__(self, ended: list[float], now: float, seconds: float) -> None:
        self.stuck = now - seconds
        self.abort = lambda: ended.append(seconds)

    def look(self, now: float) -> None:
        """Nothing has taken too long."""


def test_of_too_many_answers_that_nobody_takes_those_end_that_have_waited_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.http.serving.UNSENT_BYTES", 40)
    ended: list[float] = []

    async def main() -> None:
        nothing: Any = None
        times = DEADLINE, DEADLINE, DEADLINE
        serving = Serving(nothing, Turns(), *times, ended=lambda: None)
        now = asyncio.get_running_loop().time()
        slow: Any = {Slow(ended, now, seconds) for seconds in (30.0, 2.0, 0.5, 20.0, 10.0)}
        serving.connections |= slow
        serving.sweep()

    asyncio.run(main())
    assert ended == [30.0, 20.0, 10.0]  # 40 bytes may wait, and who has just taken some may too
