"""Logs as JSON lines on stdout: one line a request, and whatever the service or its server says.

A request's line holds its id, method, path, status, bytes in and out and milliseconds; the id of
the caller's trace, the route and the variant, where there are such. What is logged while a request
is answered bears its id. Never headers, query values, addresses or pictures.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

from flask import Flask, Response, has_request_context

from service.correlation import correlation
from service.messages import Request, current

DELAY = 0.1
"""Seconds until a request's line is written."""

LONGEST_PATH = 200
"""Characters of a path that are logged."""

_KEY = "batchnorm-request-log"
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
            line["request_id"] = correlation(current().environ).request_id
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Lines(logging.StreamHandler[TextIO]):
    """Writes lines to a stream, many at a time where there are many."""

    def handle_all(self, records: Iterable[logging.LogRecord]) -> None:
        """Write all of ``records`` at once: a system call for each costs more than its line."""
        lines = [
            self.format(record) + self.terminator
            for record in records
            if record.levelno >= self.level and self.filter(record)
        ]
        self.acquire()
        try:
            self.stream.write("".join(lines))
            self.flush()
        finally:
            self.release()


def configuration(level: str) -> dict[str, Any]:
    """A ``logging.config.dictConfig`` that sends every logger, the server's too, to stdout."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {
            "stdout": {
                "class": "service.logs.Lines",
                "stream": "ext://sys.stdout",
                "formatter": "json",
            }
        },
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        "loggers": {
            "gunicorn.error": {"handlers": [], "propagate": True},
            "uvicorn.error": {"level": "ERROR"},  # below, what strangers send, and advice
            "PIL": {"level": "WARNING"},
        },
    }


class RequestLog:
    """Collects what requests did, and writes it a little later from a thread of its own.

    Logging in the request's thread, between two runs of a model, was measured at a tenth of the
    whole request. At worst, a process that is killed loses its last ``DELAY`` seconds.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[float, dict[str, Any]]] = deque()
        self._some = threading.Event()
        self._writing = threading.Lock()
        self._started = False

    def add(self, fields: dict[str, Any]) -> None:
        """Have one line written, dated now."""
        self._lines.append((time.time(), fields))
        if not self._some.is_set():
            self._some.set()
            if not self._started:
                self._started = True
                threading.Thread(target=self._write_on, name="request-log", daemon=True).start()
                atexit.register(self.flush)

    def flush(self) -> None:
        """Write every line that has been added."""
        with self._writing:
            records = []
            while self._lines:
                created, fields = self._lines.popleft()
                record = log.makeRecord(
                    log.name, logging.INFO, __file__, 0, "answered", (), None, extra=fields
                )
                record.created = created
                records.append(record)
            _deliver(records)

    def _write_on(self) -> None:
        while True:
            self._some.wait()
            time.sleep(DELAY)
            self._some.clear()
            self.flush()


def _deliver(records: list[logging.LogRecord]) -> None:
    """Give every handler that is responsible for ``log`` all the records."""
    logger: logging.Logger | None = log
    while logger is not None:
        for handler in logger.handlers:
            if isinstance(handler, Lines):
                handler.handle_all(records)
                continue
            for record in records:
                if record.levelno >= handler.level:
                    handler.handle(record)
        logger = logger.parent if logger.propagate else None


def init_app(app: Flask) -> None:
    """Log every request that ``app`` answers."""
    lines = app.extensions[_KEY] = RequestLog()

    @app.after_request
    def add(response: Response) -> Response:
        if log.isEnabledFor(logging.INFO):
            lines.add(_fields(response))
        return response


def flush(app: Flask) -> None:
    """Write what ``app`` has logged so far."""
    lines: RequestLog = app.extensions[_KEY]
    lines.flush()


def _fields(response: Response) -> dict[str, Any]:
    """What is said of the current request."""
    request = current()
    ids = correlation(request.environ)
    head = request.method == "HEAD"
    fields = {
        "request_id": ids.request_id,
        "trace_id": ids.trace_id,
        "method": request.method,
        "path": request.path[:LONGEST_PATH],
        "route": request.url_rule.rule if request.url_rule else None,
        "variant": request.variant,
        "status": response.status_code,
        "bytes_in": _bytes_in(request),
        "bytes_out": 0 if head else response.calculate_content_length(),
        "ms": round((time.monotonic() - request.started) * 1000, 2),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _bytes_in(request: Request) -> int:
    """The body's announced length, or, of one that came in chunks, what was read of it."""
    if request.content_length is not None:
        return request.content_length
    # Werkzeug keeps what get_data() has read here, and only calling it again would tell.
    return len(getattr(request, "_cached_data", b""))
