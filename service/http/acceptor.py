"""Which worker takes a new connection: the one that has the fewest.

A connection stays with the worker that accepted it. The kernel alone often splits eight connections
1 to 7 between two workers, and then one of two CPUs has nothing to do. The workers share a board
with their numbers of connections; a worker that has more than another leaves a new connection to it
for ``PATIENCE`` seconds, and takes it if it is still there. With many connections a difference of a
few does not matter, and no worker waits.

A process may have a limited number of files open, and each connection is one. At the limit, the
connections that have been idle longest are closed, so that a client with a request gets in.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import resource
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial

PATIENCE = 0.003
"""Seconds that a worker leaves a connection to the others: they have fewer, or it can take none."""

SHORTAGE = 0.1
"""Seconds until it tries again where there is no descriptor left for a connection."""

TOLERANCE = 8
"""A worker leaves connections to the others only where it has more of them than the one that has
fewest by over an eighth of its own."""

RESERVED = 128
"""So many of the files that a process may open are kept for others than connections: libraries,
metrics, a model that is downloaded."""

BATCH = 64
"""So many connections are taken at most before the loop does something else."""

_PLACE = struct.Struct("=i")
_NOBODY = (1 << 31) - 1


class Board:
    """A number for each of ``places``, in memory that processes share if made before they fork."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._memory = mmap.mmap(-1, places * _PLACE.size)
        for place in range(places):
            self.leave(place)

    def __getitem__(self, place: int) -> int:
        (number,) = _PLACE.unpack_from(self._memory, place * _PLACE.size)
        return int(number)

    def __setitem__(self, place: int, number: int) -> None:
        _PLACE.pack_into(self._memory, place * _PLACE.size, number)

    def leave(self, place: int) -> None:
        """Nobody is at this place."""
        self[place] = _NOBODY

    def least(self) -> int:
        """The least number of all."""
        return min(self[place] for place in range(self.places))


def most_connections() -> int:
    """As many as this process may have, and still open what files it needs."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _NOBODY - 1 if allowed < 0 else max(allowed - RESERVED, allowed // 2)


class Acceptor:
    """Takes connections of a listening, non-blocking socket for one worker, at its ``place``.

    It has at most ``most``; beyond, it has ``shed`` end some that are idle.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        board: Board,
        place: int,
        *,
        most: int = _NOBODY - 1,
        shed: Callable[[], None] = lambda: None,
    ) -> None:
        self._most = most
        self._shed = shed
        self._listener = listener
        self._protocol = protocol
        self._board = board
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._begun: set[asyncio.Task[object]] = set()
        board[place] = 0
        self._loop.add_reader(listener, self._ready)

    def ended(self) -> None:
        """One of the connections has ended."""
        if self._listener.fileno() >= 0:
            self._board[self._place] -= 1

    def close(self) -> None:
        """Take whoever has come already, and then nobody: the listener is closed."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        with suppress(OSError):
            for _ in range(BATCH):
                if not self._take():
                    break
        self._listener.close()
        self._board.leave(self._place)

    def _ready(self) -> None:
        for taken in range(BATCH):
            own = self._board[self._place]
            if own - own // TOLERANCE > self._board.least():
                self._wait(PATIENCE)
                return
            if taken and own >= self._most:
                return  # whoever still waits, if anybody does, is told of again
            try:
                self._make_room()
                if not self._take():
                    return
            except OSError:  # out of descriptors or memory: others may end in the meantime
                self._wait(PATIENCE)
                return

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, self._resume)

    def _make_room(self) -> None:
        """Raise ``OSError`` where there is none for another connection, and see to it."""
        if self._board[self._place] >= self._most:
            self._shed()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def _resume(self) -> None:
        try:
            self._make_room()
            self._take()
        except OSError:
            self._pause = self._loop.call_later(SHORTAGE, self._resume)
        else:
            self._loop.add_reader(self._listener, self._ready)

    def _take(self) -> bool:
        """Accept one connection, if one is there. Raises ``OSError`` where that cannot be."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        connection.setblocking(False)
        with suppress(OSError):  # of one that has been reset already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._board[self._place] += 1
        begun = self._loop.create_task(
            self._loop.connect_accepted_socket(self._protocol, connection)
        )
        self._begun.add(begun)
        begun.add_done_callback(partial(self._has_begun, connection))
        return True

    def _has_begun(self, connection: socket.socket, task: asyncio.Task[object]) -> None:
        self._begun.discard(task)
        if task.cancelled() or task.exception() is not None:
            connection.close()
            self.ended()
