"""Which data set a recipe trains on, loaded."""

from __future__ import annotations

from pathlib import Path

from training import cifar100, synthetic
from training.dataset import Dataset

SYNTHETIC_TEST = 1_000  # pictures: enough for parity, quick to score after every epoch


def load(name: str, data: Path | None = None) -> Dataset:
    """Load the data set ``name``; ``data`` says where CIFAR-100 is (see ``training.cifar100``)."""
    if name == "synthetic":
        return synthetic.load(test=SYNTHETIC_TEST)
    return cifar100.load(data)
