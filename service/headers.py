"""The headers of every answer: what a browser may do with it, its ids, and who may read it.

An API's answer holds nothing to execute, frame or store. A page that needs more sets its own
headers, which are kept. Other origins may read answers only where ``CORS_ORIGINS`` names
them (the Fetch standard, "HTTP CORS protocol"); keys travel in headers and there are no cookies,
so credentials are never allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask, Response, current_app

from service.correlation import REQUEST_ID, TRACEPARENT, correlation
from service.messages import current
from service.state import settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Of the Open Inference Protocol: how many bytes of a body are JSON, before tensors as bytes."""

ANY_ORIGIN = "*"
PREFLIGHT_SECONDS = "600"

_SECURITY = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
_SENT = f"Authorization, Content-Encoding, Content-Type, {HEADER_LENGTH}, X-API-Key, "
_SENT += f"{REQUEST_ID}, {TRACEPARENT}"
_READ = f"{HEADER_LENGTH}, Retry-After, {REQUEST_ID}, {TRACEPARENT}"


def answer_headers(environ: WSGIEnvironment, origins: tuple[str, ...]) -> list[tuple[str, str]]:
    """What every answer to ``environ`` carries; ``origins`` are those that may read it."""
    ids = correlation(environ)
    headers = [*_SECURITY, (REQUEST_ID, ids.request_id)]
    if ids.traceparent:
        headers.append((TRACEPARENT, ids.traceparent))
    if not origins:
        return headers
    origin = environ.get("HTTP_ORIGIN", "")
    if ANY_ORIGIN not in origins:
        headers.append(("Vary", "Origin"))
    if _may_read(origin, origins):
        allowed = ANY_ORIGIN if ANY_ORIGIN in origins else origin
        headers.append(("Access-Control-Allow-Origin", allowed))
        headers.append(("Access-Control-Expose-Headers", _READ))
    return headers


def init_app(app: Flask) -> None:
    """Answer browsers' preflight requests to ``app``."""
    app.before_request(_preflight)


def complete(
    headers: list[tuple[str, str]], environ: WSGIEnvironment, origins: tuple[str, ...]
) -> None:
    """Add to an answer's headers what every answer carries, but for what it has said itself."""
    present = {name.lower() for name, _ in headers}
    headers += [
        (name, value)
        for name, value in answer_headers(environ, origins)
        if name == "Vary" or name.lower() not in present
    ]


def _preflight() -> Response | None:
    """Answer what a browser asks before a request of another origin; it brings no key."""
    request = current()
    if request.method != "OPTIONS" or request.url_rule is None:
        return None
    origins, asked = settings().cors_origins, request.headers
    origin = asked.get("Origin", "")
    if "Access-Control-Request-Method" not in asked or not _may_read(origin, origins):
        return None
    response: Response = current_app.make_default_options_response()
    response.headers["Access-Control-Allow-Methods"] = response.headers["Allow"]
    response.headers["Access-Control-Allow-Headers"] = _SENT
    response.headers["Access-Control-Max-Age"] = PREFLIGHT_SECONDS
    return response


def _may_read(origin: str, origins: tuple[str, ...]) -> bool:
    return bool(origin) and (ANY_ORIGIN in origins or origin in origins)
