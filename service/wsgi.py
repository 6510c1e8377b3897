"""A request that the server has parsed, as WSGI has it; an answer that WSGI gives, as bytes.

    application = OnLoop(app, gate, max_body_bytes)
    answer = application(scope, read)    # in its turn: it may wait (service.waiting)

The server (``service.http1``) says what it has parsed as an ASGI scope. ``read`` gives more of the
body each time it is called. A body is read up to one byte more than is allowed; one that is
announced as too large is not read at all, nor is that of a request that the gate refuses.

Sources: PEP 3333, and the ASGI specification (HTTP, version 2.3) for the scope.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from service.gate import STATUS_LINE, Gate

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

Scope = dict[str, Any]
Read = Callable[[], tuple[bytes, bool]]
"""Some of the body, and whether there is more. Raises ``HungUpError``."""

GONE = "batchnorm.gone"
"""The scope's and the environment's key for a function: whether the client has hung up."""


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

    def __call__(self, scope: Scope, read: Read) -> Answer:
        """Answer one request. Raises ``HungUpError``."""
        environ = environment(scope)
        if self._reads(environ):
            environ["wsgi.input"] = BytesIO(self._body(read))
        try:
            return call(self._application, environ)
        finally:
            environ.clear()  # what has been made of it holds it: together they would be garbage

    def refusal(self, scope: Scope) -> Answer | None:
        """The whole answer to a request that the gate does not let in now, else None.

        It is made before the request costs more than its head.
        """
        if scope["method"] != "POST" or not self._gate.full:
            return None
        headers, body = self._gate.refusal(environment(scope))
        return _written(STATUS_LINE, headers, body)

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


def environment(scope: Scope) -> WSGIEnvironment:
    """The WSGI environment of a request without its body."""
    server, client = scope["server"] or ("", None), scope["client"]
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or 80),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": BytesIO(),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        GONE: scope[GONE],
    }
    if client:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    for raw_name, raw_value in scope["headers"]:
        # X_Y and X-Y would become the same variable, and a proxy strips only one of them.
        if b"_" in raw_name:
            continue
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        value = raw_value.decode("latin-1")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = f"HTTP_{name}"
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ


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
        lines.append(f"{name}: {value}\r\n")
        lower = name.lower()
        if lower == "content-length":
            sized = True
        elif lower == "connection":
            last = last or "close" in value.lower()
    if int(status[:3]) in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        bodiless = True
    elif not sized:
        lines.append(f"Content-Length: {len(body)}\r\n")
    return Answer("".join(lines).encode("latin-1"), b"" if bodiless else body, last)
