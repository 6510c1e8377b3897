"""A row of probabilities, as an answer that people and programs can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from service.models.card import ModelCard
from service.models.model import Model
from service.models.rules import Between


class Guess(TypedDict):
    """One class, and how likely the net holds it."""

    label: str
    superclass: str
    index: int
    probability: Annotated[float, Between(0, 1)]


class AnsweredBy(TypedDict):
    """Which model answered, where it ran, and what it was trained on and how."""

    version: int
    provider: str
    dataset: str
    recipe: str


class Pictured(TypedDict):
    """One picture, by its file's name, and its likeliest classes, likeliest first."""

    name: str | None
    top: list[Guess]


class Prediction(AnsweredBy):
    """One variant's answer to every picture of the request."""

    variant: str
    images: list[Pictured]


class Compared(TypedDict):
    """One picture, by its file's name, and its likeliest classes by variant."""

    name: str | None
    variants: dict[str, list[Guess]]


class Comparison(TypedDict):
    """Every variant's answer to every picture of the request."""

    images: list[Compared]
    models: dict[str, AnsweredBy]


def top(probabilities: NDArray[np.float32], card: ModelCard, k: int) -> list[Guess]:
    """The ``k`` likeliest classes of one picture, likeliest first; float32 [classes] in.

    Probabilities keep float32's full precision. Equal ones keep the order of the classes.
    """
    return [
        {
            "label": card.classes[index],
            "superclass": card.superclasses[index],
            "index": index,
            "probability": float(probabilities[index]),
        }
        for index in _likeliest(probabilities, k)
    ]


def prediction_json(
    model: Model, names: Sequence[str | None], rows: NDArray[np.float32], k: int
) -> str:
    """The whole answer of ``/predict``, nearly all of which was written before the first request.

    ``rows`` are float32 [N, classes], for N names.
    """
    head, classes = _written(model)
    images = []
    for name, row in zip(names, rows, strict=True):
        guesses = [f"{classes[index]}{float(row[index])!r}}}" for index in _likeliest(row, k)]
        images.append(f'{{"name":{json.dumps(name)},"top":[{",".join(guesses)}]}}')
    return f"{head}{','.join(images)}]}}"


def comparison(
    models: Mapping[str, Model],
    names: Sequence[str | None],
    rows: Mapping[str, NDArray[np.float32]],
    k: int,
) -> Comparison:
    """The whole answer of ``/compare``; ``rows`` are float32 [N, classes] by variant."""
    images: list[Compared] = [
        {
            "name": name,
            "variants": {
                variant: top(rows[variant][index], model.card, k)
                for variant, model in models.items()
            },
        }
        for index, name in enumerate(names)
    ]
    return {
        "images": images,
        "models": {variant: answered_by(model) for variant, model in models.items()},
    }


@lru_cache(maxsize=256)
def _written(model: Model) -> tuple[str, tuple[str, ...]]:
    """What every answer of ``model`` begins with, and every guess of each class."""

    def beginning(fields: dict[str, Any], last: str) -> str:
        return f'{json.dumps(fields, separators=(",", ":"))[:-1]},"{last}":'

    card = model.card
    classes = zip(card.classes, card.superclasses, strict=True)
    return (
        beginning({"variant": model.variant, **answered_by(model)}, "images") + "[",
        tuple(
            beginning({"label": name, "superclass": parent, "index": index}, "probability")
            for index, (name, parent) in enumerate(classes)
        ),
    )


def _likeliest(probabilities: NDArray[np.float32], k: int) -> list[int]:
    order: list[int] = (-probabilities).argsort(kind="stable")[:k].tolist()
    return order


def answered_by(model: Model) -> AnsweredBy:
    """Which model answered, where it ran, and what it was trained on and how."""
    return {
        "version": model.version,
        "provider": model.provider,
        "dataset": model.card.dataset.name,
        "recipe": model.card.recipe,
    }
