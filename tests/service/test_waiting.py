"""Plain functions that wait in an event loop: in turns, without a thread, each with its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from service.waiting import in_thread, in_turn, may_wait, wait

number: contextvars.ContextVar[int] = contextvars.ContextVar("number")


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


def test_a_call_whose_awaiter_was_cancelled_ends_without_a_word() -> None:
    ended = []

    async def main() -> None:
        gate = asyncio.get_running_loop().create_future()
        turning = asyncio.ensure_future(in_turn(lambda: ended.append(wait(gate))))
        await asyncio.sleep(0)
        turning.cancel()
        await asyncio.sleep(0)
        gate.set_result(1)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert ended == [1]
