"""Decodes large pictures in threads: a limited number, and only while they are needed.

    decoding = Decoding(queue_images=64, share=16)
    images = decoding.run(each, count, deadline=time.monotonic() + 10, gone=gone)  # in its turn

``each`` is given a function to call before each picture; it raises if the result is no longer
needed, because the deadline has passed or the client has hung up. One object serves the event loop
of one process; without an event loop, ``each`` runs in the caller's thread.

At most ``share`` pictures of a request wait for a thread or are in one; the rest of a larger
request follow as these are decoded, behind requests that came in the meantime, as in the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from service.engine import DeadlineError, GoneError, OverloadedError
from service.http.waiting import may_wait, wait

Check = Callable[[], None]
"""Raises ``DeadlineError`` or ``GoneError``."""

T = TypeVar("T")


def _untold(images: int) -> None:
    pass


class Decoding:
    """The decoding of one process; ``images`` wait for a thread or are in one.

    ``tell`` is told of every change of that number.
    """

    def __init__(
        self, queue_images: int, share: int, tell: Callable[[int], None] = _untold
    ) -> None:
        self.queue_images = queue_images
        self.share = share
        self.images = 0
        self._tell = tell

    def run(
        self,
        each: Callable[[Check], Iterator[T]],
        count: int,
        *,
        deadline: float,
        gone: Callable[[], bool],
    ) -> list[T]:
        """All that ``each`` yields: ``count`` pictures, perhaps not all from the same thread.

        ``deadline`` is a moment of ``time.monotonic()``. Raises ``OverloadedError`` where no room
        is left for what may wait of them at first (where nothing waits, anything may),
        ``DeadlineError`` once the deadline has passed, whatever a thread is busy with by then,
        ``GoneError``, and what ``each`` raises.
        """

        def check() -> None:
            if gone():
                raise GoneError
            if time.monotonic() > deadline:
                raise DeadlineError

        if not may_wait():
            return list(each(check))
        if self.images and self.images + min(count, self.share) > self.queue_images:
            raise OverloadedError
        job = _Job(self, each(check), check, count)
        job.begin(deadline, gone)
        return wait(job.answer)

    def change(self, by: int) -> None:
        """So many more pictures wait, or fewer."""
        self.images += by
        self._tell(self.images)


class _Job(Generic[T]):
    """The pictures of one request, ``decoded`` so far; ``answer`` is when all are, or an error."""

    def __init__(self, decoding: Decoding, rest: Iterator[T], check: Check, count: int) -> None:
        self.answer: asyncio.Future[list[T]] = asyncio.get_running_loop().create_future()
        self.decoded: list[T] = []
        self._decoding = decoding
        self._rest = rest
        self._check = check
        self._count = count

    def begin(self, deadline: float, gone: Callable[[], bool]) -> None:
        """Have the first of them wait for a thread, and all for no longer than they may."""

        def give_up() -> None:
            if not self.answer.done():
                self.answer.set_exception(GoneError() if gone() else DeadlineError())

        seconds = max(0.0, deadline - time.monotonic())
        self._late = asyncio.get_running_loop().call_later(seconds, give_up)
        size = self._size()
        self._decoding.change(size)
        self._submit(size)

    def _size(self) -> int:
        """How many of those that are left may wait at a time."""
        return min(self._count - len(self.decoded), self._decoding.share)

    def _submit(self, size: int) -> None:
        future = asyncio.get_running_loop().run_in_executor(None, self._decode, size)
        future.add_done_callback(partial(self._ended, size))

    def _decode(self, size: int) -> bool:
        """In a thread: decode the next ones; whether there were as many."""
        self._check()  # they may have waited for long
        before = len(self.decoded)
        self.decoded.extend(islice(self._rest, size))
        return len(self.decoded) - before == size

    def _ended(self, size: int, done: asyncio.Future[bool]) -> None:
        """Have the next ones wait, or answer; what a thread was busy with counted until now."""
        error, answer = done.exception(), self.answer
        more = self._size() if error is None and done.result() and not answer.done() else 0
        self._decoding.change(more - size)
        if more:
            self._submit(more)
            return
        self._late.cancel()
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(self.decoded)
