"""A request on its way in, between the connection that brings it and the view that reads it."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Refusal(NamedTuple):
    """Why what has come for ``seconds`` is no request, or not one to its end."""

    status: HTTPStatus
    detail: str
    seconds: float


class Exchange:
    """One request, and whether it has been answered.

    ``parts`` is what has come of its body and has not been read, ``unread`` its size. ``rest`` is
    how much is still to come; infinite where that is not said. One with a ``refusal`` is the last
    of its connection, and no application's to answer; ``environ`` is what is known of it.
    """

    __slots__ = (
        *("answered", "complete", "environ", "expects", "keep_alive"),
        *("parts", "refusal", "rest", "unread", "unwanted", "waiter"),
    )

    def __init__(
        self,
        environ: WSGIEnvironment,
        *,
        keep_alive: bool = False,
        expects: bool = False,
        length: float = 0,
        refusal: Refusal | None = None,
    ) -> None:
        self.environ = environ
        self.refusal = refusal
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
