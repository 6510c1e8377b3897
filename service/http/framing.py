"""What a request's head must say about its own framing, and the answer to one that does not.

    check(environ, version)                 # in a callback of the parser: raises FramingError
    status, detail = fault(error, version)  # of what the parser has raised

Where a request ends must be beyond doubt: if two servers see its end in different places, one
client can smuggle a request into another's connection. Sources: RFC 9112, sections 3.2, 6.1 and
6.3; RFC 9110, section 15.6.6.
"""

from __future__ import annotations

import math
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from service.numbers import MOST_DIGITS

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MOST_TARGET_BYTES = 65_535
"""What the parser of targets takes."""

NEWEST = "1.1"
"""Version, of the two that are spoken."""

_SPOKEN = ("1.0", NEWEST)
_HOST = re.compile(r"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)
_UNREAD = "0.0"
"""What the parser says before it has come to a first request's version."""


class FramingError(Exception):
    """A request that cannot be read; how it is answered."""

    def __init__(self, detail: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def check(environ: WSGIEnvironment, version: str) -> None:
    """Raise ``FramingError`` where the headers are not those of HTTP in ``version``."""
    if version == NEWEST:
        if "HTTP_HOST" not in environ:
            raise FramingError(
                "the request has no Host header; one of HTTP/1.1 has to (RFC 9112, section 3.2)"
            )
    elif version not in _SPOKEN:
        raise _another(version)
    if not _HOST.fullmatch(environ.get("HTTP_HOST", "")):
        raise FramingError("the request's Host header is no host and port; send one like a.b:8000")
    if len(environ.get("CONTENT_LENGTH", "")) > MOST_DIGITS:
        raise FramingError(
            f"the request's Content-Length has more than the {MOST_DIGITS} digits allowed"
        )
    if "HTTP_TRANSFER_ENCODING" in environ:
        _check_codings(environ["HTTP_TRANSFER_ENCODING"])


def check_target(target: bytes) -> None:
    """Raise ``FramingError`` where a request's target, or what has come of it, is too long."""
    if len(target) > MOST_TARGET_BYTES:
        raise FramingError(
            f"the request's target is longer than the {MOST_TARGET_BYTES:,} bytes allowed",
            HTTPStatus.REQUEST_URI_TOO_LONG,
        )


def path_of(target: bytes) -> bytes | None:
    """The path of a target that may be cut off, or no target at all; None where it names none.

    A whole address may hold a name and a password, which are nobody's here (RFC 9110, 4.2.4).
    """
    path = re.split(rb"[?#]", target, maxsplit=1)[0]
    if not path.startswith(b"/") and path != b"*":
        _, found, rest = path.partition(b"://")
        _, slash, path = rest.partition(b"/")
        return slash + path or b"/" if found else None
    return path


def fault(error: httptools.HttpParserError, version: str) -> tuple[HTTPStatus, str]:
    """The status and the detail for a request of ``version`` at which the parser raised ``error``.

    What a callback has raised is its context. Of another version nothing else is asked: this is
    not its parser, which stops of itself at the preface of HTTP/2.
    """
    cause = error.__context__
    if version not in (_UNREAD, *_SPOKEN):
        cause = _another(version)
    if isinstance(cause, FramingError):
        return cause.status, cause.detail
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        detail = (
            "the request does not begin with a method that is known here (GET, HEAD, POST, OPTIONS "
            "are); it must be plain HTTP/1.1, without TLS"
        )
    elif isinstance(cause, httptools.HttpParserInvalidURLError):
        detail = "the request's target is neither a path nor a whole address"
    else:
        detail = f"the request is not valid HTTP/1.1: {error}"
    return HTTPStatus.BAD_REQUEST, detail


def length(environ: WSGIEnvironment) -> float:
    """How many bytes a request's body has; infinitely many, where nobody knows."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return math.inf
    return int(environ.get("CONTENT_LENGTH") or 0)


def _check_codings(listed: str) -> None:
    """Raise ``FramingError`` where a body is not in chunks and nothing else.

    The parser has seen to it that nothing comes behind ``chunked``.
    """
    *others, last = (each.strip(" \t") for each in listed.lower().split(","))
    if last != "chunked":
        raise FramingError(
            "the request's last transfer coding is not chunked, so that nobody knows where its "
            "body ends; send it in chunks, or with a Content-Length"
        )
    if others:
        raise FramingError(
            "a transfer coding of the request is not known here; chunked alone is",
            HTTPStatus.NOT_IMPLEMENTED,
        )


def _another(version: str) -> FramingError:
    return FramingError(
        f"HTTP/{version} is not spoken here; send the request in HTTP/{NEWEST}",
        HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    )
