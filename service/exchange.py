"""A request on its way in, between the connection that brings it and the view that reads it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Exchange:
    """One request, and whether it has been answered.

    ``parts`` is what has come of its body and has not been read, ``unread`` its size. ``rest`` is
    how much is still to come; infinite where that is not said.
    """

    __slots__ = (
        *("answered", "complete", "environ", "expects", "keep_alive"),
        *("parts", "rest", "unread", "unwanted", "waiter"),
    )

    def __init__(
        self, environ: WSGIEnvironment, *, keep_alive: bool, expects: bool, length: float
    ) -> None:
        self.environ = environ
        self.keep_alive = keep_alive
        self.expects = expects  # to be told to go on before it sends its body
        self.parts: list[bytes] = []
        self.unread = 0
        self.rest = length
        self.complete = self.answered = False
        self.unwanted = False  # what is still to come of its body
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let whoever waits for more of the body have a look."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
