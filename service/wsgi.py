"""A WSGI application as an event loop's server calls it: a request's head in, a whole answer out.

    application = OnLoop(app, gate, max_body_bytes)
    answer = application(environ, read)  # in its turn: it may wait (service.waiting)

``read`` gives more of the body each time it is called. A body is read up to one byte more than is
allowed; one that is announced as too large is not read at all, nor is that of a request that the
gate refuses. Source: PEP 3333.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from service.gate import STATUS_LINE, Gate

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

Read = Callable[[], tuple[bytes, bool]]
"""Some of the body, and whether there is more. Raises ``HungUpError``."""

GONE = "batchnorm.gone"
"""The environment's key for a function: whether the client has hung up."""


class Answer(NamedTuple):
    """A whole response: ``head`` is its status line and header lines, but for the server's own.

    ``last`` says that the connection ends with it.
    """

    head: bytes
    body: bytes
    last: bool


class HungUpError(Exception):
    """The client has gone before its request was complete."""


class OnLoop:
    """``application``, behind ``gate``, for a server that runs it in an event loop, in turns."""

    def __init__(self, application: WSGIApplication, gate: Gate, max_body_bytes: int) -> None:
        self._application = application
        self._gate = gate
        self._max_body_bytes = max_body_bytes

    def __call__(self, environ: WSGIEnvironment, read: Read) -> Answer:
        """Answer one request, whose environment is empty then. Raises ``HungUpError``."""
        if self._reads(environ):
            environ["wsgi.input"] = BytesIO(self._body(read))
        try:
            return call(self._application, environ)
        finally:
            environ.clear()  # what has been made of it holds it: together they would be garbage

    def refusal(self, environ: WSGIEnvironment) -> Answer | None:
        """The whole answer to a request that the gate does not let in now, else None.

        It is made before the request costs more than its head.
        """
        if environ["REQUEST_METHOD"] != "POST" or not self._gate.full:
            return None
        headers, body = self._gate.refusal(environ)
        return _written(STATUS_LINE, headers, body)

    def no_request(
        self, environ: WSGIEnvironment, status: HTTPStatus, detail: str, seconds: float
    ) -> Answer:
        """The whole answer to what became no request; ``environ`` is what is known of it."""
        headers, body = self._gate.no_request(environ, status, detail, seconds)
        return _written(f"{status} {status.phrase}", headers, body)

    def _reads(self, environ: WSGIEnvironment) -> bool:
        """Whether there is a body, and not one that is too large."""
        length = environ.get("CONTENT_LENGTH", "")
        if length:
            return int(length) <= self._max_body_bytes + 1
        return "HTTP_TRANSFER_ENCODING" in environ

    def _body(self, read: Read) -> bytes:
        """The body, or of one that is too large its beginning: a byte more than is allowed."""
        body, more = read()
        if not more:
            return body
        parts, size = [body], len(body)
        while more and size <= self._max_body_bytes:
            body, more = read()
            parts.append(body)
            size += len(body)
        return b"".join(parts)[: self._max_body_bytes + 1]


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
    return _written(status, headers, body, bodiless=environ["REQUEST_METHOD"] == "HEAD")


def _written(
    status: str, headers: Iterable[tuple[str, str]], body: bytes, *, bodiless: bool = False
) -> Answer:
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
