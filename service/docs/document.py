"""The OpenAPI 3.1 document, made of what the views declare (``service.operations``).

In: the application. Out: the document, as a dict. It knows the models that are served, the limits
of the settings, and whether keys are asked for. What it needs is imported, and it is made, when
it is first asked for.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from flask import Flask
from werkzeug.routing import Rule

from service import __version__
from service.correlation import REQUEST_ID
from service.docs.examples import Examples, RequestExample
from service.gate import QUEUE_FULL
from service.keys import NO_KEY, SCHEMES, is_public
from service.models.repository import Repository
from service.operations import Answer, Body, Operation, Parameter, Tag, Text, operation_of
from service.problems import (
    PROBLEM_TYPE,
    ProblemDetails,
    ProtocolError,
    Refusals,
    in_protocol,
)
from service.schema import Schema, json_schema
from service.settings import Settings
from service.state import state_of

OPENAPI = "3.1.0"

_ABOUT = """\
Classifies pictures by the nets of a batch-normalization study. Every answer says which variant \
answered, in which version and where it ran.

Errors are problem documents (RFC 9457); under `/v2` they have the form of the Open Inference \
Protocol. Every answer bears `X-Request-ID`: the caller's own if it is valid, otherwise a new one. \
A valid `traceparent` comes back too. Every `GET` route also answers `HEAD`.

Every route answers 405 to a method that it does not have. A request that is not whole and valid \
HTTP/1.1 gets 400, 408 (too slow), 414 or 431 (target or headers too large), 501 (a transfer \
coding in addition to chunked) or 505 (another version), and its connection is closed."""

_CHAPTERS = {
    Tag.PICTURES: "Pictures in, classes out.",
    Tag.MODELS: "What is served, how it was trained, and how well it does.",
    Tag.PROTOCOL: "The protocol of Triton's and KServe's clients, with its binary tensor and "
    "classification extensions.",
    Tag.OPERATION: "For orchestrators, load balancers and Prometheus. Health never asks for a key.",
    Tag.PAGES: "For people, and what they need.",
}

_OF_A_REQUEST = (
    "The request's id, which is in the log too, unless the request was refused before it was read, "
    "because too many pictures were waiting."
)

_TEXT: Schema = {"type": "string"}
_HEADERS = {
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: {
        "Accept-Encoding": "The encodings that are read, where the body's is another."
    },
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "How to bring a key."},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": "Seconds, where too much is waiting."},
}
"""What a problem's answer may bear beside the headers of every answer."""


@dataclass(frozen=True)
class _Writer:
    """What every operation is written with; their schemas go into ``components``."""

    settings: Settings
    repository: Repository | None
    examples: Examples
    components: dict[str, Schema]


def make_document(app: Flask) -> dict[str, Any]:
    """The document of ``app``."""
    state = state_of(app)
    keys = bool(state.settings.api_keys)
    spec = APISpec(
        "batchnorm-service",
        __version__,
        OPENAPI,
        info={
            "summary": "Four CIFAR-100 nets, with and without batch normalization.",
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        servers=[{"url": "/"}],
        tags=[{"name": tag.value, "description": text} for tag, text in _CHAPTERS.items()],
    )
    if keys:
        spec.options["security"] = [{name: []} for name in SCHEMES]
        for name, scheme in SCHEMES.items():
            spec.components.security_scheme(name, scheme)
    spec.components.header(REQUEST_ID, _header(_OF_A_REQUEST))
    writer = _Writer(state.settings, state.repository, Examples(app, state.repository), {})
    first: dict[str, Rule] = {}
    for rule, operation in _declared(app):
        view = app.view_functions[rule.endpoint]
        identity = _identity(rule, first.setdefault(rule.endpoint, rule))
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            refusals = [*operation.refusals, *([QUEUE_FULL] if method == "POST" else [])]
            described = {"operationId": identity, **_described(view)}
            if keys and is_public(view):
                described["security"] = []
            elif keys:
                refusals.append(NO_KEY)
            written = described | _written(writer, rule, operation, refusals)
            spec.path(path=openapi_path(rule), operations={method.lower(): written})
    for name, schema in sorted(writer.components.items()):
        spec.components.schema(name, schema)
    return dict(spec.to_dict())


def openapi_path(rule: Rule) -> str:
    """A URL rule as OpenAPI writes it."""
    return re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)


def _declared(app: Flask) -> list[tuple[Rule, Operation]]:
    """Every rule whose view is declared, by chapter, in the order of their registration."""
    order = {endpoint: place for place, endpoint in enumerate(app.view_functions)}
    found = []
    for rule in app.url_map.iter_rules():
        operation = operation_of(app.view_functions[rule.endpoint])
        if operation is not None:
            chapter = list(Tag).index(operation.tag)
            found.append(((chapter, order[rule.endpoint], len(rule.rule)), rule, operation))
    return [(rule, operation) for _, rule, operation in sorted(found, key=lambda each: each[0])]


