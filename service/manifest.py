"""``manifest.json``: which model files a repository holds, and what each must hash to.

    {"schema_version": 1, "default": "relu_with_bn",
     "models": [{"variant": "relu_with_bn", "version": 1, "file": "relu_with_bn/1/model.onnx",
                 "sha256": "...", "bytes": 1660000, "recipe": "article", "dataset": "cifar100",
                 "top1": 0.57}]}

In: the text. Out: a ``Manifest`` whose every path stays inside the repository's folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from service.records import RecordError, parse, read

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One model file: ``file`` is relative to the folder, ``sha256`` and ``bytes`` are its own."""

    variant: str
    version: int
    file: str
    sha256: str
    bytes: int
    recipe: str
    dataset: str
    top1: float

    def __post_init__(self) -> None:
        name = f"{self.variant} version {self.version}"
        if not re.fullmatch("[A-Za-z0-9_.-]+", self.variant):
            raise RecordError(f"variant is {self.variant!r}: use letters, digits and _ . - only")
        if self.version < 1:
            raise RecordError(f"{name}: versions count from 1")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise RecordError(f"{name}: sha256 is {self.sha256!r}, not 64 hexadecimal digits")
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in self.file:
            raise RecordError(f"{name}: file is {self.file!r}, which leaves the folder")


@dataclass(frozen=True)
class Manifest:
    """The models on offer; ``default`` is the variant that answers when none is asked for."""

    schema_version: int
    default: str
    models: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise RecordError(
                f"schema_version is {self.schema_version}, but this software reads {SCHEMA_VERSION}"
            )
        if not self.models:
            raise RecordError("models is empty")
        for field in ("variant and version", "file"):
            seen: set[tuple[str, int] | str] = set()
            for entry in self.models:
                key = entry.file if field == "file" else (entry.variant, entry.version)
                if key in seen:
                    raise RecordError(
                        f"{entry.variant} version {entry.version}: {field} is listed twice"
                    )
                seen.add(key)
        variants = sorted({entry.variant for entry in self.models})
        if self.default not in variants:
            raise RecordError(
                f"default is {self.default!r}, which is not among the models: {', '.join(variants)}"
            )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest. Raises ``RecordError`` naming the field that is missing or wrong."""
        return read(cls, parse(text))
