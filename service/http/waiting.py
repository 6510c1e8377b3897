"""Views that wait without a thread: each runs in a greenlet, which parks until it is woken.

    turns.begin(call)                    # in the event loop: call() runs, and may wait
    rows = wait(engine.submit(...))      # in such a call: parks it; the loop goes on meanwhile

Flask's views are plain functions. Run in threads, each request costs two hand-overs of the
interpreter's lock, and on a busy machine these cost more than the rest of Flask; run one after
another in the event loop, they cost none. A view may wait for an ``asyncio.Future``, a ``Call`` of
``service.engine``, or anything with the same methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any, Protocol, TypeVar

from greenlet import getcurrent, greenlet

MOST_IDLE = 64
"""Greenlets that are kept for the calls to come."""

_WRITING = ThreadPoolExecutor(1, "writing")
"""Its thread starts with the first call, so not before the process has forked.

One thread, and no other's: pages and metrics wait for each other, and not behind pictures that are
decoded, which may take many seconds.
"""

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


class Turns:
    """The calls of one thread's event loop that have begun and not ended; ``busy`` is their number.

    A greenlet serves one call after another: every new one has a stack, for which Python asks the
    system for memory and gives it back, and that costs more than what runs on it at first.
    """

    def __init__(self) -> None:
        self.busy = 0
        self.idle: list[_Turn] = []

    def begin(self, call: Callable[[], None]) -> None:
        """In the loop: run ``call``, which raises nothing, until it ends or waits."""
        turn = self.idle.pop() if self.idle else _Turn(self)
        turn.call = call
        turn.gr_context = Context()
        self.busy += 1
        turn.switch()


class _Turn(greenlet):
    """A greenlet for calls that may wait; ``loop`` is the event loop's, to which it parks."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self.call: Callable[[], None]
        self.loop = getcurrent()
        self._turns = turns

    def run(self) -> None:
        """Serve one call after another, until too many do nothing."""
        turns = self._turns
        while True:
            try:
                self.call()
            finally:
                del self.call
                turns.busy -= 1
            if len(turns.idle) >= MOST_IDLE:
                return
            turns.idle.append(self)
            self.loop.switch()


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
    """Run what takes long in another thread while the loop goes on; without a loop, here.

    Of such calls one runs at a time. Pictures have threads of their own (``service.decoding``).
    """
    if not may_wait():
        return call()
    return wait(asyncio.get_running_loop().run_in_executor(_WRITING, call))
