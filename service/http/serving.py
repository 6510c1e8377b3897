"""What the connections of one worker share, and their common limits.

Closes connections that take too long, that do not take too many of their answers, or that are idle
when there are too many.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol

from service.http.waiting import Turns
from service.http.wsgi import OnLoop

SWEEP_SECONDS = 0.25
"""How often every connection is looked at for what has taken too long."""

UNSENT_BYTES = 64 << 20
"""So many bytes of answers a worker holds for clients that do not take them. Beyond, connections
are aborted, first those whose client has taken nothing for longest."""

STUCK_SECONDS = 1.0
"""A client must have taken nothing for so long before its connection is aborted for that."""

SHED = 16
"""So many idle connections are aborted at a time where a worker has all that it may have."""

IDLE_SECONDS = 1.0
"""A connection must have been idle for so long before it is: on one that is idle for less, a
request may have come that was not read yet."""


class Served(Protocol):
    """A connection, as all others see it."""

    unsent: int
    """Bytes that are written and not sent."""

    stuck: float
    """Since when they are so many, of the loop's time."""

    @property
    def idle_since(self) -> float:
        """Since when there is nothing to do on it, of the loop's time; infinite where there is."""

    def look(self, now: float) -> None:
        """End what has taken too long by ``now``, of the loop's time."""

    def abort(self) -> None:
        """End it now, whatever is still to be sent."""

    def shutdown(self) -> None:
        """Answer what has come, and end."""


@dataclass(eq=False)
class Serving:
    """What the connections of one worker share.

    ``ended`` is called when one of them ends. ``date`` is a header line, for whoever owns the clock
    to renew.
    """

    application: OnLoop
    turns: Turns
    head_seconds: float
    body_seconds: float
    idle_seconds: float
    ended: Callable[[], None]
    date: bytes = b""
    connections: set[Served] = field(default_factory=set)

    def sweep(self) -> None:
        """End what has taken too long, again and again; in the event loop."""
        loop = asyncio.get_running_loop()
        loop.call_later(SWEEP_SECONDS, self.sweep)
        now = loop.time()
        for connection in list(self.connections):
            connection.look(now)
        self._cut(now)

    def _cut(self, now: float) -> None:
        """Let go of the answers that nobody takes, where all together they are too many."""
        unsent = sum(connection.unsent for connection in self.connections)
        if unsent <= UNSENT_BYTES:
            return
        waiting = [each for each in self.connections if each.unsent]
        for connection in sorted(waiting, key=attrgetter("stuck")):
            if unsent <= UNSENT_BYTES or now - connection.stuck < STUCK_SECONDS:
                return
            unsent -= connection.unsent
            connection.abort()

    def shed(self) -> None:
        """End the few connections that have been idle for the longest time."""
        latest = asyncio.get_running_loop().time() - IDLE_SECONDS
        idle = [each for each in self.connections if each.idle_since <= latest]
        for connection in heapq.nsmallest(SHED, idle, key=attrgetter("idle_since")):
            connection.abort()
