"""Views that wait without a thread: each runs in a greenlet, which parks until it is woken.

    answer = await in_turn(call)         # in the event loop: call() runs, and may wait
    rows = wait(engine.submit(...))      # in such a call: parks it; the loop goes on meanwhile

Flask's views are plain functions. Run by threads, each request costs two hand-overs of the
interpreter's lock, and on a busy machine these cost more than the rest of Flask; run one after the
other by the event loop they cost none. What a view waits for is an ``asyncio.Future``, a ``Call``
of ``service.engine``, or anything that answers as they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Awaited(Protocol[T_co]):
    """What ``wait`` waits for; its callbacks run in the event loop's own thread."""

    def done(self) -> bool:
        """Whether ``result`` has something to say."""

    def add_done_callback(self, callback: Callable[[Any], Any], /) -> None:
        """Have ``callback`` called once, with this, when it is done."""

    def result(self) -> T_co:
        """The outcome, returned or raised."""


class _Turn(greenlet):
    """A call that may wait; ``loop`` is the greenlet of the event loop, to which it parks."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(call)
        self.loop = getcurrent()


async def in_turn(call: Callable[[], T]) -> T:
    """Run ``call`` until it ends, however often it waits; its result, or what it raises."""
    ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            result = call()
        except Exception as error:
            if not ended.done():  # else whoever awaited it has been cancelled
                ended.set_exception(error)
        else:
            if not ended.done():
                ended.set_result(result)

    _Turn(run).switch()
    return await ended


def may_wait() -> bool:
    """Whether the caller runs in its turn; under another WSGI server it has a thread instead."""
    return isinstance(getcurrent(), _Turn)


def wait(awaited: Awaited[T]) -> T:
    """Park the call in progress until ``awaited`` is done; its result, or what it raises."""
    turn = getcurrent()
    assert isinstance(turn, _Turn)  # noqa: S101 - whoever has a thread has nothing to park
    if not awaited.done():
        awaited.add_done_callback(turn.switch)
        turn.loop.switch()
    return awaited.result()


def in_thread(call: Callable[[], T]) -> T:
    """Run what takes long in another thread while the loop goes on; without a loop, here."""
    if not may_wait():
        return call()
    return wait(asyncio.get_running_loop().run_in_executor(None, call))
