"""Gunicorn around the application: processes, threads, signals and the port.

The models are loaded in each worker, after it has forked: neither ONNX Runtime's threads nor
CUDA survive a fork. SIGTERM lets the requests in progress finish, then ends with status 0.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gunicorn.app.base import BaseApplication
from gunicorn.errors import AppImportError

from service import logs
from service.settings import Settings

if TYPE_CHECKING:
    from flask import Flask

_MEMORY = Path("/dev/shm")  # noqa: S108 - where gunicorn's heartbeat file touches no disk


class Server(BaseApplication):
    """The service on ``settings.host`` and ``settings.port``; ``run()`` returns on SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Translate the settings into gunicorn's own."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        for name, value in {
            "bind": f"{host}:{self._settings.port}",
            "worker_class": "gthread",
            "workers": self._settings.web_concurrency,
            "threads": self._settings.threads,
            "loglevel": self._settings.log_level,
            "logconfig_dict": logs.configuration(self._settings.log_level),
            "control_socket_disable": True,
            "worker_tmp_dir": str(_MEMORY) if _MEMORY.is_dir() else None,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Make the application, in a worker. A GPU that is required and missing ends the server."""
        from service.app import create_app
        from service.runtime import GpuError
        from service.state import state_of

        logging.captureWarnings(True)  # Pillow's, about odd files, become log lines too
        try:
            app = create_app(self._settings)
        except GpuError as error:
            raise AppImportError(str(error)) from error
        fault = state_of(app).fault
        if fault:
            print(f"Not ready: {fault}", file=sys.stderr, flush=True)
        return app
