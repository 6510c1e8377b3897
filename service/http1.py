"""HTTP/1.1 for short requests and answers, within limits of size and time; httptools parses.

In: the bytes of a connection. Out: each request as a WSGI environment, answered in its turn
(``service.waiting``), one after the other, and an answer leaves in one write. A request's head may
take ``head_seconds`` from its first byte, or from the connection's beginning, and
``MAX_HEAD_BYTES``; its body ``body_seconds``. What takes longer is answered 408 and closed; so is,
without a word, a connection on which for ``idle_seconds`` nothing is asked, or nothing taken of an
answer. A slow client costs a connection, nothing else: no thread waits for it, and no more of a
body is taken from it than is about to be read. Errors of framing are problem documents like all
others. Whoever answers a request can ask whether its client is still there.

Between two runs of a model each step from code to code is a step into cold memory, so there are
few: headers go straight where WSGI looks for them, and no timer is set for a request.

Sources: RFC 9112, PEP 3333.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import httptools

from service.correlation import new_request_id
from service.environ import of_connection, variable
from service.exchange import Exchange
from service.problems import error_body
from service.waiting import Turns, wait
from service.wsgi import Answer, HungUpError, OnLoop

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_HEAD_BYTES = 64 << 10

SLICE_BYTES = 8 << 10
"""What is parsed at a time: a limit that one slice breaks is seen before the next is looked at."""

UNREAD_BYTES = 64 << 10
"""Of a body; beyond, no more is taken from the client until somebody reads it."""

LINGER_SECONDS = 2.0

SWEEP_SECONDS = 0.25
"""How often every connection is looked at for what has taken too long."""

MOST_DIGITS = 20
"""Of a length."""

_NEW, _IDLE, _HEAD, _BODY = range(4)

_FAILED = Answer(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n", b"", last=False)
_CLOSE = b"Connection: close\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Serving:
    """What the connections of one worker share.

    ``ended`` is called when one of them ends, ``refused`` with the status of every answer that is
    the protocol's own. ``date`` is a header line, for whoever owns the clock to renew.
    """

    application: OnLoop
    turns: Turns
    head_seconds: float
    body_seconds: float
    idle_seconds: float
    ended: Callable[[], None]
    refused: Callable[[HTTPStatus], None]
    date: bytes = b""
    connections: set[Connection] = field(default_factory=set)

    def sweep(self) -> None:
        """End what has taken too long, again and again; in the event loop."""
        loop = asyncio.get_running_loop()
        loop.call_later(SWEEP_SECONDS, self.sweep)
        now = loop.time()
        for connection in list(self.connections):
            connection.look(now)


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._loop = asyncio.get_running_loop()
        self._parser = self._new_parser()
        self._transport: asyncio.Transport
        self._base: WSGIEnvironment
        self._environ: WSGIEnvironment = {}
        self._url = b""
        self._stage = _NEW  # of the request whose bytes come in
        self._since = self._loop.time()  # when that stage has begun
        self._head_bytes = 0  # or a trailer's
        self._mixed = False  # whether these bytes are of more than one request, or of a body too
        self._upgrade = self._muted = False
        self._newest: Exchange | None = None
        self._current: Exchange | None = None  # is being answered; behind it wait
        self._pipeline: deque[Exchange] = deque()
        self._unparsed = memoryview(b"")
        self._parsing = False
        self._paused: float | None = None  # since when nothing is taken
        self._refused = False  # what comes now is not looked at
        self._over = False  # nothing is to be answered any more
        self._drained: asyncio.Future[None] | None = None  # while too much that is written waits
        self._left = 0  # bytes that are written and not sent, and since when
        self._stuck = 0.0

    # Called by the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request, but not for ever."""
        self._transport = transport
        self._serving.connections.add(self)
        self._base = of_connection(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or the connection was closed."""
        self._serving.connections.discard(self)
        self._serving.ended()
        self.resume_writing()
        for exchange in (self._current, self._newest):
            if exchange is not None:
                exchange.wake()
        # They hold this connection, as it holds them: together they would be garbage.
        del self._parser
        self._base, self._environ = {}, {}

    def pause_writing(self) -> None:
        """The client does not read what it is sent."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """It does again."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Some bytes; most requests come whole."""
        if self._refused:
            return
        # While bytes wait to be parsed the connection is paused, and no more come; but if they do:
        self._unparsed = memoryview(b"".join([self._unparsed, data]) if self._unparsed else data)
        self._parse()

    def _parse(self) -> None:
        """Parse what has come, until it is to wait."""
        if self._parsing:  # what is parsed has been answered, and more is wanted: see below
            return
        self._parsing = True
        while self._unparsed and self._paused is None and not self._refused:
            part, self._unparsed = self._unparsed[:SLICE_BYTES], self._unparsed[SLICE_BYTES:]
            self._feed(part)
        self._parsing = False

    def _feed(self, part: memoryview) -> None:
        self._mixed = False
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on(part[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1")
            return
        if self._stage in (_HEAD, _BODY) and not self._mixed:  # else who knows whose bytes they are
            self._head_bytes += len(part)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"the request's head is larger than the {MAX_HEAD_BYTES} bytes allowed",
                )

    def _go_on(self, rest: memoryview) -> None:
        """Read on behind a head that offers an upgrade, which is not made.

        The parser takes all that follows for another protocol; a new one is told what it is.
        """
        environ = self._environ
        framing = [
            f"{name}: {environ[key]}\r\n"
            for name, key in (
                ("Content-Length", "CONTENT_LENGTH"),
                ("Transfer-Encoding", "HTTP_TRANSFER_ENCODING"),
            )
            if key in environ
        ]
        self._parser, self._muted = self._new_parser(), True
        self._parser.feed_data(f"POST / HTTP/1.1\r\n{''.join(framing)}\r\n".encode("latin-1"))
        self._muted = False
        if not framing:
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
        self._enter(_HEAD)
        self._head_bytes = 0
        self._environ, self._url = self._base.copy(), b""

    def on_url(self, url: bytes) -> None:
        """Some of the request's target."""
        if not self._muted:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or behind a body a trailer, which is let go."""
        if self._stage == _HEAD and (key := variable(name)):
            text, environ = value.decode("latin-1"), self._environ
            if key in environ:
                if key == "HTTP_HOST":
                    raise ValueError("two hosts")
                text = f"{environ[key]},{text}"
            environ[key] = text

    def on_headers_complete(self) -> None:
        """A request's head is complete; its body follows."""
        if self._muted:
            return
        parser, environ = self._parser, self._environ
        url, version = httptools.parse_url(self._url), parser.get_http_version()
        if url.schema:  # the target says it all (RFC 9112, section 3.2.2)
            environ["HTTP_HOST"] = url.host.decode("latin-1") + (f":{url.port}" if url.port else "")
        modern = version == "1.1"
        if modern and "HTTP_HOST" not in environ:
            raise ValueError("no host")
        if len(environ.get("CONTENT_LENGTH", "")) > MOST_DIGITS:
            raise ValueError("a length of too many digits")
        if environ.get("HTTP_TRANSFER_ENCODING", "chunked").lower() != "chunked":
            raise ValueError("a transfer coding that is not known here")
        environ["REQUEST_METHOD"] = parser.get_method().decode("ascii")
        environ["PATH_INFO"] = unquote_to_bytes(url.path or b"/").decode("latin-1")
        environ["QUERY_STRING"] = (url.query or b"").decode("latin-1")
        environ["SERVER_PROTOCOL"] = f"HTTP/{version}"
        environ["wsgi.input"] = BytesIO()
        self._upgrade = parser.should_upgrade()
        self._head_bytes = 0
        self._enter(_BODY)
        exchange = self._newest = Exchange(
            environ,
            keep_alive=modern and parser.should_keep_alive(),
            expects=modern and environ.get("HTTP_EXPECT", "").lower() == "100-continue",
        )
        if self._current is None:
            self._begin(exchange)
        else:
            self._pipeline.append(exchange)
            self._pause()

    def on_body(self, body: bytes) -> None:
        """Some of a request's body."""
        self._mixed, self._head_bytes, exchange = True, 0, self._newest
        if exchange is None or exchange.answered:
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
        self._enter(_IDLE)
        self._mixed = True
        if self._newest is not None:
            self._newest.complete = True
            self._newest.wake()

    # Called by the worker.

    def look(self, now: float) -> None:
        """End what has taken too long by ``now``, of the loop's time."""
        serving, seconds = self._serving, now - self._since
        left = self._transport.get_write_buffer_size()
        if left != self._left:
            self._left, self._stuck = left, now
        elif left and now - self._stuck > serving.idle_seconds:
            self._transport.abort()
        if self._refused or self._paused is not None:
            return  # nobody waits for the client to send
        if self._stage == _IDLE:
            if self._current is None and seconds > serving.idle_seconds:
                self._transport.close()
        elif self._stage == _BODY:
            self._limit("body", seconds, serving.body_seconds)
        elif self._stage == _HEAD:
            self._limit("head", seconds, serving.head_seconds)
        elif seconds > serving.head_seconds:  # nothing has ever come
            self._transport.close()

    def shutdown(self) -> None:
        """Answer what has come, and end."""
        if self._over:
            return
        if self._current is None:
            self._transport.close()
        elif self._newest is not None:
            self._newest.keep_alive = False

    def _begin(self, exchange: Exchange) -> None:
        """Begin to answer; a service that refuses has no time for a turn each."""
        self._current = exchange
        if self._over:
            return
        refusal = None
        if self._drained is None:  # else it takes a turn, and waits there
            refusal = self._serving.application.refusal(exchange.environ)
        if refusal is None:
            # A moment later most bodies are complete.
            self._loop.call_soon(self._serving.turns.begin, partial(self._answer, exchange))
        elif self._pipeline:  # whose next one would be refused from within this one's end
            self._loop.call_soon(self._send, exchange, refusal)
        else:
            self._send(exchange, refusal)

    def _answer(self, exchange: Exchange) -> None:
        """Answer one request, in its turn."""
        try:
            answer = self._serving.application(exchange.environ, partial(self._read, exchange))
        except HungUpError:
            if not self._over:
                self._transport.close()
            return
        except Exception:
            log.exception("the application has failed")
            exchange.keep_alive, answer = False, _FAILED
        if self._drained is not None:  # by a client that asks without reading
            wait(self._drained)
        self._send(exchange, answer)

    def _read(self, exchange: Exchange) -> tuple[bytes, bool]:
        """More of a request's body, and whether that is not all. Raises ``HungUpError``."""
        while not exchange.parts and not exchange.complete:
            if self._transport.is_closing() or self._refused:
                raise HungUpError
            if exchange.expects:
                self._transport.write(_CONTINUE)
                exchange.expects = False
            self._resume()
            if not exchange.parts and not exchange.complete:
                exchange.waiter = self._loop.create_future()
                wait(exchange.waiter)
        parts, exchange.parts, exchange.unread = exchange.parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts), not exchange.complete

    def _send(self, exchange: Exchange, answer: Answer) -> None:
        """Write a whole answer, and go on to the connection's next request."""
        if self._transport.is_closing() or self._over:
            return
        head, body, last = answer
        close = b"" if exchange.keep_alive or last else _CLOSE
        self._transport.write(b"%b%b%b\r\n%b" % (head, self._serving.date, close, body))
        exchange.answered = True
        exchange.parts.clear()
        self._current = None
        if last or not exchange.keep_alive:
            if self._stage == _IDLE and self._paused is None and not self._unparsed:
                self._transport.close()
            else:  # more has come, or is to come
                self._linger()
        elif self._pipeline:
            self._begin(self._pipeline.popleft())
        else:
            self._resume()
            if self._stage == _IDLE:
                self._since = self._loop.time()

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

    def _limit(self, what: str, seconds: float, allowed: float) -> None:
        if seconds > allowed:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the request's {what} did not come within the {allowed:g} seconds allowed",
            )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer what is not going to be a request, when it is its turn, and end the connection."""
        self._refused = True
        newest, receiving = self._newest, self._stage == _BODY
        if self._transport.is_closing() or self._over:
            return
        if newest is not None and receiving and newest.answered:
            self._linger()  # all is said
        elif self._current is None or (receiving and newest is self._current):
            path = self._url.split(b"?", 1)[0].decode("latin-1")
            body, content_type = error_body(path, status, detail, new_request_id())
            head = (
                f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: {content_type}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self._transport.write((head + body).encode())
            self._serving.refused(status)
            self._linger()
        elif newest is not None:  # those before it are still to be answered
            newest.keep_alive = False
        if newest is not None:
            newest.wake()

    def _linger(self) -> None:
        """Close once the client has had time to read: what it still sends would reset it all."""
        self._refused = self._over = True
        self._resume()
        self._transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self._transport.close)
