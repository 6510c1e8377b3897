"""``manifest.json``: which model files a repository holds, and what each must hash to.

    {"schema_version": 1, "default": "relu_with_bn",
     "models": [{"variant": "relu_with_bn", "version": 1, "file": "relu_with_bn/1/model.onnx",
                 "sha256": "...", "bytes": 1660000, "recipe": "article", "dataset": "cifar100",
                 "top1": 0.57}]}

It may also hold ``"current": {"relu_with_bn": 1}``: the version of a variant that answers when a
request names none. A variant that is not listed there answers with its newest.

In: the text. Out: a ``Manifest`` whose every path stays inside the repository's folder.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from service.models.records import RecordError, parse, read

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
    """The models on offer; ``default`` is the variant that answers when none is asked for.

    ``current`` has the version that answers of each variant whose newest one does not.
    """

    schema_version: int
    default: str
    models: tuple[Entry, ...]
    current: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise RecordError(
                f"schema_version is {self.schema_version}, but this software reads {SCHEMA_VERSION}"
            )
        if not self.models:
            raise RecordError("models is empty")
        for what in ("variant and version", "file"):
            seen: set[tuple[str, int] | str] = set()
            for entry in self.models:
                key = entry.file if what == "file" else (entry.variant, entry.version)
                if key in seen:
                    raise RecordError(
                        f"{entry.variant} version {entry.version}: {what} is listed twice"
                    )
                seen.add(key)
        variants = sorted({entry.variant for entry in self.models})
        if self.default not in variants:
            raise RecordError(
                f"default is {self.default!r}, which is not among the models: {', '.join(variants)}"
            )
        for variant, version in self.current.items():
            if version not in self.versions(variant):
                raise RecordError(
                    f"current is version {version} of {variant!r}, which is not among the models"
                )

    def versions(self, variant: str) -> list[int]:
        """The versions of a variant, the oldest first; none of one that is not there."""
        return sorted(entry.version for entry in self.models if entry.variant == variant)

    def find(self, variant: str, version: int | None = None) -> Entry | None:
        """That version of a variant, None for the one that answers; None where there is none."""
        if version is None and self.versions(variant):
            version = self.answering(variant)
        key = (variant, version)
        return next((each for each in self.models if (each.variant, each.version) == key), None)

    def answering(self, variant: str) -> int:
        """The version of ``variant`` that answers where none is asked for.

        Raises ``ValueError`` where there is none of it.
        """
        return self.current.get(variant) or max(self.versions(variant))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest. Raises ``RecordError`` naming the field that is missing or wrong."""
        return read(cls, parse(text))

    def to_json(self) -> str:
        """The text, for a file; what says nothing is left out, as older software refuses it."""
        content = asdict(self)
        if not self.current:
            del content["current"]
        return json.dumps(content, indent=2) + "\n"
