"""Requests and responses, as Flask handles them here.

Between two runs of a model its weights have pushed the interpreter's code out of the caches, so
that a request's Python costs about 2.5 times as much as in a tight loop, in proportion to the
amount of code. The shortcuts below, in ``service.app`` and in ``service.journal`` are those that
measurement showed to be worth it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cached_property
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, cast

import flask
from flask.sessions import NullSession, SessionInterface
from werkzeug.formparser import FormDataParser

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


REQUEST = "batchnorm.request"
"""The environment's key for the request that Flask has made of it."""


class Request(flask.Request):
    """A request that keeps uploads in memory; the body's ceiling bounds it. Nothing hits a disk.

    ``started`` is its arrival, of ``time.monotonic()``; ``variant`` is the one that answers it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.started = time.monotonic()
        self.variant: str | None = None
        self.environ[REQUEST] = self

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body as the server has it, where that is the whole of an allowed length.

        Werkzeug's own stream asks again and again until nothing comes.
        """
        length, most = self.content_length, self.max_content_length
        if (
            length is None
            or (most is not None and length > most)
            or not self.environ.get("wsgi.input_terminated")
        ):
            return super().stream
        body: IO[bytes] = self.environ["wsgi.input"]
        return body

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        return BytesIO()

    def make_form_data_parser(self) -> FormDataParser:
        """One that raises ``ValueError`` for a form that it cannot read, and not finds it empty."""
        parser = super().make_form_data_parser()
        parser.silent = False
        return parser


class Response(flask.Response):
    """A response whose body, where it is in memory, reaches the server as a list.

    Werkzeug wraps even that in an iterator, with more to call than to send.
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI has it."""
        body: Any = self.response
        if (
            not isinstance(body, list)
            or [type(each) for each in body] != [bytes]
            or self._on_close
            or environ["REQUEST_METHOD"] == "HEAD"
            or not 200 <= self.status_code < 600
            or self.status_code in (204, 304)
        ):
            return super().__call__(environ, start_response)
        self.headers["Content-Length"] = str(len(body[0]))
        start_response(self.status, self.headers.to_wsgi_list())
        chunks: list[bytes] = body
        return chunks


class NoSessions(SessionInterface):
    """There are no cookies here, so that nothing has to look for one."""

    _session = NullSession()

    def open_session(self, app: flask.Flask, request: flask.Request) -> NullSession:
        """The one session that holds nothing."""
        return self._session

    def is_null_session(self, obj: object) -> bool:
        """Nothing is ever saved."""
        return True


def current() -> Request:
    """The request in progress, past Flask's proxy."""
    return cast(Request, flask.request._get_current_object())  # type: ignore[attr-defined]
