"""Every error in one form: the service's own, Flask's and unexpected ones.

A view raises ``Problem(status, detail)``. The body is RFC 9457's ``application/problem+json``:
{"type", "title", "status", "detail"}; "type" is "about:blank", so "title" is the status code's own
phrase (section 4.2.1). Beside them stands "request_id", as in the log (section 3.2). Under /v2 the
body is the Open Inference Protocol's: {"error"}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Literal, TypedDict

from flask import Flask, Response, request
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
)

from service.correlation import correlation
from service.http.bodies import HungUpError
from service.models.rules import Between

_written = json.JSONEncoder(separators=(",", ":")).encode

PROBLEM_TYPE = "application/problem+json"

HUNG_UP = 499
"""The status, in logs and metrics alone, of a request whose client did not wait for its answer."""

Refusals = Mapping[HTTPStatus, str]
"""The problems that a piece of code may raise, and when; declared beside it."""


class ProblemDetails(TypedDict):
    """What went wrong, as RFC 9457 has it.

    `request_id` names the request in the log too, unless it was refused before it was read, because
    too many pictures were waiting: such requests are counted there.
    """

    type: Literal["about:blank"]
    title: str
    status: Annotated[int, Between(400, 599)]
    detail: str
    request_id: str


class ProtocolError(TypedDict):
    """What went wrong, as the Open Inference Protocol has it."""

    error: str


class Problem(Exception):  # noqa: N818 - the RFC's word
    """An answer that is an error: its status code, and what the caller can do about it."""

    def __init__(
        self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


def init_app(app: Flask) -> None:
    """Answer every error of ``app`` in the form that its path asks for."""
    app.register_error_handler(Problem, _from_problem)
    app.register_error_handler(HTTPException, _from_http_exception)
    app.register_error_handler(HungUpError, _from_hung_up)


def _from_problem(problem: Problem) -> Response:
    answer = _response(problem.status, problem.detail)
    answer.headers.update(problem.headers)
    return answer


def _from_http_exception(error: HTTPException) -> Response:
    """Flask's own errors, with headers such as ``Allow``; an unexpected one is logged by Flask."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    if isinstance(error, InternalServerError):
        return _response(status, "the service failed; its log says why")
    answer = _response(status, _detail(error) or status.phrase)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            answer.headers[name] = value
    return answer


def _detail(error: HTTPException) -> str | None:
    """What has gone wrong, for who calls an API and has not typed an address."""
    if isinstance(error, NotFound):
        return "there is no such route; /docs names those there are"
    if isinstance(error, MethodNotAllowed):
        methods = ", ".join(sorted(error.valid_methods or ()))
        return f"the method {request.method} is not allowed here; allowed: {methods}"
    return error.description


def _from_hung_up(error: HungUpError) -> Response:
    """What nobody reads: it is for the log and the metrics."""
    return Response(status=HUNG_UP)


def error_body(path: str, status: HTTPStatus, detail: str, request_id: str) -> tuple[str, str]:
    """An error's body, and its media type, as the callers of ``path`` expect it."""
    if in_protocol(path):
        error: ProtocolError = {"error": detail}
        return _written(error), "application/json"
    problem: ProblemDetails = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    return _written(problem), PROBLEM_TYPE


def in_protocol(path: str) -> bool:
    """Whether a path is the Open Inference Protocol's, whose errors have its form."""
    return path == "/v2" or path.startswith("/v2/")


def _response(status: HTTPStatus, detail: str) -> Response:
    request_id = correlation(request.environ).request_id
    body, content_type = error_body(request.path, status, detail, request_id)
    return Response(body, status, content_type=content_type)
