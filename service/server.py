"""Granian around the application: processes, threads, signals and the port.

The models are loaded in each worker, after it has forked: neither ONNX Runtime's threads nor
CUDA survive a fork. A worker that dies is replaced.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.log import LogLevels
from granian.server import Server as Granian

from service import logs
from service.capacity import request_threads, worker_processes
from service.settings import Settings

if TYPE_CHECKING:
    from flask import Flask


def serve(settings: Settings) -> None:
    """Serve on ``settings.host`` and ``settings.port``; returns on SIGTERM."""
    Granian(
        "service.app:create_app",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        loop=Loops.asyncio,
        runtime_mode=RuntimeModes(__import__('os').environ.get('GR_MODE','st')),
        workers=worker_processes(settings),
        blocking_threads=request_threads(settings),
        respawn_failed_workers=True,
        log_level=LogLevels(settings.log_level),
        log_dictconfig=logs.configuration(settings.log_level),
    ).serve(target_loader=partial(_load, settings), wrap_loader=False)


def _load(settings: Settings) -> Flask:
    """Make the application, in a worker. A GPU that is required and missing ends the worker."""
    from service.app import create_app
    from service.runtime import GpuError
    from service.state import state_of

    logging.captureWarnings(True)  # Pillow's, about odd files, become log lines too
    try:
        app = create_app(settings)
    except GpuError as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    fault = state_of(app).fault
    if fault:
        print(f"Not ready: {fault}", file=sys.stderr, flush=True)
    return app
