"""Logs as JSON lines on stdout: one line per request, and messages of the service and its server.

A request's line holds its id, method, path, status, bytes in and out and milliseconds, and, if
there are any, the id of the caller's trace, the route and the variant. What is logged while a
request is answered bears its id. Headers, query values, addresses and pictures are never logged.
"""

from __future__ import annotations

import json
import logging
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, TextIO

from flask import has_request_context

from service.correlation import correlation
from service.journal import Answered, Journal
from service.messages import current

LONGEST_PATH = 200
"""Characters of a path that are logged."""

HALT_SECONDS = 0.5
"""Where no thread writes the lines, one waits so long for a reader that stands still. It is left
out then, and so are others until the reader goes on."""

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
    """Writes lines to a stream, whose reader may stand still: no request waits for him.

    Once they are ``deferred``, a thread writes them, those of a moment together: a system call for
    each costs more than its line. Without it, lines that would have to wait long are left out.
    """

    deferred: ClassVar[Journal | None] = None

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._halted = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or have it written."""
        try:
            line = self.format(record) + self.terminator
        except Exception:  # of whatever was to be logged
            self.handleError(record)
            return
        if self.deferred is not None:
            self.deferred.add(self.write, line)
        elif self._ready():
            self.write([line])

    def handle_all(self, records: Iterable[logging.LogRecord]) -> None:
        """Write all of ``records`` at once, here and now."""
        lines = [
            self.format(record) + self.terminator
            for record in records
            if record.levelno >= self.level and self.filter(record)
        ]
        if self.deferred is not None or self._ready():
            self.write(lines)

    def write(self, lines: Iterable[str]) -> None:
        """Write ``lines``; where that cannot be, say so on standard error."""
        try:
            for part in _whole(lines):
                self.stream.write(part)
                self.stream.flush()
        except (OSError, ValueError) as error:  # a full disk, a reader who is gone; a closed file
            with suppress(OSError, ValueError):
                print(f"log lines are lost: {error}", file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing is left to do: what is written is flushed."""

    def _ready(self) -> bool:
        """Whether the stream takes a line now, or soon."""
        try:
            taking = select.poll()
            taking.register(self.stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):  # it is no file
            return True
        self._halted = not taking.poll(0 if self._halted else HALT_SECONDS * 1000)
        return not self._halted


def _whole(lines: Iterable[str]) -> Iterator[str]:
    """``lines`` in as few pieces as a pipe that is nearly full takes whole.

    Several processes write to it, and what is longer may be cut by another's line (POSIX, write).
    """
    piece: list[str] = []
    size = 0
    for line in lines:
        if size + len(line) > select.PIPE_BUF and piece:
            yield "".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield "".join(piece)


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
            "PIL": {"level": "WARNING"},
        },
    }


def wanted() -> bool:
    """Whether requests are logged at all."""
    return log.isEnabledFor(logging.INFO)


def defer() -> Journal:
    """From now on have a thread of this process write; call it after the process has forked.

    Returns what is to be flushed at the process's end.
    """
    Lines.deferred = Journal()
    return Lines.deferred


def answered(entry: Answered) -> None:
    """Log a request that has had its answer."""
    if Lines.deferred is not None:
        Lines.deferred.add(_read, entry)
    else:
        _read([entry])


def _read(entries: list[Answered]) -> None:
    records = []
    for entry in entries:
        record = log.makeRecord(
            log.name, logging.INFO, __file__, 0, "answered", (), None, extra=_fields(entry)
        )
        record.created = entry.created
        records.append(record)
    _deliver(records)


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


def _fields(entry: Answered) -> dict[str, Any]:
    """What is said of a request."""
    fields = {
        "request_id": entry.request_id,
        "trace_id": entry.trace_id,
        "method": entry.method,
        "path": entry.path and entry.path[:LONGEST_PATH],
        "route": entry.route,
        "variant": entry.variant,
        "status": entry.status,
        "bytes_in": entry.bytes_in,
        "bytes_out": entry.bytes_out,
        "ms": round(entry.seconds * 1000, 2),
    }
    return {name: value for name, value in fields.items() if value is not None}
