"""Large pictures are decoded in threads: so many at most, in time, and for somebody who waits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from service.decoding import Check, Decoding
from service.engine import DeadlineError, GoneError, OverloadedError
from tests.service.http.test_waiting import in_turn

SOON = 5.0

T = TypeVar("T")


class Held:
    """Pictures for ``Decoding.run``, the first of which stays in its thread until ``free`` is set.

    Each that is decoded is put down in ``order``.
    """

    def __init__(self, name: str = "decoded", count: int = 1, order: list[str] | None = None):
        self.begun, self.free = threading.Event(), threading.Event()
        self.name, self.count = name, count
        self.order = [] if order is None else order

    def __call__(self, check: Check) -> Iterator[str]:
        self.begun.set()
        assert self.free.wait(SOON)
        for _ in range(self.count):
            check()
            self.order.append(self.name)
            yield self.name


def one(value: T) -> Callable[[Check], Iterator[T]]:
    return lambda check: iter([value])


def does(act: Callable[[], Any]) -> Callable[[Check], Iterator[Any]]:
    """A picture whose decoding is ``act``."""

    def each(check: Check) -> Iterator[Any]:
        yield act()

    return each


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The loop's calls in threads go to one, as one after the other is easier to tell."""
    with ThreadPoolExecutor(1) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        yield


def begin(
    decoding: Decoding,
    each: Callable[[Check], Iterator[Any]],
    count: int = 1,
    *,
    seconds: float = SOON,
    gone: Callable[[], bool] = lambda: False,
) -> asyncio.Future[list[Any]]:
    deadline = time.monotonic() + seconds
    run = in_turn(lambda: decoding.run(each, count, deadline=deadline, gone=gone))
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
        told: list[int] = []
        decoding, held = Decoding(4, 9, told.append), Held(count=2)
        first = begin(decoding, held, 2)
        second = begin(decoding, lambda _: iter(["second"] * 2), 2)
        await until(held.begun.is_set)
        assert decoding.images == 4
        with pytest.raises(OverloadedError):
            await begin(decoding, one("third"))
        held.free.set()
        assert [await first, await second] == [["decoded"] * 2, ["second"] * 2]
        await until(lambda: decoding.images == 0)
        assert told == [2, 4, 2, 0]
        assert await begin(decoding, lambda _: iter(range(99)), 99) == list(range(99))
        assert set(told[4:]) == {9, 0}

    in_loop(main)


def test_a_large_request_leaves_room_and_its_rest_is_behind_whoever_came_meanwhile() -> None:
    async def main() -> None:
        order: list[str] = []
        decoding = Decoding(64, 16)
        large, other = Held("large", 64, order), Held("other", 20, order)
        other.free.set()
        first = begin(decoding, large, 64)
        await until(large.begun.is_set)
        assert decoding.images == 16
        second = begin(decoding, other, 20)
        small = [begin(decoding, does(lambda: order.append("small"))) for _ in range(32)]
        await until(lambda: decoding.images == 64)
        with pytest.raises(OverloadedError):
            await begin(decoding, one("too many"))
        large.free.set()
        assert await first == ["large"] * 64
        await asyncio.gather(second, *small)
        await until(lambda: decoding.images == 0)
        turns = [(name, len(list(turn))) for name, turn in itertools.groupby(order)]
        assert turns == [
            *(("large", 16), ("other", 16), ("small", 32)),
            *(("large", 16), ("other", 4), ("large", 32)),
        ]

    in_loop(main)


def test_a_large_request_is_let_in_where_there_is_room_for_its_first_pictures() -> None:
    async def main() -> None:
        decoding, held = Decoding(4, 2), Held(count=2)
        first = begin(decoding, held, 2)
        await until(held.begun.is_set)
        large = begin(decoding, lambda _: iter(range(9)), 9)
        await until(lambda: decoding.images == 4)
        held.free.set()
        assert (await first, await large) == (["decoded"] * 2, list(range(9)))

    in_loop(main)


