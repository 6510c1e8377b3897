"""What ties a request to its log lines, its answer and its trace: a request id and a trace id.

A caller's ``X-Request-ID`` is kept if it is valid; else the id of the caller's trace serves, and
else one is made. ``traceparent`` is W3C Trace Context, section 3.2 (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

REQUEST_ID = "X-Request-ID"
TRACEPARENT = "traceparent"

_KEY = "batchnorm.correlation"
_VALID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
_TRACE = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


class Correlation(NamedTuple):
    """``traceparent`` is the caller's, and ``trace_id`` is in it; None where there was none."""

    request_id: str
    trace_id: str | None
    traceparent: str | None


def correlation(environ: WSGIEnvironment) -> Correlation:
    """The ids of the request that ``environ`` describes: the same ones whenever it is asked."""
    known: Correlation | None = environ.get(_KEY)
    if known is not None:
        return known
    traceparent = environ.get("HTTP_TRACEPARENT")
    trace = _TRACE.fullmatch(traceparent) if traceparent else None
    trace_id = trace["trace"] if trace else None
    wished = environ.get("HTTP_X_REQUEST_ID")
    if not wished or not _VALID.fullmatch(wished):
        wished = trace_id or new_request_id()
    made = environ[_KEY] = Correlation(wished, trace_id, traceparent if trace else None)
    return made


def new_request_id() -> str:
    """An id for a request that brought none: unlike any other, and no secret."""
    return f"{random.getrandbits(128):032x}"
