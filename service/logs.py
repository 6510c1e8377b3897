"""Logs as JSON lines on stdout: one line a request, and whatever the service or its server says.

A request's line holds its id, method, path, status, bytes in and out and milliseconds; the id of
the caller's trace, the route and the variant, where there are such. What is logged while a request
is answered bears its id. Never headers, query values, addresses or pictures.
"""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, g, has_request_context, request

from service.correlation import correlation

LONGEST_PATH = 200
"""Characters of a path that are logged."""

_FIELDS = (
    *("request_id", "trace_id", "method", "path", "route", "variant", "status"),
    *("bytes_in", "bytes_out", "ms"),
)

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
        if "request_id" not in line and has_request_context():
            line["request_id"] = correlation(request.environ).request_id
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
    if log.isEnabledFor(logging.INFO):
        log.info("answered", extra=_fields(response))
    return response


def _fields(response: Response) -> dict[str, Any]:
    """What is said of the current request."""
    ids = correlation(request.environ)
    head = request.method == "HEAD"
    fields = {
        "request_id": ids.request_id,
        "trace_id": ids.trace_id,
        "method": request.method,
        "path": request.path[:LONGEST_PATH],
        "route": request.url_rule.rule if request.url_rule else None,
        "variant": g.get("variant"),
        "status": response.status_code,
        "bytes_in": _bytes_in(),
        "bytes_out": 0 if head else response.calculate_content_length(),
        "ms": round((time.monotonic() - g.started) * 1000, 2),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _bytes_in() -> int:
    """The body's announced length, or, of one that came in chunks, what was read of it."""
    if request.content_length is not None:
        return request.content_length
    # Werkzeug keeps what get_data() has read here, and only calling it again would tell.
    return len(getattr(request, "_cached_data", b""))
