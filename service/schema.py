"""JSON Schema (2020-12, as OpenAPI 3.1 has it) of the types that this service reads and answers.

In: an annotation. Out: its schema; dataclasses and ``TypedDict``s go into ``components`` by their
name and are referred to. What ``service.models.records`` reads and ``service.models.rules`` checks
is understood: int, float, str, bool, list, tuple[T, ...], dict[str, T], T | None, Literal,
Annotated with rules. Objects are closed: they have no undeclared fields.
"""

from __future__ import annotations

import inspect
import types
from dataclasses import dataclass, is_dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

Schema = dict[str, Any]

_PLAIN = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    dict: "object",
    type(None): "null",
}
_PREFIX = "#/components/schemas/"


@dataclass(frozen=True)
class Without:
    """An object without some fields of its type: ``Annotated[Card, Without(("a", "b.c"))]``."""

    fields: tuple[str, ...]

    def cut(self, value: dict[str, Any]) -> None:
        """Take them out of ``value``, as out of an answer."""
        for field in self.fields:
            *parents, last = field.split(".")
            place = value
            for parent in parents:
                place = place[parent]
            del place[last]


@dataclass(frozen=True)
class Says:
    """A field with words of its own beside its name: ``Annotated[bool, Says("Whether ...")]``."""

    text: str

    @property
    def schema(self) -> Schema:
        """As a keyword of JSON Schema."""
        return {"description": self.text}


def json_schema(kind: Any, components: dict[str, Schema]) -> Schema:
    """The schema of ``kind``; what it refers to is added to ``components``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:], components)
    if origin is NotRequired:
        return json_schema(arguments[0], components)
    if origin in (Union, types.UnionType):
        return {"anyOf": [json_schema(each, components) for each in arguments]}
    if origin is Literal:
        return {"type": _PLAIN[type(arguments[0])], "enum": list(arguments)}
    if origin in (tuple, list):
        return {"type": "array", "items": json_schema(arguments[0], components)}
    if origin is dict:
        return {"type": "object", "additionalProperties": json_schema(arguments[1], components)}
    if is_dataclass(kind) or is_typeddict(kind):
        if kind.__name__ not in components:
            components[kind.__name__] = {}  # it may refer to itself
            components[kind.__name__] = _object(kind, components)
        return {"$ref": _PREFIX + kind.__name__}
    return {"type": _PLAIN[kind]}


def _annotated(kind: Any, rules: tuple[Any, ...], components: dict[str, Schema]) -> Schema:
    schema = json_schema(kind, components)
    for rule in rules:
        if isinstance(rule, Without):
            schema = _cut(schema, rule, components)
        else:
            schema = schema | rule.schema
    return schema


def _object(kind: Any, components: dict[str, Schema]) -> Schema:
    hints = get_type_hints(kind, include_extras=True)
    return {
        "type": "object",
        "description": inspect.getdoc(kind) or "",
        "properties": {name: json_schema(hint, components) for name, hint in hints.items()},
        "required": [name for name, hint in hints.items() if get_origin(hint) is not NotRequired],
        "additionalProperties": False,
    }


def _cut(schema: Schema, rule: Without, components: dict[str, Schema]) -> Schema:
    """The schema that ``schema`` refers to, without some fields."""
    whole = components[schema["$ref"].removeprefix(_PREFIX)]
    here = {field for field in rule.fields if "." not in field}
    properties = {name: each for name, each in whole["properties"].items() if name not in here}
    for name in properties:
        inner = [f.removeprefix(f"{name}.") for f in rule.fields if f.startswith(f"{name}.")]
        if inner:
            properties[name] = _cut(properties[name], Without(tuple(inner)), components)
    required = [name for name in whole["required"] if name not in here]
    return whole | {"properties": properties, "required": required}
