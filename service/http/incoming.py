"""Reads a connection: bytes in, requests out, within limits of size.

httptools parses, and ``service.http.framing`` checks what it does not. The headers of a request may
take ``MAX_HEAD_BYTES``, those of a trailer too, and its target has a limit of its own, however they
are split; no more of a body is taken from the client than is about to be read. Headers go straight
into WSGI's environment.
Sources: RFC 9112, PEP 3333.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import httptools

from service.http import framing
from service.http.environ import of_connection, variable
from service.http.exchange import Exchange
from service.http.framing import FramingError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_HEAD_BYTES = 64 << 10
"""All headers of a request may take so many bytes together, each with a colon, a space and the end
of its line."""

SLICE_BYTES = 8 << 10
"""What is parsed at a time: a limit that one slice breaks is seen before the next is looked at."""

SPARE_BYTES = 8 << 10
"""Headers that have not ended are refused where they exceed that by so many bytes: some of what has
come since the last whole one may not be theirs."""

_TOO_LARGE = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
_LARGE = f"the request's headers are larger than the {MAX_HEAD_BYTES:,} bytes allowed"

PARSE_SECONDS = 0.002
"""Bytes are parsed for so long, then others get their turn: chunks of a byte are slow to parse."""

UNREAD_BYTES = 64 << 10
"""So much of a body waits to be read; no more is taken from the client until somebody reads it."""

NEW, IDLE, HEAD, BODY = range(4)
"""The stages of what comes in: nothing yet, nothing more, a request's head, its body."""


