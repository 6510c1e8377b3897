"""GET /openapi.json and its page, /docs, with the example bodies that both name.

The page is written here, from the document: nothing of it comes from elsewhere, and it needs no
script. Both are made once, when they are first asked for, beside the event loop.
"""

from __future__ import annotations

from contextvars import copy_context
from http import HTTPStatus
from typing import Any

from flask import Blueprint, current_app, json, render_template

from service.docs.examples import MEDIA, file
from service.http.waiting import in_thread
from service.messages import Response, current
from service.operations import Answer, Tag, Text, operation
from service.problems import Problem, Refusals
from service.site.assets import address, packed_response
from service.site.kept import ROOT, kept

_KEY, _SENT = "batchnorm-openapi", "batchnorm-openapi-as-sent"
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

EXAMPLE = Text("body", "Which one.", values=tuple(MEDIA))
NO_EXAMPLE: Refusals = {HTTPStatus.NOT_FOUND: "no such example"}

blueprint = Blueprint("docs", __name__)


@blueprint.get("/openapi.json")
@operation(Tag.PAGES, Answer("the document", others=("application/json",)))
def openapi() -> Response:
    """The service's OpenAPI 3.1 document, for tools."""
    known = current_app.extensions
    content: bytes | None = known.get(_SENT)
    if content is None:
        # To make it takes many times as long as an answer may hold up the others.
        context = copy_context()
        content = known[_SENT] = in_thread(lambda: context.run(_document_as_sent))
    return Response(content, mimetype="application/json")


def _document_as_sent() -> bytes:
    return json.dumps(document()).encode()


@blueprint.get("/docs")
@operation(Tag.PAGES, Answer("the page", others=("text/html",)))
def docs() -> Response:
    """The same, for people."""
    page = kept("/docs", _written)
    response = packed_response(current(), page.content, page.packed, "text/html")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


def _written() -> str:
    from service.docs.page import page

    # Only a command needs to say where the service is. The page's own links leave that to the
    # browser, which knows better where a proxy stands between them.
    root = current().script_root
    return render_template(
        "docs.html",
        page=page(document(), f"{ROOT}{root}/"),
        root=root,
        style=address("docs.css"),
    )


@blueprint.get("/docs/examples/<body>")
@operation(
    Tag.PAGES, Answer("the example", others=tuple(MEDIA.values())), NO_EXAMPLE, path=(EXAMPLE,)
)
def example(body: str) -> Response:
    """A body to post: a drawn picture, or its pixels as a tensor."""
    if body not in EXAMPLE.values:
        known = ", ".join(EXAMPLE.values)
        raise Problem(HTTPStatus.NOT_FOUND, f"no example {body[:80]!r}: there are {known}")
    return Response(file(body), mimetype=MEDIA[body])


def document() -> dict[str, Any]:
    """The current application's document."""
    found: dict[str, Any] | None = current_app.extensions.get(_KEY)
    if found is None:
        from service.docs.document import make_document

        # Two threads may both make it, and it is the same.
        found = current_app.extensions[_KEY] = make_document(current_app._get_current_object())  # type: ignore[attr-defined]
    return found
