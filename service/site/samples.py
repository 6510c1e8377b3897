"""The example pictures, which ``python -m gallery`` drew: a name in, a file like an upload out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from service.site.assets import FOLDER, address, read_asset

SYNTHETIC = "synthetic"
"""The data set whose pictures are drawn, and the kind of examples that look like them."""


@dataclass(frozen=True)
class Example:
    """A picture to try: ``kind`` is "photograph" or "synthetic", ``file`` its name when saved."""

    name: str
    title: str
    kind: str
    file: str

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return address(f"examples/{self.file}")

    @property
    def content(self) -> bytes:
        """The file's bytes."""
        asset = read_asset(f"examples/{self.file}")
        return asset.content if asset else b""


def examples(datasets: frozenset[str]) -> tuple[Example, ...]:
    """The examples for nets trained on ``datasets``, first those of the kind that they know.

    Drawn pictures are of classes that only nets trained on such have.
    """
    if SYNTHETIC not in datasets:
        return tuple(each for each in _all() if each.kind != SYNTHETIC)
    drawn_first = datasets == {SYNTHETIC}
    return tuple(sorted(_all(), key=lambda each: (each.kind == SYNTHETIC) != drawn_first))


def find(name: str) -> Example | None:
    """The example ``name``, or None."""
    return next((each for each in _all() if each.name == name), None)


@cache
def _all() -> tuple[Example, ...]:
    return tuple(
        Example(**entry) for entry in json.loads((FOLDER / "examples" / "index.json").read_text())
    )
