"""A WSGI application as an event loop's server calls it: a request's head in, a whole answer out.

    application = OnLoop(app, gate, bodies)
    answer = application(environ, read)  # in its turn: it may wait (service.http.waiting)

``read`` returns more of the body each time it is called, if the body is to be read at all
(``service.http.bodies``); the body of a request that the gate refuses is not. Source: PEP 3333.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from service.http.bodies import Bodies, HungUpError, NoRoomError, Read

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

GONE = "batchnorm.gone"
"""The environment's key for a function: whether the client has hung up."""

TAKEN = "batchnorm.taken"
"""The environment's key for how many bytes of the body were read."""

TOLD = "batchnorm.told"
"""The environment's key that says that a request was refused, and is counted and logged as such.

A view may still be at work on that request; nobody gets the view's answer, and it is not counted.
"""


STATUS_LINE = f"{HTTPStatus.SERVICE_UNAVAILABLE} {HTTPStatus.SERVICE_UNAVAILABLE.phrase}"
"""Of what a gate does not let in."""

Refused = tuple[list[tuple[str, str]], bytes]
"""A refusal's headers and its body."""


class Gate(Protocol):
    """What refuses requests before the application (``service.gate``)."""

    def closed(self, environ: WSGIEnvironment) -> bool:
        """Whether a request is to be refused now."""

    def refusal(self, environ: WSGIEnvironment) -> Refused:
        """What a request gets that is refused."""

    def no_room(self, environ: WSGIEnvironment, taken: int, seconds: float) -> Refused:
        """What a request gets whose body finds no room after ``taken`` bytes."""

    def no_request(
        self, environ: WSGIEnvironment, status: HTTPStatus, detail: str, seconds: float
    ) -> Refused:
        """What is answered to what became no request."""

    def hung_up(self, environ: WSGIEnvironment, taken: int, seconds: float) -> None:
        """Take note of a request whose client has gone after ``taken`` bytes of its body."""


class Answer(NamedTuple):
    """A whole response: ``head`` is its status line and header lines, but for the server's own.

    ``last`` says that the connection ends with it.
    """

    head: bytes
    body: bytes
    last: bool


class OnLoop:
    """``application``, behind ``gate``, for a server that runs it in an event loop, in turns."""

    def __init__(self, application: WSGIApplication, gate: Gate, bodies: Bodies) -> None:
        self._application = application
        self._gate = gate
        self._bodies = bodies

    def __call__(self, environ: WSGIEnvironment, read: Read) -> Answer:
        """Answer one request, whose environment is empty then. Raises ``HungUpError``."""
        body, begun = b"", time.monotonic()
        try:
            if self._bodies.wanted(environ):
                body = self._bodies.take(read)
                environ["wsgi.input"] = BytesIO(body)
            environ[TAKEN] = len(body)
            return call(self._application, environ)
        except HungUpError as error:
            if TOLD not in environ:
                self._gate.hung_up(environ, error.taken, time.monotonic() - begun)
            raise
        except NoRoomError as error:
            # ``body`` stays what was taken, which is nothing: it is what is let go of below.
            refused = self._gate.no_room(environ, error.taken, time.monotonic() - begun)
            return _written(environ, STATUS_LINE, *refused)
        finally:
            self._bodies.let_go(body)
            environ.clear()  # what has been made of it holds it: together they would be garbage

    def refusal(self, environ: WSGIEnvironment) -> Answer | None:
        """The whole answer to a request that the gate does not let in now, else None.

        It is made before the request costs more than its head.
        """
        if not self._gate.closed(environ):
            return None
        headers, body = self._gate.refusal(environ)
        return _written(environ, STATUS_LINE, headers, body)

    def no_request(
        self, environ: WSGIEnvironment, status: HTTPStatus, detail: str, seconds: float
    ) -> Answer:
        """The whole answer to what became no request; ``environ`` is what is known of it."""
        environ[TOLD] = True
        headers, body = self._gate.no_request(environ, status, detail, seconds)
        return _written(environ, f"{status} {status.phrase}", headers, body)


def call(application: WSGIApplication, environ: WSGIEnvironment) -> Answer:
    """Run a WSGI application to its end."""
    status, headers = "", []
    written: list[bytes] = []

    def start_response(
        new_status: str, new_headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        nonlocal status, headers
        status, headers = new_status, new_headers
        return written.append

    parts: Iterable[bytes] = application(environ, start_response)
    if type(parts) is list and len(parts) == 1 and not written:
        body = parts[0]
    else:
        try:
            body = b"".join([*written, *parts])
        finally:
            if hasattr(parts, "close"):
                parts.close()
    return _written(environ, status, headers, body)


def _written(
    environ: WSGIEnvironment, status: str, headers: Iterable[tuple[str, str]], body: bytes
) -> Answer:
    """An answer to ``environ``: to HEAD without the body, for the next answer follows its head."""
    bodiless = environ.get("REQUEST_METHOD") == "HEAD"
    lines, last, sized = [f"HTTP/1.1 {status}\r\n"], False, False
    for name, value in headers:
        lower = name.lower()
        if lower == "date":  # the server says it
            continue
        lines.append(f"{name}: {value}\r\n")
        if lower == "content-length":
            sized = True
        elif lower == "connection":
            last = last or "close" in value.lower()
    if int(status[:3]) in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        bodiless = True
    elif not sized:
        lines.append(f"Content-Length: {len(body)}\r\n")
    return Answer("".join(lines).encode("latin-1"), b"" if bodiless else body, last)