def _identity(rule: Rule, first: Rule) -> str:
    """The endpoint's name; another rule of it adds what sets it apart from its first one."""
    name: str = rule.endpoint.removeprefix("api.").replace(".", "_")
    if rule is first:
        return name
    more: list[str] = sorted(rule.arguments - first.arguments)
    return "_".join([name, *(more or ["slash"])])


def _described(view: Any) -> dict[str, Any]:
    """A view's docstring: its first paragraph, and the rest where there is one."""
    summary, _, description = (inspect.getdoc(view) or "").partition("\n\n")
    described = {"summary": _sentence(summary)}
    return described | ({"description": description} if description else {})


def _written(
    writer: _Writer, rule: Rule, operation: Operation, refusals: Iterable[Refusals]
) -> dict[str, Any]:
    parameters = [
        *(
            _parameter(writer, each, "path")
            for each in operation.path
            if each.name in rule.arguments
        ),
        *(_parameter(writer, each, "query") for each in operation.query),
        *(_parameter(writer, each, "header") for each in operation.headers),
    ]
    written: dict[str, Any] = {"tags": [operation.tag.value], "parameters": parameters}
    if operation.body:
        written["requestBody"] = _body(writer, rule, operation.body)
    written["responses"] = {
        "200": _answer(writer, rule, operation.answer),
        **_refusals(writer, rule, refusals, told=operation.told),
        **{
            str(int(status)): {"description": _sentence(text), "headers": _headers({})}
            for status, text in operation.bare.items()
        },
    }
    return written


def _parameter(writer: _Writer, parameter: Parameter, place: str) -> dict[str, Any]:
    written = {
        "name": parameter.name,
        "in": place,
        "required": place == "path",
        "description": parameter.help,
        "schema": parameter.schema,
    }
    if isinstance(parameter, Text):
        named = writer.examples.parameter(parameter.name)
        example = parameter.values[0] if parameter.values else parameter.example or named
        if example is not None and place != "header":
            written["example"] = example
        if parameter.variant and writer.repository:
            written["schema"] = {**_TEXT, "enum": list(writer.repository.models)}
    return written


def _body(writer: _Writer, rule: Rule, body: Body) -> dict[str, Any]:
    """The request's body. Its examples are files, as bytes cannot stand in JSON."""
    content: dict[str, Any] = {}
    for kind, media in body.media(writer.settings).items():
        content[kind] = dict(media)
        example = writer.examples.request(rule, kind)
        if example:
            content[kind]["examples"] = {example.name: _external(example)}
    return {
        "description": _filled(body.help, writer),
        "required": body.required,
        "content": content,
    }


def _external(example: RequestExample) -> dict[str, Any]:
    external = {"externalValue": example.url}
    headers = ", ".join(f"{name}: {value}" for name, value in example.headers.items())
    return {"description": f"Send it with `{headers}`.", **external} if headers else external


def _answer(writer: _Writer, rule: Rule, answer: Answer) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if answer.json is not None:
        content["application/json"] = {"schema": json_schema(answer.json, writer.components)}
        example = writer.examples.answer(rule)
        if example is not None:
            content["application/json"]["example"] = example
    for kind in answer.others:
        content[kind] = {"schema": {} if kind == "application/json" else _TEXT}
    return {
        "description": _sentence(answer.help),
        "headers": _headers(answer.headers),
        "content": content,
    }


def _refusals(
    writer: _Writer, rule: Rule, refusals: Iterable[Refusals], *, told: bool
) -> dict[str, Any]:
    """The problems, by status, each with all its reasons."""
    if in_protocol(rule.rule):
        kind, schema = "application/json", json_schema(ProtocolError, writer.components)
    else:
        kind, schema = PROBLEM_TYPE, json_schema(ProblemDetails, writer.components)
    content: dict[str, Any] = {kind: {"schema": schema}}
    if told:
        content["text/html"] = {"schema": _TEXT}
    reasons: dict[HTTPStatus, dict[str, None]] = {}
    for each in refusals:
        for status, reason in each.items():
            reasons.setdefault(status, {})[reason] = None
    return {
        str(int(status)): {
            "description": _sentence(_filled("; or ".join(reasons[status]), writer)),
            "headers": _headers(_HEADERS.get(status, {})),
            "content": content,
        }
        for status in sorted(reasons)
    }


def _headers(own: Mapping[str, str]) -> dict[str, Any]:
    named = {name: _header(text, required=False) for name, text in own.items()}
    return named | {REQUEST_ID: {"$ref": f"#/components/headers/{REQUEST_ID}"}}


def _header(text: str, *, required: bool = True) -> dict[str, Any]:
    return {"description": text, "required": required, "schema": _TEXT}


def _filled(text: str, writer: _Writer) -> str:
    """A declaration's text with the settings that it names."""
    return text.format_map(vars(writer.settings))


def _sentence(text: str) -> str:
    return " ".join(f"{text[:1].upper()}{text[1:]}".split()).rstrip(".") + "."
