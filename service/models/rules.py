"""What a field may hold, said once beside its type: checked in values, shown in JSON Schema.

    top1: Annotated[float, Between(0, 1)]

A rule has ``complaint(value)``, which is None or the text to follow the field's name in a message,
and ``schema``, the JSON Schema keywords that say the same. Pure values; nothing here knows HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints


class Rule(Protocol):
    """What every rule has."""

    def complaint(self, value: Any) -> str | None:
        """None, or what is wrong with ``value``, as in "is 3, not between 0 and 1"."""

    @property
    def schema(self) -> dict[str, Any]:
        """The rule as keywords of JSON Schema."""


@dataclass(frozen=True)
class Between:
    """A number from ``least`` to ``most``, both allowed."""

    least: int
    most: int

    def complaint(self, value: float) -> str | None:
        """See ``Rule``."""
        if self.least <= value <= self.most:
            return None
        return f"is {value}, not between {self.least} and {self.most}"

    @property
    def schema(self) -> dict[str, Any]:
        """See ``Rule``."""
        return {"minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[str | int, ...]

    def complaint(self, value: object) -> str | None:
        """See ``Rule``."""
        if value in self.values:
            return None
        return f"is {_shown(value)}, not {' or '.join(map(_shown, self.values))}"

    @property
    def schema(self) -> dict[str, Any]:
        """See ``Rule``."""
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Matches:
    """A text that matches ``pattern`` as a whole; ``what`` names such a text."""

    pattern: str
    what: str

    def complaint(self, value: str) -> str | None:
        """See ``Rule``."""
        return None if re.fullmatch(self.pattern, value) else f"is {value!r}, not {self.what}"

    @property
    def schema(self) -> dict[str, Any]:
        """See ``Rule``."""
        return {"pattern": f"^{self.pattern}$"}


@dataclass(frozen=True)
class NotEmpty:
    """A text of at least one character."""

    def complaint(self, value: str) -> str | None:
        """See ``Rule``."""
        return None if value else "is empty"

    @property
    def schema(self) -> dict[str, Any]:
        """See ``Rule``."""
        return {"minLength": 1}


@dataclass(frozen=True)
class Items:
    """A list of ``count`` items, or, without a count, of at least one, no two of them the same."""

    count: int | None = None

    def complaint(self, value: Sequence[Any]) -> str | None:
        """See ``Rule``."""
        if self.count is not None:
            found = len(value)
            return None if found == self.count else f"has {found} items, not {self.count}"
        if not value:
            return "is empty"
        return None if len(set(value)) == len(value) else "names one twice"

    @property
    def schema(self) -> dict[str, Any]:
        """See ``Rule``."""
        if self.count is None:
            return {"minItems": 1, "uniqueItems": True}
        return {"minItems": self.count, "maxItems": self.count}


@dataclass(frozen=True)
class Moment:
    """A time as ISO 8601 has it, with its zone."""

    def complaint(self, value: str) -> str | None:
        """See ``Rule``."""
        try:
            zone = datetime.fromisoformat(value).tzinfo
        except ValueError:
            return f"is {value!r}, not an ISO 8601 time"
        return None if zone else f"is {value!r}, without a time zone"

    @property
    def schema(self) -> dict[str, Any]:
        """See ``Rule``."""
        return {"format": "date-time"}


def complaint(record: object) -> str | None:
    """The first thing that is wrong with a dataclass's fields, as its rules have it, or None."""
    for name, rule in _rules(type(record)):  # type: ignore[arg-type]
        found = rule.complaint(getattr(record, name))
        if found:
            return f"{name} {found}"
    return None


@cache
def _rules(kind: Any) -> tuple[tuple[str, Rule], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        (name, rule)
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
        for rule in get_args(hint)[1:]
    )


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
