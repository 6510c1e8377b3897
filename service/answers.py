"""A row of probabilities, as an answer that people and programs can read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.card import ModelCard
from service.repository import Model


def top(probabilities: NDArray[np.float32], card: ModelCard, k: int) -> list[dict[str, Any]]:
    """The ``k`` likeliest classes of one picture, likeliest first; float32 [classes] in.

    Probabilities keep float32's full precision. Equal ones keep the order of the classes.
    """
    return [
        {
            "label": card.classes[index],
            "superclass": card.superclasses[index],
            "index": int(index),
            "probability": float(probabilities[index]),
        }
        for index in np.argsort(-probabilities, kind="stable")[:k]
    ]


def answered_by(model: Model) -> dict[str, Any]:
    """Which model answered, where it ran, and what it was trained on and how."""
    return {
        "version": model.version,
        "provider": model.provider,
        "dataset": model.card.dataset.name,
        "recipe": model.card.recipe,
    }
