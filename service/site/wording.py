"""Numbers and names in the words of the page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection
from http import HTTPStatus

ACTIVATIONS = {"relu": "ReLU", "sigmoid": "sigmoid"}
DATASETS = {"cifar100": "CIFAR-100"}
RECIPES = {"article": "article's recipe"}
SHOWN_BY = {
    "article": "constant learning rate: batch norm decides",
    "modern": "today's recipe: learns without batch norm too",
}
TROUBLES = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Too large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Not a picture",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A picture that cannot be read",
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MINUS = "\u2212"
THIN = "\u202f"  # between a number and its unit, which stay together


def percent(share: float | None, places: int = 1) -> str:
    """0.3521 -> "35.2 %"."""
    return "—" if share is None else f"{decimal(100 * share, places)}{THIN}%"


def guess(share: float) -> str:
    """A probability: 0.9512 -> "95 %", 0.0123 -> "1.2 %", 0.0003 -> "< 0.1 %".

    What is not certain is not called 100 %: 0.9971 -> "99.7 %", 0.9998 -> "> 99.9 %".
    """
    if share < 0.0005:
        return f"<{THIN}0.1{THIN}%"
    if 0.9995 <= share < 1:
        return f">{THIN}99.9{THIN}%"
    return percent(share, 0 if 0.0995 <= share < 0.995 or share == 1 else 1)


def points(gain: float | None) -> str:
    """0.0264 -> "+2.64 points"."""
    return "—" if gain is None else f"{decimal(100 * gain, 2, sign=True)} points"


def decimal(value: float, places: int, *, sign: bool = False) -> str:
    """A number with so many places and a proper minus sign."""
    if not math.isfinite(value):
        return "—"
    text = f"{value:+.{places}f}" if sign else f"{value:.{places}f}"
    return text.replace("-", MINUS)


def thousands(value: float) -> str:
    """40000 -> "40,000"."""
    return f"{value:,.0f}"


def counted(count: int, name: str) -> str:
    """So many of a name: (4, "net") -> "four nets", (1, "net") -> "one net"."""
    number = NUMBERS[count] if count < len(NUMBERS) else thousands(count)
    return f"{number} {name}{'' if count == 1 else 's'}"


def passes(number: float) -> str:
    """64.0 -> "64 passes", 5.625 -> "5.6 passes", 1 -> "1 pass"."""
    text = f"{number:.1f}".removesuffix(".0")
    return f"{text} pass{'' if text == '1' else 'es'}"


def duration(seconds: float) -> str:
    """2163.7 -> "36 min"; 45 -> "45 s"; 9000 -> "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f}{THIN}s"
    return f"{seconds / 60:.0f}{THIN}min" if seconds < 5400 else f"{seconds / 3600:.1f}{THIN}h"


def milliseconds(value: float) -> str:
    """2.2345 -> "2.2 ms"."""
    return f"{value:.1f}{THIN}ms" if value < 100 else f"{value:.0f}{THIN}ms"


def size(count: int) -> str:
    """1677964 -> "1.7 MB"."""
    return f"{count / 1e6:.1f}{THIN}MB" if count >= 1e5 else f"{count / 1e3:.1f}{THIN}kB"


def plain(name: str) -> str:
    """A name without its underscores: "aquarium_fish" -> "aquarium fish"."""
    return name.replace("_", " ")


def activation(name: str) -> str:
    """As the field writes it: "relu" -> "ReLU"."""
    return ACTIVATIONS.get(name, name)


def normalization(name: str | None) -> str:
    """What stands in the study's columns."""
    return "no batch norm" if name is None else "batch norm" if name == "batch" else f"{name} norm"


def dataset(name: str) -> str:
    """What a data set is called: "cifar100" -> "CIFAR-100"; any other as it is."""
    return DATASETS.get(name, name)


def recipe(name: str) -> str:
    """How nets were trained: "article" -> "article's recipe", "modern" -> "modern recipe"."""
    return RECIPES.get(name, f"{plain(name)} recipe")


def shown_by(recipes: Collection[str]) -> str | None:
    """What nets of one recipe show, for those known here: a comparison of two shows neither's."""
    return SHOWN_BY.get(*recipes) if len(recipes) == 1 else None


def trouble(status: HTTPStatus) -> str:
    """What is wrong, for whoever chose a picture and may not know HTTP."""
    return TROUBLES.get(status, status.phrase)


def shell(word: str) -> str:
    """A word, quoted where a shell needs it."""
    return shlex.quote(word)


FILTERS = (
    percent,
    guess,
    points,
    decimal,
    thousands,
    counted,
    passes,
    duration,
    milliseconds,
    size,
    plain,
    activation,
    normalization,
    dataset,
    recipe,
    trouble,
    shell,
)
