"""Files that are written atomically, so that none is ever half there.

A process that is killed while writing leaves a file under a temporary name; ``sweep`` removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PASSING = ".partial-"  # what a passing name begins with; nothing else here is named so


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make the file under a passing name, then put it in its place in one step.

    Raises what ``write`` does, and ``OSError``; the file that was there before stays then.
    """
    passing = path.with_name(f"{PASSING}{os.getpid()}-{path.name}")
    try:
        write(passing)
        with passing.open("rb") as file:
            os.fsync(file.fileno())
        passing.replace(path)
    finally:
        passing.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step. Raises ``OSError``."""
    write_atomically(path, lambda passing: passing.write_text(text))


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step. Raises ``OSError``."""
    write_atomically(path, lambda passing: passing.write_bytes(data))


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written in ``folder`` itself, not in folders below.

    To be called while nobody else writes there.
    """
    for left in folder.glob(f"{PASSING}*"):
        left.unlink()
