"""What every answer gets last: its headers, its counts and its log line. WSGI around Flask.

As functions that Flask calls after each request the same would cost three times as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from service import logs
from service.correlation import correlation
from service.headers import complete
from service.http.wsgi import TAKEN, TOLD
from service.journal import Answered, Journal, Reader
from service.messages import REQUEST, Request

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Finish:
    """``application``, with the headers that every answer of the service has.

    Pages of ``origins`` may read the answers. Of each, ``count`` is told by way of ``journal``, for
    the metrics, and the log gets a line.
    """

    def __init__(
        self,
        application: WSGIApplication,
        journal: Journal,
        *,
        count: Reader,
        origins: tuple[str, ...],
        max_body_bytes: int,
    ) -> None:
        self._application = application
        self._journal = journal
        self._count = count
        self._origins = origins
        self._max_body_bytes = max_body_bytes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request as ``application`` does."""
        code, length = 0, None

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], object]:
            nonlocal code, length
            code = int(status[:3])
            for name, value in headers:
                if name == "Content-Length":
                    length = int(value)
            complete(headers, environ, self._origins)
            return start_response(status, headers, exc_info)

        parts = self._application(environ, start)
        entry = _entry(environ, code, length, self._max_body_bytes)
        if entry is not None:
            self.tell(entry)
        return parts

    def tell(self, entry: Answered) -> None:
        """Count and log a request that has had its answer."""
        self._journal.add(self._count, entry)
        if logs.wanted():
            logs.answered(entry)


def _entry(
    environ: WSGIEnvironment, status: int, bytes_out: int | None, most: int
) -> Answered | None:
    """What is told of a request; None if Flask never made one of ``environ``, or it is told."""
    request: Request | None = environ.get(REQUEST)
    if request is None or TOLD in environ:
        return None
    ids = correlation(environ)
    rule, method = request.url_rule, environ["REQUEST_METHOD"]
    return Answered(
        created=time.time(),
        request_id=ids.request_id,
        trace_id=ids.trace_id,
        method=method,
        path=request.path,
        route=rule.rule if rule else None,
        variant=request.variant,
        status=status,
        bytes_in=_bytes_in(request, most),
        bytes_out=0 if method == "HEAD" else bytes_out,
        seconds=time.monotonic() - request.started,
    )


def _bytes_in(request: Request, most: int) -> int:
    """What was read of the body; under another server its announced length, where allowed."""
    taken: int | None = request.environ.get(TAKEN)
    if taken is not None:
        return taken
    announced = request.content_length
    if announced is not None and announced <= most:
        return announced
    # Werkzeug keeps what get_data() has read here, and only calling it again would tell.
    return len(getattr(request, "_cached_data", b""))
