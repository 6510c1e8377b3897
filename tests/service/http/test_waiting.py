"""Plain functions that wait in an event loop: in turns, without a thread, each with its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from greenlet import getcurrent

from service.http.waiting import MOST_IDLE, Turns, in_thread, may_wait, wait
from tests.service.test_server import DEADLINE

T = TypeVar("T")

number: contextvars.ContextVar[int] = contextvars.ContextVar("number")


async def in_turn(call: Callable[[], T], turns: Turns | None = None) -> T:
    """What ``call`` returns or raises in a turn of its own."""
    ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            result = call()
        except Exception as error:
            ended.set_exception(error)
        else:
            ended.set_result(result)

    (turns or Turns()).begin(run)
    return await ended


def test_calls_that_wait_take_turns_in_one_thread() -> None:
    seen: list[tuple[str, int]] = []

    async def main() -> list[int]:
        gates = [asyncio.get_running_loop().create_future() for _ in range(3)]

        def call(index: int) -> int:
            assert may_wait()
            number.set(index)
            seen.append(("begun", index))
            got: int = wait(gates[index])
            seen.append(("ended", index))
            assert threading.current_thread() is threading.main_thread()
            assert number.get() == index  # context variables are each call's own
            return got

        turns = [asyncio.ensure_future(in_turn(lambda i=i: call(i))) for i in range(3)]  # type: ignore[misc]
        await asyncio.sleep(0)
        assert seen == [("begun", 0), ("begun", 1), ("begun", 2)]
        for index in (2, 0, 1):
            gates[index].set_result(10 * index)
            await asyncio.sleep(0.001)
        return await asyncio.gather(*turns)

    assert asyncio.run(main()) == [0, 10, 20]
    assert seen[3:] == [("ended", 2), ("ended", 0), ("ended", 1)]


def test_what_fails_fails_the_call_that_waits_for_it() -> None:
    async def main() -> None:
        gate = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, gate.set_exception, KeyError("broken"))

        def call() -> None:
            with pytest.raises(KeyError, match="broken"):
                wait(gate)
            raise ValueError("and so is this")

        with pytest.raises(ValueError, match="and so is this"):
            await in_turn(call)

    asyncio.run(main())


def test_what_is_done_already_is_not_waited_for() -> None:
    async def main() -> int:
        gate = asyncio.get_running_loop().create_future()
        gate.set_result(7)
        return await in_turn(lambda: wait(gate))

    assert asyncio.run(main()) == 7


def test_what_takes_long_runs_in_a_thread_while_the_loop_goes_on() -> None:
    async def main() -> int:
        turning = asyncio.ensure_future(in_turn(lambda: in_thread(lambda: time.sleep(0.2))))
        turns = 0
        while not turning.done():
            turns += 1
            await asyncio.sleep(0.01)
        return turns

    assert asyncio.run(main()) > 5
    assert not may_wait()
    assert in_thread(threading.current_thread) is threading.current_thread()


def test_what_is_written_does_not_wait_behind_what_is_decoded() -> None:
    """Pictures have the loop's own executor."""
    go_on = threading.Event()

    async def main() -> None:
        with ThreadPoolExecutor(1) as decoding:
            asyncio.get_running_loop().set_default_executor(decoding)
            decoded = asyncio.get_running_loop().run_in_executor(None, go_on.wait, DEADLINE)
            written = in_turn(lambda: in_thread(threading.current_thread))
            assert await asyncio.wait_for(written, DEADLINE / 2) is not threading.main_thread()
            go_on.set()
            assert await decoded

    asyncio.run(main())


def test_greenlets_serve_again_and_remember_nothing() -> None:
    turns = Turns()
    seen = set()

    async def main() -> None:
        gate = asyncio.get_running_loop().create_future()

        def call() -> None:
            seen.add(getcurrent())
            assert number.get(None) is None
            number.set(1)
            wait(gate)

        for _ in range(3):
            gate = asyncio.get_running_loop().create_future()
            calls = [asyncio.ensure_future(in_turn(call, turns)) for _ in range(2 * MOST_IDLE)]
            await asyncio.sleep(0)
            assert turns.busy == 2 * MOST_IDLE
            gate.set_result(None)
            await asyncio.gather(*calls)
            assert (turns.busy, len(turns.idle)) == (0, MOST_IDLE)

    asyncio.run(main())
    assert len(seen) == 2 * MOST_IDLE + 2 * MOST_IDLE


def test_a_turn_that_is_torn_down_is_not_counted_as_busy() -> None:
    turns = Turns()

    def call() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turns.begin(call)
    assert (turns.busy, turns.idle) == (0, [])
