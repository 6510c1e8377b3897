"""Request bodies as they arrive: which are read, and how many bytes of them a process holds.

    bodies = Bodies(heads.want_body, max_bytes=10 << 20, queue_bytes=64 << 20)
    if bodies.wanted(environ):
        body = bodies.take(read)     # in its turn
        ...
        bodies.let_go(body)

A body is read up to one byte more than is allowed; one announced as too large is not read at all,
nor is a large one that would be refused anyway. A body that has arrived whole is always taken; one
that is still arriving only while all together are within ``queue_bytes``, as many large, slow
bodies can fill a server's memory. Beyond it, the upload that has stalled longest is refused, or
else the one that wants more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

SMALL = 64 << 10
"""A body of at most so many bytes is read without asking whether it is of use: that costs more."""

STILL_SECONDS = 1.0
"""A body must have brought nothing for so long before it gives way to another: whoever sends one
makes pauses."""


class Read(Protocol):
    """Reads one body, part by part."""

    def __call__(self) -> tuple[bytes, bool]:
        """Some of the body, and whether there is more. Raises ``HungUpError``."""

    def give_way(self) -> None:
        """Have whoever reads it get a ``NoRoomError``."""


class HungUpError(Exception):
    """The client has gone before its request had its answer.

    ``taken`` bytes of its body had come.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0


class NoRoomError(Exception):
    """The bodies of others leave no room for the rest of this one, of which ``taken`` had come."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0


class _Coming:
    """A body that is on its way, and when some of it came last."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.last = time.monotonic()


class Bodies:
    """The bodies that one process reads; ``held`` is the size of those that are in memory."""

    def __init__(
        self, of_use: Callable[[WSGIEnvironment], bool], *, max_bytes: int, queue_bytes: int
    ) -> None:
        self._of_use = of_use
        self._max_bytes = max_bytes
        self._queue_bytes = queue_bytes
        self.held = 0
        self._coming: list[_Coming] = []

    def wanted(self, environ: WSGIEnvironment) -> bool:
        """Whether a request has a body that is to be read."""
        length = environ.get("CONTENT_LENGTH", "")
        if length:
            size = int(length)
            if size <= SMALL and "HTTP_EXPECT" not in environ:
                return True
            if size > self._max_bytes + 1:
                return False
        elif "HTTP_TRANSFER_ENCODING" not in environ:
            return False
        return self._of_use(environ)

    def take(self, read: Read) -> bytes:
        """The body, or of one that is too large its beginning: a byte more than is allowed.

        It counts as held until it is let go. Raises ``HungUpError`` and ``NoRoomError``.
        """
        body, more = read()
        size = len(body)
        self.held += size
        if not more:
            return body
        parts, coming = [body], _Coming(read)
        self._coming.append(coming)
        try:
            while more and size <= self._max_bytes:
                if self._queue_bytes < self.held != size:  # alone, a body may be larger than that
                    self._make_room(coming)
                body, more = read()
                coming.last = time.monotonic()
                parts.append(body)
                size += len(body)
                self.held += len(body)
        except (HungUpError, NoRoomError) as error:
            self.held -= size
            error.taken = size
            raise
        except BaseException:
            self.held -= size
            raise
        finally:
            if coming in self._coming:
                self._coming.remove(coming)
        whole = b"".join(parts)[: self._max_bytes + 1]
        self.held -= size - len(whole)
        return whole

    def _make_room(self, wanting: _Coming) -> None:
        """Have another body give way. Raises ``NoRoomError`` where all are on the move."""
        before = time.monotonic() - STILL_SECONDS
        still = [each for each in self._coming if each is not wanting and each.last < before]
        if not still:
            raise NoRoomError
        stillest = min(still, key=attrgetter("last"))
        self._coming.remove(stillest)
        stillest.read.give_way()

    def let_go(self, body: bytes) -> None:
        """What ``take`` has returned is no longer needed."""
        self.held -= len(body)
