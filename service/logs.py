"""Logs as JSON lines on stdout: one line a request, and whatever the service or its server says.

A request's line holds method, path, status, milliseconds and, where one answered, the variant.
Never headers, query values, addresses or pictures.
"""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, g, request

_FIELDS = ("method", "path", "status", "ms", "variant")

log = logging.getLogger("service.request")


class JsonFormatter(logging.Formatter):
    """One log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC), level, logger and message; then a request's fields, or the traceback."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configuration(level: str) -> dict[str, Any]:
    """A ``logging.config.dictConfig`` that sends every logger, the server's too, to stdout."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "json",
            }
        },
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        "loggers": {
            "_granian": {"level": "WARNING", "handlers": [], "propagate": True},
            "PIL": {"level": "WARNING"},
        },
    }


def init_app(app: Flask) -> None:
    """Log every request that ``app`` answers."""
    app.before_request(_start)
    app.after_request(_log)


def _start() -> None:
    g.started = time.monotonic()


def _log(response: Response) -> Response:
    fields: dict[str, Any] = {
        "method": request.method,
        "path": request.path,
        "status": response.status_code,
        "ms": round((time.monotonic() - g.started) * 1000, 2),
    }
    if "variant" in g:
        fields["variant"] = g.variant
    log.info("answered", extra=fields)
    return response
