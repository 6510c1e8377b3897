"""gunicorn around the workers: their number, what they share, and the handling of signals.

The supervisor loads, checks and warms up the models once and forks the workers, which share the
models' memory: a session of one thread has nothing that a fork would lose. If sessions have threads
of their own, or use a GPU, each worker loads the models itself. A worker that dies or hangs is
replaced. SIGTERM, SIGINT and SIGQUIT drain: see ``service.worker``; the server then ends with
status 0.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from flask import Flask

# gunicorn makes a number of this variable when it is imported; here an empty one counts as not set.
if not os.environ.get("WEB_CONCURRENCY"):
    os.environ.pop("WEB_CONCURRENCY", None)

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from service import logs
from service.app import create_app
from service.capacity import worker_processes
from service.http.acceptor import Board
from service.metric_files import memory, shared
from service.models.repository import ModelError, Repository, open_repository
from service.models.runtime import GpuError, try_gpu
from service.settings import Settings
from service.state import state_of
from service.worker import LoopWorker, configured_logger

HANG_SECONDS = 120
"""A worker whose loop has not turned for so long is replaced."""

GRACE_SECONDS = 5


class AddressError(Exception):
    """Nothing can listen there; the message says why."""


def serve(settings: Settings) -> None:
    """Serve on ``settings.host`` and ``settings.port`` until SIGTERM, then exit with status 0.

    Raises ``AddressError``, ``FolderError``, and ``GpuError`` where a GPU is required and none
    works.
    """
    address = free_address(settings.host, settings.port)
    fault = try_gpu()
    gpu = fault is None
    if settings.require_gpu and not gpu:
        raise GpuError(f"REQUIRE_GPU=1, but no GPU works: {fault}")
    workers = worker_processes(settings, gpu=gpu)
    repository = None
    if not gpu and settings.ort_threads == 1:
        # What is wrong with a model the workers find out too, and go on to tell who asks them.
        with suppress(ModelError):
            repository = open_repository(settings)
    _allow_descriptors()
    supervisor = _Supervisor(_Application(settings, address, workers, repository))
    # Until now SIGTERM has ended the process on the spot (``service.__main__``). From here on there
    # is a folder to remove: it waits until run() gets to it, and drains as at any other time.
    signal.signal(signal.SIGTERM, supervisor.signal)
    with shared(workers):
        supervisor.run()


def free_address(host: str, port: int) -> str:
    """Where to listen, in numbers: "127.0.0.1:8000", "[::1]:8000".

    Raises ``AddressError`` where nothing can; gunicorn itself would try for 5 seconds, and look a
    name up a second time. Of a name's addresses it is the first of IPv4, where there is one.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        number = address[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((number, port))
    except UnicodeError:  # what it says is of codecs
        raise AddressError(
            f"cannot listen on port {port} of {host!r}: that is neither an address nor a name; "
            "set another HOST"
        ) from None
    except OSError as error:
        wrong = "PORT" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "HOST"
        raise AddressError(
            f"cannot listen on port {port} of {host}: {error.strerror or error}; "
            f"set another {wrong}"
        ) from None
    return f"[{number}]:{port}" if family == socket.AF_INET6 else f"{number}:{port}"


def _allow_descriptors() -> None:
    """Have as many connections open as the system allows; the usual 1,024 are few of idle ones."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Application(BaseApplication):
    """gunicorn's configuration, and what each worker serves."""

    def __init__(
        self, settings: Settings, address: str, workers: int, repository: Repository | None
    ) -> None:
        self._settings = settings
        self._address = address
        self._workers = workers
        self._repository = repository
        self._board = Board(workers)
        super().__init__()

    def load_config(self) -> None:
        """Everything that differs from gunicorn's defaults."""
        settings = self._settings
        for name, value in {
            "bind": self._address,
            "workers": self._workers,
            "worker_class": LoopWorker,
            "timeout": HANG_SECONDS,
            "graceful_timeout": settings.drain_seconds + settings.deadline_seconds + GRACE_SECONDS,
            "logger_class": configured_logger(logs.configuration(settings.log_level)),
            "loglevel": settings.log_level,
            "worker_tmp_dir": memory() and str(memory()),
            "control_socket_disable": True,
            "pre_fork": self._seat,
            "child_exit": self._unseat,
        }.items():
            self.cfg.set(name, value)

    def _seat(self, supervisor: Arbiter, worker: LoopWorker) -> None:
        taken = {each.place for each in supervisor.WORKERS.values()}
        worker.board = self._board
        worker.place = min(set(range(self._workers)) - taken, default=0)

    def _unseat(self, supervisor: Arbiter, worker: LoopWorker) -> None:
        self._board.leave(worker.place)

    def load(self) -> Flask:
        """Make the application, in a worker."""
        logging.captureWarnings(True)  # Pillow's, about odd files, become log lines too
        app = create_app(self._settings, self._repository)
        fault = state_of(app).fault
        if fault:
            print(f"Not ready: {fault}", file=sys.stderr, flush=True)
        return app


class _Supervisor(Arbiter):
    """gunicorn's arbiter; what a terminal's Ctrl-C asks for is no less graceful."""

    def spawn_worker(self) -> Any:
        """Fork with SIGTERM held back, until the worker can take it: else it would be lost."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def handle_int(self) -> None:
        """As SIGTERM."""
        self.handle_term()

    handle_quit = handle_int

    def ignore(self) -> None:
        """What gunicorn reloads, adds and removes workers by, and reopens logs: not done here.

        The board has a place for each worker, models are loaded once, and logs go to stdout.
        """
        self.log.warning("this signal has no meaning here; to change anything, start it again")

    handle_hup = handle_ttin = handle_ttou = handle_usr1 = handle_usr2 = ignore
