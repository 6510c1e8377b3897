"""What each view takes and answers, declared once, beside the view, for both code and document.

The decorator ``operation`` reads the query by its declaration, or refuses it, and hands the view
the values; it refuses a body in an encoding that is not declared. ``service.docs.document`` makes
the document from the same declaration. A path's parameters, headers, bodies and answers are
declared with the constants and types that the code itself uses. Nothing here costs a request more
than two calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from service.messages import current
from service.numbers import whole
from service.problems import Problem, Refusals
from service.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

View = Callable[..., Any]
Media = Callable[[Settings], Mapping[str, Any]]
"""OpenAPI's media type objects by media type, within the limits of the settings."""


class Tag(StrEnum):
    """The document's chapters, in their order."""

    PICTURES = "Pictures"
    MODELS = "Models"
    PROTOCOL = "Open Inference Protocol"
    OPERATION = "Operation"
    PAGES = "Pages"


BAD_QUERY: Refusals = {
    HTTPStatus.BAD_REQUEST: "a query parameter that is unknown, given twice or out of range"
}
BAD_VALUE: Refusals = {
    HTTPStatus.BAD_REQUEST: "a query parameter that is given twice or out of range"
}


NOTHING: Refusals = {}

AS_IT_IS = "identity"
"""The Content-Encoding of a body without one (RFC 9110, section 8.4)."""


@dataclass(frozen=True)
class Text:
    """A text in a path, a query or a header; one of ``values``, where there are such.

    ``variant`` says that it names one of the variants that are served.
    """

    name: str
    help: str
    pattern: str | None = None
    values: tuple[str, ...] = ()
    variant: bool = False
    example: str | None = None
    default: None = None

    def read(self, text: str) -> str:
        """As it is; what it names may not be there."""
        return text

    def allows(self, text: str) -> bool:
        """Whether it is of the form that is declared."""
        return self.pattern is None or re.fullmatch(self.pattern, text) is not None

    @property
    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        shown: dict[str, Any] = {"type": "string"}
        if self.pattern:
            shown["pattern"] = f"^{self.pattern}$"
        if self.values:
            shown["enum"] = list(self.values)
        return shown


@dataclass(frozen=True)
class Whole:
    """A whole number from 1 to ``most`` in a query or a header."""

    name: str
    help: str
    most: int
    default: int | None = None

    def read(self, text: str) -> int:
        """The number. Raises ``Problem`` 400."""
        number = whole(text, 1, self.most)
        if number is None:
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                f"{self.name} is {text[:80]!r}; allowed: 1 to {self.most}",
            )
        return number

    @property
    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        shown: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": self.most}
        return shown if self.default is None else shown | {"default": self.default}


Parameter = Text | Whole


@dataclass(frozen=True)
class Body:
    """What a request brings; ``help`` may name settings, as in "{max_images}".

    ``encodings`` are the values of Content-Encoding that its view reads.
    """

    help: str
    media: Media
    required: bool = True
    encodings: tuple[str, ...] = (AS_IT_IS,)


@dataclass(frozen=True)
class Answer:
    """A 200: ``json`` is the type that it is JSON of; ``others`` are its other media types.

    ``headers`` are those that are its own, with what they say.
    """

    help: str
    json: Any = None
    others: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One view, as it is documented; ``refusals`` are the problems that it may answer instead.

    ``path`` declares the parameters of all its rules, of which one rule may have fewer. ``bare``
    are statuses without a body worth naming; ``told`` says that problems come in HTML, but for
    those that the view does not see.
    """

    tag: Tag
    answer: Answer
    path: tuple[Text, ...]
    query: tuple[Parameter, ...]
    headers: tuple[Parameter, ...]
    body: Body | None
    refusals: Sequence[Refusals]
    bare: Refusals
    told: bool


def operation(
    tag: Tag,
    answer: Answer,
    *refusals: Refusals,
    path: tuple[Text, ...] = (),
    query: tuple[Parameter, ...] | None = None,
    headers: tuple[Parameter, ...] = (),
    body: Body | None = None,
    bare: Refusals = NOTHING,
    told: bool = False,
    tolerant: bool = False,
) -> Callable[[View], View]:
    """Declare a view, and have it called with its query's values, by name.

    A view without ``query`` does not look at the query; with an empty one it refuses any. A
    ``tolerant`` one passes over what it does not know: others' links to a page bring their marks.
    """

    def declare(view: View) -> View:
        declared, more = view, refusals
        if body is not None:
            declared = _with_encodings(view, body.encodings)
            more = ({HTTPStatus.UNSUPPORTED_MEDIA_TYPE: _unread(body.encodings)}, *refusals)
        if query is not None:
            declared = _with_query(declared, query, tolerant)
            more = (BAD_VALUE if tolerant else BAD_QUERY, *more)
        declared.operation = Operation(  # type: ignore[attr-defined]
            tag, answer, path, query or (), headers, body, more, bare, told
        )
        return declared

    return declare


def encoding_of(environ: WSGIEnvironment) -> str:
    """A request's Content-Encoding, in lower case; ``AS_IT_IS`` where it has none.

    x-gzip is an old name for gzip (RFC 9110, section 8.4.1.3).
    """
    encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() or AS_IT_IS
    return "gzip" if encoding == "x-gzip" else encoding


def operation_of(view: View) -> Operation | None:
    """What was declared of a view."""
    return getattr(view, "operation", None)


def _unread(encodings: tuple[str, ...]) -> str:
    return f"a Content-Encoding other than {', '.join(encodings)}"


def _with_encodings(view: View, encodings: tuple[str, ...]) -> View:
    """``view``, behind the 415 of RFC 9110, section 15.5.16, for what it does not read."""
    allowed = ", ".join(encodings)

    @wraps(view)
    def answer(**values: Any) -> Any:
        encoding = encoding_of(current().environ)
        if encoding not in encodings:
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"Content-Encoding is {encoding[:80]!r}, which is not read here; allowed: "
                f"{allowed} (the body as it is, without this header)",
                headers={"Accept-Encoding": allowed},
            )
        return view(**values)

    return answer


def _with_query(view: View, parameters: tuple[Parameter, ...], tolerant: bool) -> View:
    by_name = {parameter.name: parameter for parameter in parameters}
    defaults = {parameter.name: parameter.default for parameter in parameters}
    allowed = ", ".join(by_name) or "none"

    def read() -> dict[str, Any]:
        """The query's values. Raises ``Problem`` 400 for an unknown or repeated parameter."""
        values: dict[str, Any] = dict(defaults)
        for name, texts in current().args.lists():
            parameter = by_name.get(name)
            if parameter is None and tolerant:
                continue
            if parameter is None:
                raise Problem(
                    HTTPStatus.BAD_REQUEST,
                    f"unknown query parameter {name[:80]!r}; allowed: {allowed}",
                )
            if len(texts) > 1:
                raise Problem(HTTPStatus.BAD_REQUEST, f"query parameter {name} is given twice")
            values[name] = parameter.read(texts[0])
        return values

    @wraps(view)
    def answer(**path: Any) -> Any:
        return view(**path, **(read() if current().query_string else defaults))

    return answer
