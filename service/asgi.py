"""The Flask application, as the event loop's server calls it: ASGI in, WSGI out.

A request's body is read in the loop, up to one byte more than is allowed; then Flask runs in its
turn (``service.waiting``) and may wait for the engine while other requests are served. A body that
is announced as too large is not read at all, nor is that of a request that the gate refuses.

Sources: the ASGI specification (HTTP, version 2.3) and PEP 3333.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from service.gate import STATUS_LINE, Gate
from service.http1 import GONE
from service.waiting import in_turn

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class _ClientGoneError(Exception):
    """The client hung up before its request was complete."""


class OnLoop:
    """``application``, behind ``gate``, as an ASGI application of short requests and answers."""

    def __init__(self, application: WSGIApplication, gate: Gate, max_body_bytes: int) -> None:
        self._application = application
        self._gate = gate
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        environ = environment(scope)
        if self._reads(environ):
            try:
                environ["wsgi.input"] = BytesIO(await self._body(receive))
            except _ClientGoneError:
                return
        answer = await in_turn(lambda: call(self._application, environ))
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        )
        await send({"type": "http.response.body", "body": answer.body})

    def refusal(self, scope: Scope, date: bytes) -> bytes | None:
        """The whole answer to a request that the gate does not let in now, else None.

        It is made before the request costs more than its head.
        """
        if scope["method"] != "POST" or not self._gate.full:
            return None
        headers, body = self._gate.refusal(environment(scope))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"HTTP/1.1 {STATUS_LINE}\r\n{lines}".encode("latin-1")
        return b"%bdate: %b\r\n\r\n%b" % (head, date, body)

    def _reads(self, environ: WSGIEnvironment) -> bool:
        """Whether there is a body, and not one that is too large."""
        length = environ.get("CONTENT_LENGTH", "")
        if length:
            return int(length) <= self._max_body_bytes + 1
        return "HTTP_TRANSFER_ENCODING" in environ

    async def _body(self, receive: Receive) -> bytes:
        """The body, or of one that is too large its beginning: a byte more than is allowed."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGoneError
        body: bytes = message["body"]
        if not message["more_body"]:
            return body
        parts, size = [body], len(body)
        while message["more_body"] and size <= self._max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGoneError
            parts.append(message["body"])
            size += len(message["body"])
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
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    code = int(status[:3])
    if code not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED) and not any(
        name.lower() == b"content-length" for name, _ in encoded
    ):
        encoded.append((b"Content-Length", str(len(body)).encode()))
    return Answer(code, encoded, body)