class Incoming(asyncio.Protocol, ABC):
    """The half of a connection that reads; the other is told of each request that has a head."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = self._new_parser()
        self._base: WSGIEnvironment
        self._environ: WSGIEnvironment = {}
        self._url = b""
        self._stage = NEW
        self._since = self._loop.time()  # when that stage has begun
        self._head_bytes = 0  # or a trailer's: of its headers that are whole
        self._silent_bytes = 0  # behind those of which the parser has told last
        self._upgrade = self._muted = False
        self._newest: Exchange | None = None
        self._unparsed = memoryview(b"")
        self._parsing = self._later = False
        self._paused: float | None = None  # since when nothing is taken
        self._refused = False  # what comes now is not looked at, and when it came last
        self._heard = 0.0

    @abstractmethod
    def _arrived(self, exchange: Exchange) -> None:
        """A request's head is there."""

    @abstractmethod
    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """What comes is not going to be a request, and nothing is behind it."""

    # Called by the event loop.

    # A stream's transport, where asyncio declares any.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request."""
        self._transport = transport
        self._base = of_connection(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what holds this connection as it holds them: it would be garbage otherwise."""
        if self._newest is not None:
            self._newest.wake()
        del self._parser
        self._unparsed = memoryview(b"")
        self._base, self._environ = {}, {}

    def data_received(self, data: bytes) -> None:
        """Some bytes; most requests come whole."""
        if self._refused:
            self._heard = self._loop.time()
            return
        # While bytes wait to be parsed the connection is paused, and no more come; but if they do:
        self._unparsed = memoryview(b"".join([self._unparsed, data]) if self._unparsed else data)
        self._parse()

    def _parse(self) -> None:
        """Parse what has come, until it is to wait."""
        if self._parsing:  # what is parsed has been answered, and more is wanted: see below
            return
        self._parsing, end = True, time.monotonic() + PARSE_SECONDS
        try:
            while self._unparsed and self._paused is None and not self._refused:
                if time.monotonic() > end:
                    self._parse_later()
                    return
                part, self._unparsed = self._unparsed[:SLICE_BYTES], self._unparsed[SLICE_BYTES:]
                self._feed(part)
        finally:
            self._parsing = False

    def _parse_later(self) -> None:
        """Go on after others have had their turn, and take no more meanwhile."""
        if not self._later and not self._transport.is_closing():
            self._later = True
            self._transport.pause_reading()
            self._loop.call_soon(self._parse_on)

    def _parse_on(self) -> None:
        self._later = False
        if not self._transport.is_closing():
            if self._paused is None:
                self._transport.resume_reading()
            self._parse()

    def _feed(self, part: memoryview) -> None:
        self._silent_bytes += len(part)
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on(part[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(*framing.fault(error, self._parser.get_http_version()))
            return
        # What it does not tell of is of a header that has not ended, or of a chunk's.
        large = self._head_bytes + self._silent_bytes > MAX_HEAD_BYTES + SPARE_BYTES
        if large and self._stage in (HEAD, BODY):
            self._refuse(_TOO_LARGE, _LARGE)

    def _go_on(self, rest: memoryview) -> None:
        """Read on behind a head that offers an upgrade, which is not made.

        The parser takes all that follows for another protocol; a new one is told what it is.
        """
        environ = self._environ
        lines = [
            f"{name}: {environ[key]}\r\n"
            for name, key in (
                ("Content-Length", "CONTENT_LENGTH"),
                ("Transfer-Encoding", "HTTP_TRANSFER_ENCODING"),
            )
            if key in environ
        ]
        self._parser, self._muted = self._new_parser(), True
        self._parser.feed_data(f"POST / HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1"))
        self._muted = False
        if not framing.length(environ):  # what the parser has just said of it was not heard
            self.on_message_complete()
        self._unparsed = memoryview(b"".join([rest, self._unparsed]))

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What follows a request that closes the connection is let go, not held against it.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    # Called by the parser.

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._muted:
            return
        self._enter(HEAD)
        self._head_bytes = self._silent_bytes = 0
        self._environ, self._url = self._base.copy(), b""

    def on_url(self, url: bytes) -> None:
        """Some of the request's target."""
        if not self._muted:
            self._silent_bytes = 0
            self._url += url
            framing.check_target(self._url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or behind a body a trailer, which is let go."""
        self._silent_bytes = 0
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            raise FramingError(_LARGE, _TOO_LARGE)
        if self._stage == HEAD and (key := variable(name)):
            text, environ = value.decode("latin-1"), self._environ
            if key in environ:
                if key == "HTTP_HOST":
                    raise FramingError("the request has more than one Host header; send one")
                text = f"{environ[key]},{text}"
            environ[key] = text

    def on_headers_complete(self) -> None:
        """A request's head is complete; its body follows."""
        self._head_bytes = self._silent_bytes = 0
        if self._muted:
            return
        parser, environ = self._parser, self._environ
        url, version = httptools.parse_url(self._url), parser.get_http_version()
        framing.check(environ, version)
        if url.schema:  # what the target says is what counts (RFC 9112, section 3.2.2)
            host = url.host.decode("latin-1")
            host = f"[{host}]" if ":" in host else host
            environ["HTTP_HOST"] = host if url.port is None else f"{host}:{url.port}"
        environ["REQUEST_METHOD"] = parser.get_method().decode("ascii")
        environ["PATH_INFO"] = unquote_to_bytes(url.path or b"/").decode("latin-1")
        environ["QUERY_STRING"] = (url.query or b"").decode("latin-1")
        environ["SERVER_PROTOCOL"] = f"HTTP/{version}"
        environ["wsgi.input"] = BytesIO()
        self._upgrade = parser.should_upgrade()
        self._enter(BODY)
        modern = version == framing.NEWEST
        exchange = self._newest = Exchange(
            environ,
            keep_alive=modern and parser.should_keep_alive(),
            expects=modern and environ.get("HTTP_EXPECT", "").lower() == "100-continue",
            length=framing.length(environ),
        )
        self._arrived(exchange)

    def on_body(self, body: bytes) -> None:
        """Some of a request's body."""
        self._head_bytes = self._silent_bytes = 0
        exchange = self._newest
        if exchange is None:
            return
        exchange.rest -= len(body)
        if exchange.answered:
            return
        exchange.parts.append(body)
        exchange.unread += len(body)
        if exchange.unread > UNREAD_BYTES:
            self._pause()
        exchange.wake()

    def on_message_complete(self) -> None:
        """A request is complete, unless its parser only says so: see ``_go_on``."""
        if self._muted or self._upgrade:
            self._upgrade = False
            return
        self._enter(IDLE)
        if self._newest is not None:
            self._newest.complete, self._newest.rest = True, 0
            # A trailer is not to say that the connection ends (RFC 9110, section 6.5.1), but where
            # one does the parser lets go of all that follows, and nobody is to wait for an answer.
            if not self._parser.should_keep_alive():
                self._newest.keep_alive = False
            self._newest.wake()

    def _known(self) -> WSGIEnvironment:
        """What there is to say of what becomes no request."""
        if self._stage != HEAD:
            return self._base.copy()
        if self._url:
            self._environ["REQUEST_METHOD"] = self._parser.get_method().decode("ascii")
            path = framing.path_of(self._url)
            if path is not None:
                self._environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1")
        return self._environ

    def _enter(self, stage: int) -> None:
        self._stage, self._since = stage, self._loop.time()

    def _pause(self) -> None:
        """Take no more from the client."""
        if self._paused is None and not self._transport.is_closing():
            self._paused = self._loop.time()
            self._transport.pause_reading()

    def _resume(self) -> None:
        """Take more from the client, whose time did not pass meanwhile."""
        if self._paused is not None and not self._transport.is_closing():
            self._since += self._loop.time() - self._paused
            self._paused = None
            self._transport.resume_reading()
            self._parse()
