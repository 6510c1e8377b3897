"""The files of one request, as bytes: those of a multipart form's field ``image``, or its body.

In: a request whose body may be read. Out: (file name, content) of each, in order, whether or not it
is a picture. Everything is read from memory, within the limits of the settings.
"""

from __future__ import annotations

from http import HTTPStatus

from werkzeug.exceptions import RequestEntityTooLarge

from service.forms import boundary_fault, form_fault, plain_files
from service.messages import Request
from service.problems import Problem
from service.settings import Settings

FIELD = "image"


def read_files(request: Request, settings: Settings) -> list[tuple[str | None, bytes]]:
    """The files that ``request`` brings: one without a name where it is the body itself.

    Raises ``Problem`` 400 (none, an unknown field, a form that cannot be read) and 413.
    """
    body = read_body(request, settings.max_body_bytes)
    if not body:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the request has no body; {_how()}")
    if request.mimetype == "multipart/form-data":
        return _of_form(body, request, settings.max_images)
    return [(None, body)]


def read_body(request: Request, limit: int) -> bytes:
    """The whole body, which is then parsed from memory. Raises ``Problem`` 400 and 413."""
    body = b""
    try:
        body = request.get_data()
        too_large = len(body) > limit
    except RequestEntityTooLarge:
        too_large = True
    except Exception as error:  # each WSGI server has its own types for broken chunks
        raise Problem(HTTPStatus.BAD_REQUEST, "the body cannot be read to its end") from error
    if too_large:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than the {limit:,} bytes allowed",
        )
    if len(body) < (request.content_length or 0):
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            f"the body ends after {len(body)} of {request.content_length} bytes",
        )
    return body


def _of_form(body: bytes, request: Request, most: int) -> list[tuple[str | None, bytes]]:
    """The files of field ``image``, of which there may be so many."""
    plain = plain_files(body, request.content_type or "", most)
    if plain and all(field == FIELD for field, _, _ in plain):
        return [(name, content) for _, name, content in plain]
    boundary = request.mimetype_params.get("boundary", "")
    fault = boundary_fault(body, boundary)
    if fault:
        raise Problem(HTTPStatus.BAD_REQUEST, fault)
    try:
        form, uploads = request.form, request.files
    except RequestEntityTooLarge:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the form has more parts than the {most} pictures that one request "
            "may hold, or a text field or a part's headers that are too long",
        ) from None
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, form_fault(body, boundary, error)) from None
    strangers = sorted({name or "" for name in (*form, *uploads)} - {FIELD})  # None: no name
    if strangers:
        named = ", ".join(shown(name) for name in strangers[:5])
        raise Problem(HTTPStatus.BAD_REQUEST, f"unknown form field {named}; {_how()}")
    if FIELD in form:
        raise Problem(HTTPStatus.BAD_REQUEST, f"field {FIELD} is text, not a file; {_how()}")
    files = uploads.getlist(FIELD)
    if not files:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the form has no field {FIELD}; {_how()}")
    return [(file.filename or None, file.read()) for file in files]


def shown(name: str) -> str:
    """A stranger's name, fit for a message: printable, and no longer than 80 characters."""
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


def _how() -> str:
    return f"send the picture as the body, or as files of the multipart field {FIELD!r}"
