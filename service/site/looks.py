"""What the nets see of one picture, and what each of them says: the middle of the page.

In: a choice among the models, and a picture as the nets take it. Out: a ``Look``, which templates
show.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from service.answers import Guess, top
from service.models.model import Model
from service.models.repository import Repository
from service.pictures import decode
from service.site import wording
from service.site.samples import Example

TOP = 5
RUNS = 7
"""Of one picture by itself, of which the median is a model's latency here; one before warms up."""

ACTIVATIONS = ("relu", "sigmoid")
NORMALIZATIONS = ("batch", None)
SCALES = (0.1, 0.25, 0.5, 1.0)
"""Where the bars may end: the least that holds the longest one of all nets."""

Compute = Callable[[Model, NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Choice:
    """Models that answer together: all of one ``version``; None is the current of each variant."""

    version: int | None
    models: tuple[Model, ...]

    @property
    def label(self) -> str:
        """What it is called: "version 1 · article's recipe"."""
        versions = {model.version for model in self.models}
        name = f"version {versions.pop()}" if len(versions) == 1 else "current versions"
        return f"{name} · {' and '.join(map(wording.recipe, self.recipes))}"

    @property
    def recipes(self) -> tuple[str, ...]:
        """How its models were trained, each way once."""
        return tuple(dict.fromkeys(model.card.recipe for model in self.models))

    @property
    def normalized(self) -> Model | None:
        """The first of its models that has statistics to freeze."""
        return next((model for model in self.models if model.card.frozen.layers), None)

    @property
    def shows(self) -> str | None:
        """What is to be seen by it, where its models are of one recipe that is known for that."""
        return wording.shown_by(self.recipes)


@dataclass(frozen=True)
class Answer:
    """What one model says; ``milliseconds`` are of its run, and of waiting for a free runner."""

    model: Model
    guesses: tuple[Guess, ...]
    milliseconds: float


@dataclass(frozen=True)
class Cell:
    """A place in the study's square, with the answer of the model that stands there, if any."""

    activation: str
    normalization: str | None
    variant: str
    answer: Answer | None


@dataclass(frozen=True)
class Look:
    """One picture: its pixels as colours, row by row, and the square of answers to it.

    ``scale`` is the probability at which a bar ends, ``chance`` that of a blind guess. ``example``
    or else ``name`` says which picture it was; a pasted one may have neither. ``first`` is by the
    default variant where it answers, and ``default`` the model that ``/predict`` answers by.
    """

    choice: Choice
    example: Example | None
    name: str | None
    pixels: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[Cell, ...], ...]
    first: Answer
    default: Model
    scale: float
    chance: float

    @property
    def answers(self) -> tuple[Answer, ...]:
        """Every answer, in the order of the square."""
        return tuple(cell.answer for row in self.rows for cell in row if cell.answer)


def choices(repository: Repository) -> tuple[Choice, ...]:
    """What there is to choose from: the current of each, then every version that is not just them.

    The latest version comes first.
    """
    current = tuple(repository.each().values())
    others = (
        Choice(version, tuple(repository.each(version).values()))
        for version in reversed(repository.versions)
    )
    return (Choice(None, current), *(each for each in others if each.models != current))


def choice_of(repository: Repository, version: int | None) -> Choice:
    """The choice of ``version``. Raises ``UnknownModelError`` where no variant has it."""
    models = tuple(repository.each(version).values())
    return next(each for each in choices(repository) if each.models == models)


def look_of(
    repository: Repository,
    choice: Choice,
    pixels: NDArray[np.uint8],
    compute: Compute,
    *,
    example: Example | None = None,
    name: str | None = None,
    spent: Mapping[str, float] | None = None,
) -> Look:
    """Have every variant of the choice answer: ``pixels`` are uint8 [32, 32, 3].

    ``spent``, if given, has each variant's milliseconds, measured before.
    """
    answers = {}
    for model in choice.models:
        started = time.perf_counter()
        row = compute(model, pixels[None])[0]
        took = 1000 * (time.perf_counter() - started) if spent is None else spent[model.variant]
        answers[model.variant] = Answer(model, tuple(top(row, model.card, TOP)), took)
    longest = max(answer.guesses[0]["probability"] for answer in answers.values())
    default = repository.get()
    first = answers.get(default.variant) or next(iter(answers.values()))
    return Look(
        choice=choice,
        example=example,
        name=name,
        pixels=tuple(tuple("#" + bytes(each).hex() for each in row) for row in pixels),
        rows=_square(list(answers.values())),
        first=first,
        default=default,
        scale=next(scale for scale in SCALES if longest <= scale or scale == SCALES[-1]),
        chance=1 / len(first.model.card.classes),
    )


@lru_cache(maxsize=8)
def first_look(repository: Repository, choice: Choice, example: Example) -> Look:
    """The look that the page opens with, whose milliseconds are each the median of ``RUNS`` runs.

    The models take turns, so that a busy moment of the machine is one for all of them. Computed
    once, beside the engine: it counts as nobody's request.
    """
    pixels = pixels_of(example)
    rows: dict[str, NDArray[np.float32]] = {}
    times: dict[str, list[float]] = {model.variant: [] for model in choice.models}
    for turn in range(1 + RUNS):
        for model in choice.models:
            started = time.perf_counter()
            rows[model.variant] = model.run(pixels[None])
            if turn:
                times[model.variant].append(1000 * (time.perf_counter() - started))
    spent = {variant: statistics.median(each) for variant, each in times.items()}
    return look_of(
        repository,
        choice,
        pixels,
        lambda model, _: rows[model.variant],
        example=example,
        spent=spent,
    )


def pixels_of(example: Example) -> NDArray[np.uint8]:
    """An example as the nets take it: uint8 [32, 32, 3]."""
    return decode(example.content, max_pixels=1 << 20)


def _square(answers: Sequence[Answer]) -> tuple[tuple[Cell, ...], ...]:
    """A row for each activation, a column for each normalization: the study's, then others."""
    placed: dict[tuple[str, str | None], list[Answer]] = {}
    for answer in answers:
        card = answer.model.card
        placed.setdefault((card.activation, card.normalization), []).append(answer)
    activations = dict.fromkeys([*ACTIVATIONS, *(activation for activation, _ in placed)])
    columns = dict.fromkeys([*NORMALIZATIONS, *(normalization for _, normalization in placed)])
    rows = []
    for activation in activations:
        found = [placed.get((activation, normalization), []) for normalization in columns]
        for index in range(max(1, *map(len, found))):
            here = [answers[index] if index < len(answers) else None for answers in found]
            rows.append(tuple(map(_cell, [activation] * len(here), columns, here)))
    return tuple(rows)


def _cell(activation: str, normalization: str | None, answer: Answer | None) -> Cell:
    name = f"{activation}_{'without_bn' if normalization is None else 'with_bn'}"
    return Cell(activation, normalization, answer.model.variant if answer else name, answer)
