"""Pictures that take long: decoded in threads, as many as may wait, as long as they are of use.

    decoding = Decoding(queue_images=64)
    images = decoding.run(call, count, deadline=time.monotonic() + 10, gone=gone)  # in its turn

``call`` is given a function that it calls before each picture: it raises where what follows is of
no use any more, because the deadline has passed or the client has hung up. One object serves the
event loop of one process; whoever has no loop has a thread of his own, in which ``call`` then runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from service.engine import DeadlineError, GoneError, OverloadedError
from service.waiting import may_wait, wait

Check = Callable[[], None]
"""Raises ``DeadlineError`` or ``GoneError``."""

T = TypeVar("T")


class Decoding:
    """The decoding of one process; ``images`` wait for a thread or are in one."""

    def __init__(self, queue_images: int) -> None:
        self.queue_images = queue_images
        self.images = 0

    def run(
        self,
        call: Callable[[Check], T],
        count: int,
        *,
        deadline: float,
        gone: Callable[[], bool],
    ) -> T:
        """What ``call`` returns or raises; it decodes ``count`` pictures.

        ``deadline`` is a moment of ``time.monotonic()``. Raises ``OverloadedError`` where no room
        is left (what is larger than all of it may wait alone), ``DeadlineError`` once the deadline
        has passed, whatever a thread is busy with by then, and ``GoneError``.
        """

        def check() -> None:
            if gone():
                raise GoneError
            if time.monotonic() > deadline:
                raise DeadlineError

        if not may_wait():
            return call(check)
        if self.images and self.images + count > self.queue_images:
            raise OverloadedError
        return wait(self._begun(call, check, count, deadline, gone))

    def _begun(
        self,
        call: Callable[[Check], T],
        check: Check,
        count: int,
        deadline: float,
        gone: Callable[[], bool],
    ) -> asyncio.Future[T]:
        """Have a thread run ``call``, and count its pictures until it has, answered or not."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def checked() -> T:
            check()  # it may have waited for long
            return call(check)

        def ended(done: asyncio.Future[T]) -> None:
            self.images -= count
            late.cancel()
            error = done.exception()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done.result())

        def give_up() -> None:
            if not answer.done():
                answer.set_exception(GoneError() if gone() else DeadlineError())

        self.images += count
        late = loop.call_later(max(0.0, deadline - time.monotonic()), give_up)
        loop.run_in_executor(None, checked).add_done_callback(ended)
        return answer
