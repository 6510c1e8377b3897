"""Which data set a recipe trains on, loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from training import cifar100, synthetic
from training.dataset import Dataset

SYNTHETIC_TEST = 1_000  # pictures: enough for parity, quick to score after every epoch

LOADERS: dict[str, Callable[[Path | None], Dataset]] = {
    "cifar100": cifar100.load,
    "synthetic": lambda _: synthetic.load(test=SYNTHETIC_TEST),
}
"""By the names that a recipe may give (``recipes.WORDS``); each is told where the user has it."""


def load(name: str, data: Path | None = None) -> Dataset:
    """Load the data set ``name``; ``data`` says where CIFAR-100 is (see ``training.cifar100``)."""
    return LOADERS[name](data)
