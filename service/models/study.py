"""The study beside the models: ``comparison.json`` in, what the page's table and charts show out.

The trainer writes the file (``python -m training compare``). It may be missing, and may hold more
than is read here; if it holds less, or something else, ``StudyError`` says what is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "comparison.json"
SCHEMA_VERSION = 2


class StudyError(Exception):
    """The comparison cannot be shown; the message says why."""


@dataclass(frozen=True)
class Epoch:
    """The net after so many passes over its training pictures, on the validation pictures.

    ``loss`` is in nats.
    """

    passes: float
    top1: float
    loss: float


@dataclass(frozen=True)
class Curve:
    """One trial: its epochs, and what it scores frozen (None: it has no running statistics).

    Frozen was what it was after ``kept`` passes. Where it is ``held_out``,
    the epochs are of training pictures that were held out; the frozen net's score is of the test's.
    """

    variant: str
    seed: int
    epochs: tuple[Epoch, ...]
    frozen: Mapping[str, float] | None
    kept: float
    held_out: bool


@dataclass(frozen=True)
class Row:
    """One variant, over ``n`` trials; a score is its mean, None where there is none.

    ``spread`` is the standard deviation of the top-1 that ships over the trials; None for one.
    """

    variant: str
    n: int
    passes: float
    seconds: float
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    spread: float | None
    gain: float | None
    article: Mapping[str, float] | None


@dataclass(frozen=True)
class Article:
    """What the article's nets scored, by variant, and after how many passes they ended."""

    passes: float
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Study:
    """One recipe: a row a variant, a curve a trial, and the article where it is of these data."""

    recipe: str
    dataset: str
    test_images: int
    hardware: tuple[str, ...]
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]
    article: Article | None


def read_studies(folder: Path) -> tuple[Study, ...]:
    """Read ``folder``'s comparison: a study for every recipe. Raises ``StudyError``."""
    try:
        content = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        raise StudyError(f'there is no {FILE} beside the models; "make export" writes it') from None
    except (OSError, ValueError) as error:
        raise StudyError(f"{FILE} cannot be read: {error}") from None
    try:
        if content["schema_version"] != SCHEMA_VERSION:
            raise StudyError(
                f"{FILE} has schema_version {content['schema_version']!r}, and {SCHEMA_VERSION} is "
                'read here; "make export" writes it where the file is removed'
            )
        return tuple(_study(section, content) for section in content["recipes"])
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise StudyError(
            f'{FILE} is not as "make export" writes it ({type(error).__name__}: {error})'
        ) from None


def _study(section: Any, content: Any) -> Study:
    dataset, article = content["dataset"], content["article"]
    trials, scores = section["trials"], article["variants"] if article else {}
    return Study(
        recipe=str(section["recipe"]),
        dataset=str(dataset["name"]),
        test_images=int(dataset["test_images"]),
        hardware=tuple(sorted({str(trial["hardware"]) for trial in trials})),
        rows=tuple(_row(row, scores.get(row["variant"]), trials) for row in section["summary"]),
        curves=tuple(_curve(trial) for trial in trials),
        article=Article(float(article["passes"]), scores) if article else None,
    )


def _row(row: Any, article: Mapping[str, float] | None, trials: Sequence[Any]) -> Row:
    return Row(
        variant=str(row["variant"]),
        n=int(row["n"]),
        passes=max(float(each["passes"]) for each in trials if each["variant"] == row["variant"]),
        seconds=float(row["seconds"]),
        before=_means(row["before"]),
        after=_means(row["after"]),
        spread=_finite(row["after"]["top1"]["spread"]) if row["n"] > 1 else None,
        gain=_finite(row["gain"]),
        article=article,
    )


def _curve(trial: Any) -> Curve:
    freeze = trial["freeze"]
    step = trial["passes"] / trial["steps"]  # passes a step
    return Curve(
        variant=str(trial["variant"]),
        seed=int(trial["seed"]),
        epochs=tuple(
            Epoch(step * e["step"], _number(e["val_accuracy"]), _number(e["val_loss"]))
            for e in trial["history"]
        ),
        frozen={key: _number(value) for key, value in freeze["after"].items()}
        if freeze["kind"] == "population"
        else None,
        kept=step * trial["kept_step"],
        held_out=trial["validation_set"] == "hold-out",
    )


def _means(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    return {key: _finite(figure["mean"]) for key, figure in figures.items()}


def _number(value: float | None) -> float:
    """A net that diverged has scores that are no numbers: null in JSON."""
    return math.nan if value is None else float(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
