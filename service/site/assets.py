"""The page's own files: styles, scripts, the icon and the example pictures.

In: a name below ``service/static``. Out: its bytes, compressed where that helps, and an address
with the content's hash, so that a browser may keep the file for ever: a new file has a new address.
Everything is read once, when it is first requested.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path

from flask import Blueprint

from service.keys import public
from service.messages import Request, Response, current
from service.operations import Answer, Tag, Text, operation
from service.problems import Problem, Refusals

FOLDER = Path(__file__).parents[1] / "static"
FOR_GOOD = "public, max-age=31536000, immutable"

_KINDS = {".js": "text/javascript", ".webp": "image/webp", ".md": "text/plain"}
JSON, IMAGES = "application/json", ("image/svg+xml", "image/png", "image/webp")
_PACKED = ("text/", "application/json", "image/svg")

OTHERS_WANTED = "the file is none of those in If-Match"
ANOTHER: Refusals = {HTTPStatus.PRECONDITION_FAILED: OTHERS_WANTED}

blueprint = Blueprint("assets", __name__)


@dataclass(frozen=True)
class Asset:
    """A file: its content, the same packed by gzip (or None), its media type and its hash."""

    content: bytes
    packed: bytes | None
    kind: str
    digest: str


@blueprint.get("/static/<path:name>")
@operation(
    Tag.PAGES,
    Answer("the file", others=("text/css", "text/javascript", *IMAGES, "text/plain", JSON)),
    {HTTPStatus.NOT_FOUND: "no such file"},
    ANOTHER,
    path=(Text("name", "A name that the page holds.", example="page.css"),),
    bare={HTTPStatus.NOT_MODIFIED: "the browser has it already"},
)
@public
def show(name: str) -> Response:
    """One of the page's files. It says nothing of the models, so no key is asked for."""
    request = current()
    asset = read_asset(name)
    if asset is None:
        raise Problem(HTTPStatus.NOT_FOUND, "there is no such file")
    response = packed_response(request, asset.content, asset.packed, asset.kind, asset.digest)
    known = request.args.get("v") == asset.digest
    response.headers["Cache-Control"] = FOR_GOOD if known else "no-cache"
    return response


def address(name: str) -> str:
    """Where a browser finds the file ``name``."""
    asset = read_asset(name)
    if asset is None:
        raise LookupError(f"service/static/{name}: there is no such file")
    return f"/static/{name}?v={asset.digest}"


@cache
def names() -> frozenset[str]:
    """Every file that may be asked for; nothing else is ever opened."""
    files = (path for path in FOLDER.rglob("*") if path.is_file())
    return frozenset(path.relative_to(FOLDER).as_posix() for path in files)


def read_asset(name: str) -> Asset | None:
    """The file ``name``, or None where there is none."""
    return _read(name) if name in names() else None


@cache
def _read(name: str) -> Asset:
    path = FOLDER / name
    content = path.read_bytes()
    kind = _KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
    packed = gzip.compress(content, 9, mtime=0) if kind.startswith(_PACKED) else None
    return Asset(content, packed, kind, hashlib.sha256(content).hexdigest()[:16])


def packed_response(
    request: Request, content: bytes, packed: bytes | None, kind: str, digest: str | None = None
) -> Response:
    """``content``, or ``packed`` where the browser takes it; 304 where it has that ``digest``.

    Raises ``Problem`` 412 where it wants another, and only that (RFC 9110, section 13.1.1).
    """
    gzipped = packed is not None and request.accept_encodings["gzip"] > 0
    response = Response(packed if gzipped else content, mimetype=kind)
    if packed is not None:
        response.headers["Vary"] = "Accept-Encoding"
    if gzipped:
        response.headers["Content-Encoding"] = "gzip"
    if digest:
        tag, wanted = f"{digest}-gzip" if gzipped else digest, request.if_match
        if wanted and not wanted.star_tag and not wanted.is_strong(tag):
            raise Problem(HTTPStatus.PRECONDITION_FAILED, OTHERS_WANTED)
        response.set_etag(tag)
        # Werkzeug would look at If-Match too, know no *, and send the file with its 412.
        asked = {key: text for key, text in request.environ.items() if key != "HTTP_IF_MATCH"}
        response.make_conditional(asked)
    return response
