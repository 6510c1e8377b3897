"""Granian around the application: processes, threads, signals and the port.

A supervisor forks the workers and replaces one that dies. The models are loaded in each worker,
after the fork: neither ONNX Runtime's threads nor CUDA survive one.

SIGTERM drains: for ``settings.drain_seconds`` the service says that it is not ready, so that load
balancers look elsewhere, and still answers; then the port is closed, requests in progress are
finished, and the server ends with status 0.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels
from granian.server.mp import MPServer

from service import logs
from service.capacity import request_threads, worker_processes
from service.drain import Drain
from service.settings import Settings

if TYPE_CHECKING:
    from flask import Flask


def serve(settings: Settings) -> None:
    """Serve on ``settings.host`` and ``settings.port``; returns on SIGTERM."""
    drain = Drain()
    _Server(
        drain,
        settings.drain_seconds,
        target="service.app:create_app",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        loop=Loops.asyncio,
        workers=worker_processes(settings),
        blocking_threads=request_threads(settings),
        respawn_failed_workers=True,
        log_level=LogLevels(settings.log_level),
        log_dictconfig=logs.configuration(settings.log_level),
    ).serve(target_loader=partial(_load, settings, drain), wrap_loader=False)


class _Server(MPServer):
    """Granian's supervisor, which drains before it stops its workers."""

    def __init__(self, drain: Drain, drain_seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._drain = drain
        self._drain_seconds = drain_seconds

    def signal_handler_interrupt(self, *arguments: Any, **options: Any) -> None:
        """SIGTERM or SIGINT."""
        self._drain.begin()
        super().signal_handler_interrupt(*arguments, **options)  # type: ignore[no-untyped-call]

    def shutdown(self, exit_code: int = 0) -> None:
        """Stop the workers, which finish what they have begun."""
        if self._drain.begun:
            time.sleep(self._drain_seconds)
        super().shutdown(exit_code)  # type: ignore[no-untyped-call]


def _load(settings: Settings, drain: Drain) -> Flask:
    """Make the application, in a worker. A GPU that is required and missing ends the worker."""
    from service.app import create_app
    from service.runtime import GpuError
    from service.state import state_of

    logging.captureWarnings(True)  # Pillow's, about odd files, become log lines too
    try:
        app = create_app(settings, drain=drain)
    except GpuError as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    fault = state_of(app).fault
    if fault:
        print(f"Not ready: {fault}", file=sys.stderr, flush=True)
    # What is there now stays: it need not be looked at again and again for garbage, of which a
    # request leaves next to none.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    return app
