"""API keys: where ``API_KEYS`` is set, every route but those marked ``@public`` asks for one.

A key comes as ``Authorization: Bearer <key>`` or as ``X-API-Key: <key>``. It is checked before
anything else, so that a client without one does not even learn which routes exist, and before a
large body is read (``service.heads``).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask

from service.messages import current
from service.problems import Problem, Refusals
from service.settings import key_digest
from service.state import state_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

View = TypeVar("View", bound=Callable[..., Any])

_CHALLENGE = 'Bearer realm="batchnorm-service"'

NO_KEY: Refusals = {HTTPStatus.UNAUTHORIZED: "no API key, or one that is not known"}
"""Of every view that is not public, where keys are set."""

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""The two ways to bring a key, as OpenAPI has them."""


def public(view: View) -> View:
    """Mark a view that answers without a key: those that orchestrators probe, and no other."""
    view.public = True  # type: ignore[attr-defined]
    return view


def is_public(view: View) -> bool:
    """Whether a view answers without a key."""
    return getattr(view, "public", False)


def init_app(app: Flask) -> None:
    """Have ``app`` ask for a key, if its settings have any."""
    digests = state_of(app).settings.api_keys
    if not digests:
        return

    @app.before_request
    def ask() -> None:
        view = app.view_functions.get(current().endpoint or "")
        if view is None or not is_public(view):
            _check(digests)


def brings_key(environ: WSGIEnvironment, digests: tuple[bytes, ...]) -> bool:
    """Whether a request brings one of the keys."""
    # Digests have one length and are all compared, so that the time tells neither how much of a
    # key was right nor which one it was.
    found = [
        hmac.compare_digest(key_digest(key), digest) for key in _sent(environ) for digest in digests
    ]
    return any(found)


def _sent(environ: WSGIEnvironment) -> list[str]:
    """What a request says to be a key."""
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return [key for key in (environ.get("HTTP_X_API_KEY", ""), bearer) if key]


def _check(digests: tuple[bytes, ...]) -> None:
    """Raises ``Problem`` 401 unless the current request brings one of the keys."""
    environ = current().environ
    if brings_key(environ, digests):
        return
    sent = _sent(environ)
    detail = "the API key is not known" if sent else "an API key is needed"
    challenge = f'{_CHALLENGE}, error="invalid_token"' if sent else _CHALLENGE
    raise Problem(
        HTTPStatus.UNAUTHORIZED,
        f"{detail}; send it as Authorization: Bearer <key>, or as X-API-Key: <key>",
        headers={"WWW-Authenticate": challenge},
    )
