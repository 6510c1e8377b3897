"""The OpenAPI document, arranged for reading: what the template of /docs shows.

In: the document. Out: chapters of operations, and the schemas, as plain values; every text is
still to be escaped, and `...` in it is code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

Document = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_LONGEST = 5
"""Items of a list in an example that are shown; the document itself has them all."""


@dataclass(frozen=True)
class Piece:
    """A part of a type's name; ``link`` is the schema that it names, if any."""

    text: str
    link: str | None = None


@dataclass(frozen=True)
class Row:
    """A parameter or a field."""

    name: str
    where: str
    required: bool
    kind: list[Piece]
    help: str


@dataclass(frozen=True)
class Media:
    """A media type of a body or an answer."""

    name: str
    kind: list[Piece]
    file: str | None


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: str
    phrase: str
    help: str
    media: list[Media]
    example: str | None


@dataclass(frozen=True)
class Entry:
    """An operation; ``fields`` are those of its body's JSON or form."""

    id: str
    method: str
    path: str
    summary: str
    help: str
    parameters: list[Row]
    body: str
    fields: list[Row]
    media: list[Media]
    commands: list[str]
    replies: list[Reply]


@dataclass(frozen=True)
class Chapter:
    """Operations that belong together."""

    name: str
    help: str
    entries: list[Entry]


@dataclass(frozen=True)
class Page:
    """The whole document; ``schemas`` are (name, description, fields)."""

    openapi: str
    title: str
    version: str
    summary: str
    about: list[str]
    locked: bool
    chapters: list[Chapter]
    schemas: list[tuple[str, str, list[Row]]]


def page(document: Document, root: str) -> Page:
    """Arrange ``document``; commands ask the service at ``root``, a URL that ends with a slash."""
    locked = bool(document.get("security"))
    entries: dict[str, list[Entry]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            key = locked and operation.get("security") != []
            entries[operation["tags"][0]].append(_entry(method, path, operation, key, root))
    info = document["info"]
    return Page(
        document["openapi"],
        info["title"],
        info["version"],
        info["summary"],
        info["description"].split("\n\n"),
        locked,
        [
            Chapter(tag["name"], tag["description"], entries[tag["name"]])
            for tag in document["tags"]
            if entries[tag["name"]]
        ],
        [
            (name, schema.get("description", ""), _fields(schema))
            for name, schema in document["components"]["schemas"].items()
        ],
    )


def pieces(schema: dict[str, Any]) -> list[Piece]:
    """What values of ``schema`` are, in words."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMAS)
        return [Piece(name, name)]
    if "anyOf" in schema:
        parts = [pieces(each) for each in schema["anyOf"]]
        return [piece for part in parts for piece in (Piece(" or "), *part)][1:]
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return [Piece(" | ".join(str(each) for each in values))]
    if "contentMediaType" in schema:
        return [Piece("file")]
    kinds = schema.get("type", "anything")
    kind = kinds if isinstance(kinds, str) else " or ".join(kinds)
    if "prefixItems" in schema:
        items = [piece for each in schema["prefixItems"] for piece in (Piece(", "), *pieces(each))]
        return [Piece("["), *items[1:], Piece("]")]
    if kind.startswith("array"):
        return [Piece(f"{kind}{_count(schema, 'Items')} of "), *pieces(schema.get("items", {}))]
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return [Piece("object of "), *pieces(schema["additionalProperties"])]
    if "minimum" in schema or "maximum" in schema:
        kind += f" {schema.get('minimum', '')}…{schema.get('maximum', '')}"
    if "default" in schema:
        kind += f", default {schema['default']}"
    return [Piece(kind)]


def _count(schema: dict[str, Any], what: str) -> str:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if least is None and most is None:
        return ""
    return f" of {least}" if least == most else f" ({least or 0}…{'' if most is None else most})"


def _fields(schema: dict[str, Any]) -> list[Row]:
    """An object's fields; those of objects in it, and in lists of it, are named with dots."""
    rows = []
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        if "not" in field:
            continue
        rows.append(Row(name, "", name in required, pieces(field), field.get("description", "")))
        inner = field.get("items", field) if isinstance(field.get("items", field), dict) else {}
        for row in _fields(inner) if "properties" in inner else ():
            mark = "[]" if "items" in field else ""
            rows.append(Row(f"{name}{mark}.{row.name}", "", row.required, row.kind, row.help))
    return rows


def _entry(method: str, path: str, operation: Document, locked: bool, root: str) -> Entry:
    body = operation.get("requestBody", {"content": {}})
    media = [_media(kind, each) for kind, each in body["content"].items()]
    schemas = [each["schema"] for each in body["content"].values()]
    return Entry(
        operation["operationId"],
        method.upper(),
        path,
        operation["summary"],
        operation.get("description", ""),
        [
            Row(
                each["name"],
                each["in"],
                each["required"],
                pieces(each["schema"]),
                each["description"],
            )
            for each in operation["parameters"]
        ],
        body.get("description", ""),
        [row for schema in schemas for row in _fields(schema)],
        media,
        _commands(method, path, operation, locked, root),
        [_reply(status, each) for status, each in operation["responses"].items()],
    )


def _media(kind: str, described: Document) -> Media:
    examples = list(described.get("examples", {}).values())
    schema = described["schema"]
    shown = pieces(schema) if "$ref" in schema or schema.get("type") == "array" else []
    return Media(kind, shown, examples[0]["externalValue"] if examples else None)


def _reply(status: str, described: Document) -> Reply:
    content = described.get("content", {})  # a redirection and "not modified" have none
    examples = [each["example"] for each in content.values() if "example" in each]
    return Reply(
        status,
        HTTPStatus(int(status)).phrase,
        described["description"],
        [_media(kind, each) for kind, each in content.items()],
        json.dumps(_shortened(examples[0]), indent=2, ensure_ascii=False) if examples else None,
    )


def _shortened(value: Any) -> Any:
    """An example without the tails of its long lists."""
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, list):
        more = len(value) - _LONGEST
        head = [_shortened(each) for each in (value[:_LONGEST] if more > 1 else value)]
        return [*head, f"… {more} more"] if more > 1 else head
    return value


def _commands(method: str, path: str, operation: Document, locked: bool, root: str) -> list[str]:
    """How to ask it with curl: once for each example body, or once without a body."""
    known = {each["name"]: each.get("example") for each in operation["parameters"]}
    shown = {name: example or f"{{{name}}}" for name, example in known.items()}
    url = root + path.lstrip("/").format_map(shown)
    query = {
        each["name"]: each["example"]
        for each in operation["parameters"]
        if each["in"] == "query" and "example" in each
    }
    if query:
        url += f"?{urlencode(query)}"
    start = 'curl -H "X-API-Key: $KEY"' if locked else "curl"
    content = operation.get("requestBody", {"content": {}})["content"]
    files: dict[str, str] = {}
    for media in content.values():
        for example in media.get("examples", {}).values():
            header = example.get("description", "").partition("`")[2].partition("`")[0]
            option = f" -H '{header}'" if header else ""
            files[example["externalValue"]] = option
    if not files:
        return [f"{start}{' -X POST' if method == 'post' else ''} '{url}'"]
    commands = []
    for file, option in files.items():
        name = file.rpartition("/")[2]
        commands.append(f"{start} -O '{root}{file}'")
        commands.append(f"{start}{option} --data-binary @{name} '{url}'")
        if "multipart/form-data" in content:
            commands.append(f"{start} -F image=@{name} -F image=@{name} '{url}'")
    return commands