def test_what_is_answered_is_not_kept_until_its_deadline() -> None:
    class Pixels:
        """What ``weakref`` can point to."""

    async def main() -> None:
        (pixels,) = await begin(Decoding(1, 1), does(Pixels), seconds=60)
        kept = weakref.ref(pixels)
        del pixels
        await until(lambda: kept() is None)

    in_loop(main)


@pytest.mark.parametrize("share", [1, 2, 3, 7, 8])
def test_what_is_decoded_in_turns_comes_back_whole_and_in_order(share: int) -> None:
    async def main() -> None:
        decoding = Decoding(8, share)
        found = await asyncio.gather(
            *(begin(decoding, lambda _, n=n: iter(range(n)), n) for n in (1, 2, 3))
        )
        assert found == [list(range(n)) for n in (1, 2, 3)]
        assert await begin(decoding, lambda _: iter(range(23)), 23) == list(range(23))

        def fails(check: Check) -> Iterator[int]:
            yield from range(9)
            raise KeyError("broken")

        with pytest.raises(KeyError, match="broken"):
            await begin(decoding, fails, 10)
        await until(lambda: decoding.images == 0)

    in_loop(main)


def test_a_request_that_is_late_between_its_turns_has_no_other() -> None:
    async def main() -> None:
        decoding, held, blocker = Decoding(99, 2), Held(count=9), Held()
        with pytest.raises(DeadlineError):
            await begin(decoding, held, 9, seconds=0.1)
        last = begin(decoding, blocker)
        held.free.set()  # too late
        await until(blocker.begun.is_set)
        await until(lambda: decoding.images == 1)
        assert held.order == []
        blocker.free.set()
        assert await last == ["decoded"]

    in_loop(main)


def test_what_waits_too_long_is_late_at_its_deadline_and_never_begun() -> None:
    async def main() -> None:
        decoding, held, begun = Decoding(9, 9), Held(), list[str]()
        first = begin(decoding, held)
        await until(held.begun.is_set)
        since = time.monotonic()
        with pytest.raises(DeadlineError):
            await begin(decoding, does(lambda: begun.append("late")), seconds=0.1)
        assert time.monotonic() - since < 1  # while the thread is still busy
        held.free.set()
        assert await first == ["decoded"]
        await until(lambda: decoding.images == 0)
        assert begun == []

    in_loop(main)


def test_what_is_late_in_its_thread_counts_until_that_is_free() -> None:
    async def main() -> None:
        decoding, held = Decoding(1, 1), Held()
        with pytest.raises(DeadlineError):
            await begin(decoding, held, seconds=0.1)
        assert decoding.images == 1
        with pytest.raises(OverloadedError):
            await begin(decoding, one(None))
        held.free.set()
        await until(lambda: decoding.images == 0)

    in_loop(main)


def test_nothing_is_begun_for_who_has_hung_up_nor_goes_on() -> None:
    async def main() -> None:
        decoding, held, begun, left = Decoding(9, 9), Held(), list[str](), list[bool]()
        first = begin(decoding, held, gone=lambda: bool(left))
        second = begin(decoding, does(lambda: begun.append("second")), gone=lambda: bool(left))
        third = begin(decoding, one("third"))
        await until(held.begun.is_set)
        left.append(True)
        held.free.set()
        for each in (first, second):
            with pytest.raises(GoneError):
                await each
        assert await third == ["third"]
        assert begun == []

    in_loop(main)


def test_an_error_comes_back_and_makes_room() -> None:
    async def main() -> None:
        decoding = Decoding(1, 1)

        def fail() -> None:
            raise KeyError("broken")

        for _ in range(2):
            with pytest.raises(KeyError, match="broken"):
                await begin(decoding, does(fail))
            await until(lambda: decoding.images == 0)

    in_loop(main)


def test_without_a_loop_the_deadline_holds_too() -> None:
    decoding = Decoding(1, 1)

    def each(check: Check) -> Iterator[str]:
        check()
        yield "here"

    found = decoding.run(each, 5, deadline=time.monotonic() + 9, gone=bool)
    assert found == ["here"]
    with pytest.raises(DeadlineError):
        decoding.run(each, 5, deadline=time.monotonic() - 1, gone=bool)
