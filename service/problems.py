"""Every error as RFC 9457 ``application/problem+json``: the service's, Flask's and the unexpected.

A view raises ``Problem(status, detail)``. The body is {"type", "title", "status", "detail"};
"type" is "about:blank", so "title" is the status code's own phrase (RFC 9457, section 4.2.1).
Beside them stands "request_id", which names the request in the log too (section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from flask import Flask, Response, json, request
from werkzeug.exceptions import HTTPException, InternalServerError

from service.correlation import correlation


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
    """Answer every error of ``app`` as problem+json."""
    app.register_error_handler(Problem, _from_problem)
    app.register_error_handler(HTTPException, _from_http_exception)


def _from_problem(problem: Problem) -> Response:
    answer = _response(problem.status, problem.detail)
    answer.headers.update(problem.headers)
    return answer


def _from_http_exception(error: HTTPException) -> Response:
    """Flask's own errors, with headers such as ``Allow``; an unexpected one is logged by Flask."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    if isinstance(error, InternalServerError):
        return _response(status, "the service failed; its log says why")
    answer = _response(status, error.description or status.phrase)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            answer.headers[name] = value
    return answer


def _response(status: HTTPStatus, detail: str) -> Response:
    body = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "detail": detail,
        "request_id": correlation(request.environ).request_id,
    }
    return Response(json.dumps(body), status, content_type="application/problem+json")
