"""One worker process: an event loop that reads, answers and, on a CPU, computes.

gunicorn starts it, replaces it when it dies or hangs, and ends it with SIGTERM. Then it drains: for
``drain_seconds`` it reports not ready but still answers, closing each connection with its next
answer; then it takes no more connections, finishes what it has accepted, and ends.

If its GPU has failed (``service.gpu``) it ends by itself, and gunicorn replaces it. It does not
drain then: new connections wait for the next worker, which can compute.
"""

from __future__ import annotations

import asyncio
import gc
import logging.config
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import numpy as np
import uvloop
from gunicorn.workers.base import Worker

from service import logs
from service.gate import gate_of
from service.heads import Heads
from service.http.acceptor import Acceptor, Board, most_connections
from service.http.bodies import Bodies
from service.http.http1 import Connection
from service.http.serving import Serving
from service.http.waiting import Turns
from service.http.wsgi import OnLoop
from service.models.model import IMAGE_SHAPE
from service.models.runtime import CPU
from service.state import State, state_of

DECODE_THREADS = 2
"""Threads that decode large pictures; meanwhile the loop goes on, as decoders need no Python."""

LAST_TURNS = 5
"""A worker that ends lets its loop turn so many times to read what connections have brought; those
that are idle then are closed."""

FLUSH_SECONDS = 5
"""A worker that ends gives whoever reads its log, and has stopped reading, so long."""

LEAST_SECONDS = 10.0
"""A worker whose GPU has failed serves so long, if only refusals, before it ends: gunicorn replaces
one that has ended without a pause, and a GPU that fails over and over would keep a CPU busy with
loading models."""

HEARTBEAT_SECONDS = 1.0
"""How often a worker tells the supervisor that its loop turns."""

PARENTS = tuple(
    getattr(signal, f"SIG{name}") for name in ("HUP", "INT", "QUIT", "TTIN", "TTOU", "USR1", "USR2")
)
"""Signals that the parent alone has a use for: by default each would end or stop the worker."""

KEEP_ALIVE_SECONDS = 75
"""An idle connection is closed after so long: longer than the 60 seconds after which most load
balancers let go of it, so that none sends on a connection that is being closed."""


class LoopWorker(Worker):
    """gunicorn's worker; ``board`` and ``place`` are set before the fork (``service.server``)."""

    board: Board
    place: int

    def init_process(self) -> None:
        """Make the loop before gunicorn installs the handlers of signals."""
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_default_executor(ThreadPoolExecutor(DECODE_THREADS, "decode"))
        self._stop = asyncio.Event()
        super().init_process()

    def init_signals(self) -> None:
        """SIGTERM drains; what a terminal or a group's owner sends to all is the parent's."""
        for each in {*self.SIGNALS, *PARENTS}:
            signal.signal(each, signal.SIG_IGN if each in PARENTS else signal.SIG_DFL)
        self.loop.add_signal_handler(signal.SIGTERM, self._stop.set)

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent is gone, or the GPU."""
        state = state_of(self.wsgi)
        _warm_up(state)
        # What is there now stays: it need not be looked at again and again for garbage, of which a
        # request leaves next to none.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        lines = logs.defer()
        try:
            self.loop.run_until_complete(self._serve())
        finally:
            state.journal.flush()
            last = threading.Thread(target=lines.flush, daemon=True)
            last.start()
            last.join(FLUSH_SECONDS)
            # Where nothing more can be said Python would wait for a lock; where the GPU has failed,
            # for runs that may hang, and what CUDA does at its end may fail again.
            if last.is_alive() or state.gpu.fault:
                os._exit(0)

    async def _serve(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # see ``service.server``
        state = state_of(self.wsgi)
        settings = state.settings
        bodies = Bodies(
            Heads(self.wsgi).want_body,
            max_bytes=settings.max_body_bytes,
            queue_bytes=settings.queue_bytes,
        )
        serving = Serving(
            OnLoop(self.wsgi, gate_of(self.wsgi), bodies),
            Turns(),
            head_seconds=settings.head_seconds,
            body_seconds=settings.body_seconds,
            idle_seconds=KEEP_ALIVE_SECONDS,
            ended=lambda: acceptors[0].ended(),
        )
        serving.sweep()

        def protocol() -> Connection:
            return Connection(serving)

        acceptors: list[Acceptor] = []
        for each in self.sockets:
            most, shed = most_connections(), serving.shed
            acceptors.append(
                Acceptor(each.sock, protocol, self.board, self.place, most=most, shed=shed)
            )
        least = self.loop.time() + LEAST_SECONDS
        while not await self._beat(serving, HEARTBEAT_SECONDS) and self.ppid == os.getppid():
            if state.gpu.fault:
                break
        state.drain.begin()
        if state.gpu.fault:
            while self.loop.time() < least and not await self._beat(serving, HEARTBEAT_SECONDS):
                pass
        else:
            await self._beating(serving, settings.drain_seconds)
        for acceptor in acceptors:
            acceptor.close()
        for _ in range(LAST_TURNS):
            await self._beating(serving, 0.01)
        for connection in list(serving.connections):
            connection.shutdown()
        limit = self.loop.time() + settings.deadline_seconds + 1
        while (serving.turns.busy or serving.connections) and self.loop.time() < limit:
            await self._beating(serving, 0.02)

    async def _beat(self, serving: Serving, seconds: float) -> bool:
        """Tell gunicorn that the loop turns, and wait; True once the worker is to stop."""
        self.notify()
        serving.date = _date()
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    async def _beating(self, serving: Serving, seconds: float) -> None:
        """Wait, and tell gunicorn meanwhile."""
        end = self.loop.time() + seconds
        while (left := end - self.loop.time()) > 0:
            self.notify()
            serving.date = _date()
            await asyncio.sleep(min(left, HEARTBEAT_SECONDS))


def _date() -> bytes:
    """A header line that says what time it is."""
    return f"Date: {formatdate(usegmt=True)}\r\n".encode()


def _warm_up(state: State) -> None:
    """Compute a full batch, so that memory has its size before the first request comes.

    On a GPU every model has done so when it was loaded; a failure here would have no bounds.
    """
    if state.repository is not None and (model := state.repository.get()).provider == CPU:
        model.run(np.zeros((state.engine.max_batch, *IMAGE_SHAPE), np.uint8))


def configured_logger(configuration: dict[str, Any]) -> type:
    """Gunicorn's logger, whose lines go where ``configuration`` sends all others."""
    from gunicorn.glogging import Logger

    class JsonLogger(Logger):
        def setup(self, cfg: Any) -> None:
            super().setup(cfg)
            logging.config.dictConfig(configuration)
            for log in (self.error_log, self.access_log):
                log.handlers.clear()
                log.propagate = True

    return JsonLogger
