"""Large pictures are decoded in threads: so many at most, in time, and for somebody who waits."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.decoding import Check, Decoding
from service.engine import DeadlineError, GoneError, OverloadedError
from tests.service.test_waiting import in_turn

SOON = 5.0


class Held:
    """A call for ``Decoding.run`` that stays in its thread until ``free`` is set."""

    def __init__(self) -> None:
        self.begun, self.free = threading.Event(), threading.Event()

    def __call__(self, check: Check) -> str:
        self.begun.set()
        assert self.free.wait(SOON)
        check()
        return "decoded"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The loop's calls in threads go to one, as one after the other is easier to tell."""
    with ThreadPoolExecutor(1) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        yield


def begin(
    decoding: Decoding,
    call: Callable[[Check], Any],
    count: int = 1,
    *,
    seconds: float = SOON,
    gone: Callable[[], bool] = lambda: False,
) -> asyncio.Future[Any]:
    deadline = time.monotonic() + seconds
    run = in_turn(lambda: decoding.run(call, count, deadline=deadline, gone=gone))
    return asyncio.ensure_future(run)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.001)


def in_loop(main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        with one_thread():
            await main()

    asyncio.run(run())


def test_pictures_that_wait_or_are_decoded_are_bounded() -> None:
    async def main() -> None:
        decoding, held = Decoding(4), Held()
        first = begin(decoding, held, 2)
        second = begin(decoding, lambda _: "second", 2)
        await until(held.begun.is_set)
        assert decoding.images == 4
        with pytest.raises(OverloadedError):
            await begin(decoding, lambda _: "third")
        held.free.set()
        assert [await first, await second] == ["decoded", "second"]
        await until(lambda: decoding.images == 0)
        assert await begin(decoding, lambda _: "alone", 99) == "alone"

    in_loop(main)


def test_what_waits_too_long_is_late_at_its_deadline_and_never_begun() -> None:
    async def main() -> None:
        decoding, held, begun = Decoding(9), Held(), list[str]()
        first = begin(decoding, held)
        await until(held.begun.is_set)
        since = time.monotonic()
        with pytest.raises(DeadlineError):
            await begin(decoding, lambda _: begun.append("late"), seconds=0.1)
        assert time.monotonic() - since < 1  # while the thread is still busy
        held.free.set()
        assert await first == "decoded"
        await until(lambda: decoding.images == 0)
        assert begun == []

    in_loop(main)


def test_what_is_late_in_its_thread_counts_until_that_is_free() -> None:
    async def main() -> None:
        decoding, held = Decoding(1), Held()
        with pytest.raises(DeadlineError):
            await begin(decoding, held, seconds=0.1)
        assert decoding.images == 1
        with pytest.raises(OverloadedError):
            await begin(decoding, lambda _: None)
        held.free.set()
        await until(lambda: decoding.images == 0)

    in_loop(main)


def test_nothing_is_begun_for_who_has_hung_up_nor_goes_on() -> None:
    async def main() -> None:
        decoding, held, begun, left = Decoding(9), Held(), list[str](), list[bool]()
        first = begin(decoding, held, gone=lambda: bool(left))
        second = begin(decoding, lambda _: begun.append("second"), gone=lambda: bool(left))
        third = begin(decoding, lambda _: "third")
        await until(held.begun.is_set)
        left.append(True)
        held.free.set()
        for each in (first, second):
            with pytest.raises(GoneError):
                await each
        assert await third == "third"
        assert begun == []

    in_loop(main)


def test_an_error_comes_back_and_makes_room() -> None:
    async def main() -> None:
        decoding = Decoding(1)

        def fail(check: Check) -> None:
            raise KeyError("broken")

        for _ in range(2):
            with pytest.raises(KeyError, match="broken"):
                await begin(decoding, fail)
            await until(lambda: decoding.images == 0)

    in_loop(main)


def test_without_a_loop_the_deadline_holds_too() -> None:
    decoding = Decoding(1)
    run = decoding.run(lambda check: check() or "here", 5, deadline=time.monotonic() + 9, gone=bool)
    assert run == "here"
    with pytest.raises(DeadlineError):
        decoding.run(lambda check: check(), 5, deadline=time.monotonic() - 1, gone=bool)
