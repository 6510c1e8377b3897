"""The gate before the application: what is refused without it, at next to no cost.

In and out: WSGI. What the service spends on requests that it refuses is missing for those it
serves, so a POST that arrives while the engine's queue is full gets its 503 here, before Flask, and
its body is not read; one log line a second counts these answers. A request whose large body finds
no room (``service.http.bodies``) gets its 503 here too, and also a log line of its own. What never
becomes a request, because it is too slow, too large or not HTTP, is refused here as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.wsgi import get_path_info

from service.correlation import correlation
from service.drain import Drain
from service.engine import Engine
from service.headers import answer_headers
from service.http.wsgi import STATUS_LINE, Refused
from service.journal import Answered
from service.problems import HUNG_UP, Refusals, error_body

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

FULL = "too many pictures are waiting already; try again later"
NO_ROOM = "too many large uploads are on their way already; try again later"
RETRY_AFTER = "1"

_LOGGED = {
    FULL: "too many pictures are waiting (QUEUE_IMAGES)",
    NO_ROOM: "too many large uploads are on their way (QUEUE_BYTES)",
}
"""Why requests are refused, for whoever runs the service: with the setting that is the limit."""

LOG_SECONDS = 1
"""Whose refusals are logged as one."""

_STATUS = HTTPStatus.SERVICE_UNAVAILABLE
_LAST = "Connection", "close"

QUEUE_FULL: Refusals = {_STATUS: "too many pictures, or large uploads, are waiting already"}
"""Of every POST, and of whatever else has pictures computed."""

_KEY = "batchnorm-gate"

log = logging.getLogger(__name__)


def put_before(app: Flask, gate: Gate) -> None:
    """Let every request of ``app`` come to ``gate`` first."""
    # To replace this method is Flask's own way to put a middleware before an application.
    app.wsgi_app = app.extensions[_KEY] = gate  # type: ignore[method-assign]


def gate_of(app: Flask) -> Gate:
    """The gate of ``app``, whatever has been put before it since, as a proxy's fix may be."""
    gate: Gate = app.extensions[_KEY]
    return gate


class Gate:
    """``application`` behind the gate.

    ``origins`` may read its answers, as they may the application's. ``on_refusal`` is told of each
    503 for a full queue, with its route, and ``tell`` of what became no request otherwise.
    """

    def __init__(
        self,
        application: WSGIApplication,
        engine: Engine,
        drain: Drain,
        *,
        route: Callable[[WSGIEnvironment], str | None],
        origins: tuple[str, ...],
        on_refusal: Callable[[HTTPStatus, str | None], None],
        tell: Callable[[Answered], None],
    ) -> None:
        self._application = application
        self._engine = engine
        self._drain = drain
        self._route = route
        self._origins = origins
        self._on_refusal = on_refusal
        self._tell = tell
        self._unlogged = dict.fromkeys(_LOGGED, 0)
        self._next_line = dict.fromkeys(_LOGGED, 0.0)

    def closed(self, environ: WSGIEnvironment) -> bool:
        """Whether a request is to be refused now."""
        return self._engine.full and environ["REQUEST_METHOD"] == "POST"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Refuse, or pass on."""
        if self.closed(environ):
            headers, body = self.refusal(environ)
            start_response(STATUS_LINE, headers)
            return [body]
        if self._drain.begun:
            start_response = _last_on_its_connection(start_response)
        return self._application(environ, start_response)

    def _log(self, why: str) -> None:
        """Say how many were refused for this reason since it was said last, if any."""
        if self._unlogged[why]:
            log.warning("refused %d requests: %s", self._unlogged[why], _LOGGED[why])
            self._unlogged[why] = 0
            self._next_line[why] = time.monotonic() + LOG_SECONDS

    def refusal(self, environ: WSGIEnvironment) -> Refused:
        """Count a request that finds the queue full; the headers and the body of its answer."""
        self._on_refusal(_STATUS, self._route(environ))
        return self._refused(environ, FULL)

    def no_room(self, environ: WSGIEnvironment, taken: int, seconds: float) -> Refused:
        """Count and log a request whose body finds no room after ``taken`` bytes; its answer."""
        headers, body = self._refused(environ, NO_ROOM)
        route, size = self._route(environ), _size(environ, body)
        self._tell(_entry(environ, _STATUS, seconds, route=route, bytes_in=taken, bytes_out=size))
        return headers, body

    def _refused(self, environ: WSGIEnvironment, why: str) -> Refused:
        self._unlogged[why] += 1
        if time.monotonic() >= self._next_line[why]:
            self._log(why)
        elif self._unlogged[why] == 1:
            with suppress(RuntimeError):  # without a loop, the next one that comes later says it
                asyncio.get_running_loop().call_later(LOG_SECONDS, self._log, why)
        last = (_LAST,) if self._drain.begun else ()
        return self._problem(environ, _STATUS, why, ("Retry-After", RETRY_AFTER), *last)

    def no_request(
        self, environ: WSGIEnvironment, status: HTTPStatus, detail: str, seconds: float
    ) -> Refused:
        """Count and log what became no request; the headers and the body of its answer.

        ``environ`` is as much of it as is known.
        """
        headers, body = self._problem(environ, status, detail)
        # Where its head was not valid to its end, what it asks for is a guess.
        route = self._route(environ) if "wsgi.input" in environ else None
        size = _size(environ, body)
        self._tell(_entry(environ, status, seconds, route=route, bytes_out=size))
        return headers, body

    def hung_up(self, environ: WSGIEnvironment, taken: int, seconds: float) -> None:
        """Count and log a request whose client has gone after ``taken`` bytes of its body."""
        route = self._route(environ)
        self._tell(_entry(environ, HUNG_UP, seconds, route=route, bytes_in=taken))

    def _problem(
        self,
        environ: WSGIEnvironment,
        status: HTTPStatus,
        detail: str,
        *headers: tuple[str, str],
    ) -> Refused:
        request_id = correlation(environ).request_id
        body, content_type = error_body(environ.get("PATH_INFO", ""), status, detail, request_id)
        written = body.encode()
        headers = (
            ("Content-Type", content_type),
            ("Content-Length", str(len(written))),
            *headers,
        )
        return [*headers, *answer_headers(environ, self._origins)], written


def _path(environ: WSGIEnvironment) -> str | None:
    """The path of a request as Flask would have it; None where none is known."""
    return f"/{get_path_info(environ).lstrip('/')}" if "PATH_INFO" in environ else None


def _size(environ: WSGIEnvironment, body: bytes) -> int:
    """How much of an answer's body is sent: to HEAD, nothing."""
    return 0 if environ.get("REQUEST_METHOD") == "HEAD" else len(body)


def _entry(
    environ: WSGIEnvironment,
    status: int,
    seconds: float,
    *,
    route: str | None = None,
    bytes_in: int = 0,
    bytes_out: int = 0,
) -> Answered:
    """What is told of a request that Flask has never seen."""
    ids = correlation(environ)
    return Answered(
        created=time.time(),
        request_id=ids.request_id,
        trace_id=ids.trace_id,
        method=environ.get("REQUEST_METHOD"),
        path=_path(environ),
        route=route,
        variant=None,
        status=status,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        seconds=seconds,
    )


def _last_on_its_connection(start_response: StartResponse) -> StartResponse:
    """So that a client's next request goes to a server that stays."""

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        return start_response(status, [*headers, _LAST], exc_info)

    return start
