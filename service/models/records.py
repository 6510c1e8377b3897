"""Reads JSON into frozen dataclasses, and says exactly which field is missing or wrong.

In: a parsed JSON value and the dataclass it should be. Out: that dataclass, nested ones included.
The annotations are the schema: int, float, str, dict[str, str], tuple[T, ...], T | None and
dataclasses are understood. A field that the dataclass does not have is refused, not dropped; one
that has a default may be missing, as in documents older than the field.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_NAMES = {int: "a whole number", float: "a number", str: "a text"}


class RecordError(ValueError):
    """A JSON document is not what it should be; the message names the field."""


def parse(text: str) -> Any:
    """Parse strict JSON (no NaN, no Infinity). Raises ``RecordError``."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"is not JSON: {error}") from None


def read(kind: type[T], value: object, where: str = "") -> T:
    """Read ``value`` as the dataclass ``kind``; ``where`` is its place in the document.

    Raises ``RecordError`` where a field is missing, unknown or of the wrong type, and lets
    through what the dataclass's own ``__post_init__`` raises.
    """
    if not isinstance(value, Mapping):
        raise RecordError(f"{where or 'the document'} is {_show(value)}, not an object")
    hints = _hints(kind)  # type: ignore[arg-type]
    known = fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in known]
    prefix = f"{where}." if where else ""
    missing = [
        prefix + field.name
        for field in known
        if field.name not in value and field.default is field.default_factory is MISSING
    ]
    if missing:
        raise RecordError(f"{', '.join(missing)} is missing")
    unknown = [f"{prefix}{name}" for name in value if name not in names]
    if unknown:
        raise RecordError(f"{', '.join(unknown)} is not a known field")
    given = [name for name in names if name in value]
    return kind(**{name: _field(hints[name], value[name], prefix + name) for name in given})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _field(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _field(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecordError(f"{where} is {_show(value)}, not a list")
        return tuple(_field(arguments[0], each, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecordError(f"{where} is {_show(value)}, not an object")
        return {key: _field(arguments[1], each, f"{where}.{key}") for key, each in value.items()}
    if is_dataclass(kind):
        return read(kind, value, where)  # type: ignore[arg-type]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise RecordError(f"{where} is {_show(value)}, not {_NAMES[kind]}")
    return value


def _show(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _refuse_constant(name: str) -> None:
    raise RecordError(f"{name} is not a JSON number")
