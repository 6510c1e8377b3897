"""HTTP/1.1 for short requests and answers, within limits of size and time.

In: the bytes of a connection. Out: each request as a WSGI environment, answered in order
(``service.http.waiting``), each answer in one write. A request's head may take ``head_seconds``
from its first byte, or from the connection's beginning, and its headers ``MAX_HEAD_BYTES``; its
body may take ``body_seconds``. What takes longer is answered 408, and the connection closed. A
connection is closed without an answer if for ``idle_seconds`` nothing is asked, or nothing of an
answer is taken. A slow client costs a connection and nothing else: no thread waits for it, and no
more of a body is taken from it than is about to be read. Framing errors are problem documents like
all others. The code that answers a request can ask whether its client is still there.

Between two runs of a model the caches are cold for all other code, so calls are kept few, and no
timer is set for a request. The bytes are read by ``service.http.incoming``.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from functools import partial
from http import HTTPStatus

from service.http.bodies import HungUpError, NoRoomError
from service.http.exchange import Exchange, Refusal
from service.http.incoming import BODY, HEAD, IDLE, NEW, UNREAD_BYTES, Incoming
from service.http.serving import Serving
from service.http.waiting import wait
from service.http.wsgi import Answer

LINGER_SECONDS = 2.0
"""After an answer that ends a connection, what the client still sends is read and thrown away until
it has sent nothing for so long: a connection closed at once may be reset before the answer is read.
"""

MOST_LINGER_SECONDS = 30.0
"""The same is done for so long at most, however much is sent."""

_FAILED = Answer(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n", b"", last=False)
_CLOSE = b"Connection: close\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logging.getLogger(__name__)


class Connection(Incoming):
    """One connection."""

    def __init__(self, serving: Serving) -> None:
        super().__init__()
        self._serving = serving
        self._current: Exchange | None = None  # is being answered; behind it wait
        self._pipeline: deque[Exchange] = deque()
        self._over = False  # nothing is to be answered any more
        self._drained: asyncio.Future[None] | None = None  # while too much that is written waits
        self.unsent = 0  # bytes that are written and not sent, and since when there are so many
        self.stuck = 0.0

    # Called by the event loop.

    # A stream's transport, where asyncio declares any.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request, but not for ever."""
        super().connection_made(transport)
        self._serving.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or the connection was closed."""
        super().connection_lost(exc)
        self._serving.connections.discard(self)
        self._serving.ended()
        self.resume_writing()
        if self._current is not None:
            self._current.wake()

    def pause_writing(self) -> None:
        """The client does not read what it is sent."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """It does again."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # Called by the worker.

    @property
    def idle_since(self) -> float:
        """Since when there is nothing to do on it, of the loop's time; infinite where there is.

        Nor is there anything to do where a client does not take what it is sent.
        """
        if self._transport.is_closing():
            return math.inf
        if self._drained is not None and self.unsent:
            return self.stuck
        idle = self._stage in (NEW, IDLE) and self._current is None and not self._over
        return self._since if idle else math.inf

    def abort(self) -> None:
        """End it now, whatever is still to be sent."""
        self._transport.abort()

    def look(self, now: float) -> None:
        """End what has taken too long by ``now``, of the loop's time."""
        serving, seconds = self._serving, now - self._since
        left = self._transport.get_write_buffer_size()
        if left != self.unsent:
            self.unsent, self.stuck = left, now
        elif left and now - self.stuck > serving.idle_seconds:
            self.abort()
        if self._refused or self._paused is not None:
            return  # nobody waits for the client to send
        if self._stage == IDLE:
            if self._current is None and seconds > serving.idle_seconds:
                self._transport.close()
        elif self._stage == BODY:
            self._limit("body", seconds, serving.body_seconds)
        elif self._stage == HEAD:
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

    def _arrived(self, exchange: Exchange) -> None:
        """Answer a request when it is its turn."""
        if self._current is None:
            self._begin(exchange)
        else:
            self._pipeline.append(exchange)
            self._pause()

    def _begin(self, exchange: Exchange) -> None:
        """Begin to answer; a service that refuses has no time for a turn each."""
        self._current = exchange
        if self._over:
            return
        refusal = None
        if self._drained is None:  # else it takes a turn, and waits there
            refusal = self._refusal(exchange)
        if refusal is None:
            # A moment later most bodies are complete.
            self._loop.call_soon(self._serving.turns.begin, partial(self._answer, exchange))
        elif self._pipeline:  # whose next one would be refused from within this one's end
            self._loop.call_soon(self._send, exchange, refusal)
        else:
            self._send(exchange, refusal)

    def _refusal(self, exchange: Exchange) -> Answer | None:
        """The answer to what the application is not to see, else None."""
        application = self._serving.application
        if exchange.refusal is None:
            return application.refusal(exchange.environ)
        return application.no_request(exchange.environ, *exchange.refusal)

    def _answer(self, exchange: Exchange) -> None:
        """Answer one request, in its turn."""
        if self._drained is not None:  # by a client that asks without reading
            wait(self._drained)
        if exchange.answered:  # it was refused since its turn was asked for
            return
        try:
            answer = self._refusal(exchange) or self._serving.application(
                exchange.environ, _Reading(self, exchange)
            )
        except HungUpError:
            if not self._over:
                self._transport.close()
            return
        except Exception:
            log.exception("the application has failed")
            exchange.keep_alive, answer = False, _FAILED
        self._send(exchange, answer)

    def read(self, exchange: Exchange) -> tuple[bytes, bool]:
        """More of a request's body, and whether that is not all.

        Raises ``HungUpError``, and ``NoRoomError`` once it is to give way.
        """
        while not exchange.parts and not exchange.complete:
            if self._transport.is_closing() or self._refused:
                raise HungUpError
            if exchange.unwanted:
                raise NoRoomError
            if exchange.expects:
                self._transport.write(_CONTINUE)
                exchange.expects = False
            self._resume()
            if not exchange.parts and not exchange.complete:
                exchange.waiter = self._loop.create_future()
                wait(exchange.waiter)
        if exchange.complete and not self._pipeline:  # or nobody would see it hang up
            self._resume()
        parts, exchange.parts, exchange.unread = exchange.parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts), not exchange.complete

    def _send(self, exchange: Exchange, answer: Answer) -> None:
        """Write a whole answer, and go on to the connection's next request."""
        if self._transport.is_closing() or self._over:
            return
        if exchange.rest > UNREAD_BYTES:  # more of a body than is worth to be thrown away
            exchange.keep_alive = False
        self._write(answer, close=not exchange.keep_alive)
        exchange.answered = True
        exchange.parts.clear()
        self._current = None
        if answer.last or not exchange.keep_alive:
            if self._refused or self._stage != IDLE or self._paused is not None or self._unparsed:
                self._linger()  # more has come, or is to come
            else:
                self._transport.close()
        elif self._pipeline:
            self._begin(self._pipeline.popleft())
        else:
            self._resume()
            if self._stage == IDLE:
                self._since = self._loop.time()

    def _write(self, answer: Answer, *, close: bool) -> None:
        line = _CLOSE if close and not answer.last else b""
        head, date, body = answer.head, self._serving.date, answer.body
        if len(body) > UNREAD_BYTES:  # not copied: many may be asked for the same file
            self._transport.writelines([b"%b%b%b\r\n" % (head, date, line), body])
        else:
            self._transport.write(b"%b%b%b\r\n%b" % (head, date, line, body))

    def _limit(self, what: str, seconds: float, allowed: float) -> None:
        if seconds > allowed:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the request's {what} did not come within the {allowed:g} seconds allowed",
            )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Let the connection end with the answer to what is not going to be a request.

        It comes in its turn; one of which only the body is bad, and that is being answered, has it
        at once.
        """
        self._refused = True
        if self._transport.is_closing() or self._over:
            return
        refusal, bad = Refusal(status, detail, self._loop.time() - self._since), self._newest
        if self._stage != BODY or bad is None:
            self._newest = Exchange(self._known(), refusal=refusal)
            self._arrived(self._newest)
            return
        bad.refusal, bad.keep_alive = refusal, False
        if bad.answered:  # all is said
            self._linger()
        elif bad is self._current:
            self._send(bad, self._serving.application.no_request(bad.environ, *refusal))
            bad.wake()

    def _linger(self) -> None:
        """Close once the client has had time to read: what it still sends would reset it all.

        It is thrown away unparsed, for as long as it goes on within ``MOST_LINGER_SECONDS``.
        """
        self._refused = self._over = True
        self._heard = self._loop.time()
        self._resume()
        self._transport.write_eof()
        until = self._heard + MOST_LINGER_SECONDS
        self._loop.call_later(LINGER_SECONDS, self._leave, until)

    def _leave(self, until: float) -> None:
        now = self._loop.time()
        if now < until and now - self._heard < LINGER_SECONDS:
            self._loop.call_later(LINGER_SECONDS, self._leave, until)
        else:
            self._transport.close()


class _Reading:
    """Reads one request's body (``service.http.bodies.Read``)."""

    __slots__ = ("_connection", "_exchange")

    def __init__(self, connection: Connection, exchange: Exchange) -> None:
        self._connection = connection
        self._exchange = exchange

    def __call__(self) -> tuple[bytes, bool]:
        return self._connection.read(self._exchange)

    def give_way(self) -> None:
        """Have whoever reads it get a ``NoRoomError``."""
        self._exchange.unwanted = True
        self._exchange.wake()
