"""Recipes of few steps for the tests of the fit, and what a trial leaves: history and files."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

from training.recipes import Recipe


def make_recipe(steps: int, steps_per_epoch: int) -> Recipe:
    return Recipe("test", "synthetic", steps, steps_per_epoch, batch=4, learning_rate=1e-3)


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
