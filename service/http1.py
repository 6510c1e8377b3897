"""HTTP/1.1 as uvicorn reads it, within limits: of a request's head, and of the time it takes.

In: the bytes of a connection. Its requests are answered one after the other, each in its turn
(``service.waiting``), and an answer leaves in one write. A request's head may take
``head_seconds`` from its first byte, or from the connection's beginning, and ``MAX_HEAD_BYTES``;
its body ``body_seconds``. What takes longer is answered 408 and closed. A slow client costs a
connection, nothing else: no thread waits for it. Errors of framing are problem documents like all
others. Whoever answers a request can ask whether its client is still there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.correlation import new_request_id
from service.problems import error_body
from service.waiting import Turns, wait
from service.wsgi import GONE, Answer, HungUpError, OnLoop

MAX_HEAD_BYTES = 64 << 10

LINGER_SECONDS = 2.0

_IDLE, _HEAD, _BODY = range(3)

_FAILED = Answer(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n", b"", last=False)

log = logging.getLogger(__name__)


class _NoTrailers(list[Any]):
    """What follows a chunked body is not kept."""

    def append(self, _: Any) -> None:
        """Let it go."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection to ``application``; ``ended`` is called when it ends.

    ``refused`` is told the status of every answer that is the protocol's own.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        *,
        head_seconds: float,
        body_seconds: float,
        ended: Callable[[], None],
        refused: Callable[[HTTPStatus], None],
        application: OnLoop,
        turns: Turns,
    ) -> None:
        super().__init__(config, server_state, {})
        self._seconds = {_HEAD: head_seconds, _BODY: body_seconds}
        self._ended = ended
        self._count = refused
        self._application = application
        self._turns = turns
        self._stage = _IDLE  # of the request whose bytes come in
        self._timed = _IDLE  # the stage that ``_timer`` limits
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._mixed = False  # whether these bytes are of more than one request, or of a body too
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request, but not for ever."""
        super().connection_made(transport)
        self._limit(_HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or the connection was closed."""
        super().connection_lost(exc)
        self._ended()
        self._limit(_IDLE)

    def data_received(self, data: bytes) -> None:
        """Some bytes; most requests come whole, and no clock is set for them."""
        if self._refused:
            return
        self._mixed = self._stage == _BODY
        super().data_received(data)
        if self._stage == _HEAD:
            if not self._mixed:  # else it is not known how much of it is this head's
                self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"the request's head is larger than the {MAX_HEAD_BYTES} bytes allowed",
                )
                return
        if self._stage != self._timed and not self.transport.is_closing():
            self._limit(self._stage)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._stage, self._head_bytes = _HEAD, 0
        scope: Any = self.scope
        scope[GONE] = self.transport.is_closing

    def on_headers_complete(self) -> None:
        """A request's head is complete; its body follows."""
        self._stage = _BODY
        super().on_headers_complete()
        self.headers = _NoTrailers()

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._stage, self._mixed = _IDLE, True
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: object) -> None:
        """Begin to answer; a service that refuses has no time for a turn each."""
        scope: Any = cycle.scope
        refusal = self._application.refusal(scope) if cycle.keep_alive else None
        if refusal is None:
            # A moment later most bodies are complete.
            self.loop.call_soon(self._turns.begin, partial(self._answer, cycle))
        elif self.pipeline:  # whose next one would be refused from within this one's end
            self.loop.call_soon(self._send, cycle, refusal)
        else:
            self._send(cycle, refusal)

    def _answer(self, cycle: RequestResponseCycle) -> None:
        """Answer one request, in its turn."""
        scope: Any = cycle.scope
        try:
            answer = self._application(scope, partial(self._read, cycle))
        except HungUpError:
            return
        except Exception:
            log.exception("the application has failed")
            cycle.keep_alive, answer = False, _FAILED
        if self.flow.write_paused:  # by a client that asks without reading
            wait(self.loop.create_task(self.flow.drain()))
        self._send(cycle, answer)

    def _read(self, cycle: RequestResponseCycle) -> tuple[bytes, bool]:
        """More of a request's body, and whether that is not all. Raises ``HungUpError``."""
        if not cycle.more_body and not cycle.disconnected:
            body, cycle.body = bytes(cycle.body), bytearray()
            return body, False
        message: Any = wait(self.loop.create_task(cycle.receive()))
        if message["type"] == "http.disconnect":
            raise HungUpError
        return message["body"], message["more_body"]

    def _send(self, cycle: RequestResponseCycle, answer: Answer) -> None:
        """Write a whole answer, and go on to the connection's next request."""
        if self.transport.is_closing():
            return
        head, body, last = answer
        lines = self.server_state.default_headers
        own = b"".join([b"%b: %b\r\n" % line for line in lines])
        if last:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            own += b"Connection: close\r\n"
        self.transport.write(b"%b%b\r\n%b" % (head, own, body))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """The bytes are no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1")

    def _limit(self, stage: int) -> None:
        """Set the clock of a stage in place of the one before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed = stage
        if stage != _IDLE:
            self._timer = self.loop.call_later(self._seconds[stage], self._too_slow)

    def _too_slow(self) -> None:
        if self._stage == _IDLE:  # a connection on which nothing has ever come
            self.transport.close()
            return
        what, seconds = "body" if self._stage == _BODY else "head", self._seconds[self._stage]
        self._refuse(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the request's {what} did not come within the {seconds:g} seconds allowed",
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer what is not going to be a request, if it is this one's turn; then close."""
        self._limit(_IDLE)
        cycle, mine = self.cycle, self._stage == _BODY
        busy = bool(self.pipeline) or (cycle is not None and not cycle.response_complete)
        if not self.transport.is_closing() and (
            not cycle.response_started and not self.pipeline if mine else not busy
        ):
            path = self.url.split(b"?", 1)[0].decode("latin-1") if self.scope else ""
            body, content_type = error_body(path, status, detail, new_request_id())
            head = (
                f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: {content_type}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write((head + body).encode())
            self._count(status)
        self._linger()

    def _linger(self) -> None:
        """Close once the client has had time to read: what it still sends would reset it all."""
        self._refused = True
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
