"""Positions in the page's charts: numbers in, percentages of the plot's sides out.

``curves`` draws accuracy and loss over the passes of training, ``shifts`` the quantiles of what the
freeze moved. Templates turn both into SVG whose text keeps its size whatever the width, so that a
chart can be read on a telephone and needs no script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from service.models.card import FrozenLayer
from service.models.study import Curve, Study
from service.site.wording import MINUS, decimal, percent

DECIMALS = 3
TIMES = "\u00d7"


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A point: where it stands, after how many passes, and its value in words."""

    x: float
    y: float
    passes: float
    text: str


@dataclass(frozen=True)
class Line:
    """One trial: its epochs, the frozen net, and the points that join the epochs.

    ``left`` is the epoch that was frozen, where both are of the same pictures.
    """

    variant: str
    seed: int
    marks: tuple[Mark, ...]
    left: Mark | None
    frozen: Mark | None
    points: str


@dataclass(frozen=True)
class Reference:
    """Where the article's net of this variant ended."""

    variant: str
    mark: Mark


@dataclass(frozen=True)
class Panel:
    """One chart of the study; ``pictures`` says what its values are of."""

    key: str
    title: str
    pictures: str
    note: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Box:
    """One layer: minimum, lower quartile, median, upper quartile, maximum, and these in words."""

    label: str
    places: tuple[float, ...]
    text: str


@dataclass(frozen=True)
class Shift:
    """One chart of the freeze: a box a layer; ``zero`` is where nothing would have moved."""

    key: str
    title: str
    ticks: tuple[Tick, ...]
    zero: float
    boxes: tuple[Box, ...]


def curves(study: Study, classes: int) -> tuple[Panel, ...]:
    """Accuracy and loss of every trial; loss is cut off well above that of guessing."""
    passes = [epoch.passes for curve in study.curves for epoch in curve.epochs]
    article = study.article
    end = max([*passes, article.passes if article else 0]) or 1.0
    held_out = any(curve.held_out for curve in study.curves)
    panels = []
    for key, title, note, say in (
        ("top1", "Accuracy", "higher is better", percent),
        ("loss", "Loss", "in nats, lower is better", lambda value: decimal(value, 3)),
    ):
        values = [getattr(epoch, key) for curve in study.curves for epoch in curve.epochs]
        values += [curve.frozen[key] for curve in study.curves if curve.frozen]
        values += [each[key] for each in article.scores.values()] if article else []
        top = max([*filter(math.isfinite, values), 1e-6])
        if key == "loss":
            top = min(top, 1.3 * math.log(max(classes, 2)))
        high = min(top * 1.08, 1.0) if key == "top1" else top * 1.08
        ticks = nice_ticks(0, high, 5)
        panels.append(
            Panel(
                key=key,
                title=title,
                pictures="training pictures held out (frozen: on the test pictures)"
                if held_out
                else "the test pictures",
                note=note,
                x_ticks=tuple(Tick(_percent(t, 0, end), f"{t:g}") for t in nice_ticks(0, end, 4)),
                y_ticks=tuple(
                    Tick(
                        100 - _percent(t, 0, high),
                        f"{100 * t:.0f} %" if key == "top1" else f"{t:g}",
                    )
                    for t in ticks
                ),
                lines=tuple(_line(curve, key, end, high, say) for curve in study.curves),
                references=tuple(
                    Reference(name, _mark(article.passes, score[key], end, high, say))
                    for name, score in article.scores.items()
                )
                if article
                else (),
            )
        )
    return tuple(panels)


def shifts(cards: Iterable[Sequence[FrozenLayer]]) -> list[tuple[Shift, Shift]]:
    """Two charts for each net's layers: the means' shift and the variances' ratio.

    All nets share the scales, so that their charts can be compared.
    """
    nets = list(cards)
    layers = [layer for net in nets for layer in net]
    means = [abs(value) for layer in layers for value in layer.mean_shift_sd]
    # Ratios are shown by their logarithm: half and twice stand equally far from 1.
    ratios = [abs(_log(value)) for layer in layers for value in layer.variance_ratio]
    wide, far = max([*means, 0.05]) * 1.04, max([*ratios, math.log(1.1)]) * 1.04
    # About 5 over both sides leave one on each, whatever the range.
    mean_ticks = tuple(
        Tick(_percent(t, -wide, wide), f"{t:+g}".replace("-", MINUS) if t else "0")
        for t in nice_ticks(-wide, wide, 5)
    )
    widest = [ratio for ratio in (1.1, 1.2, 1.5, 2, 4, 16) if _log(ratio) <= far][-2:]
    ratio_ticks = tuple(
        Tick(_percent(_log(ratio), -far, far), f"{TIMES}{ratio:.2g}")
        for ratio in sorted([*(1 / ratio for ratio in widest), 1, *widest])
    )
    return [
        (
            Shift(
                "mean",
                "Moving mean minus the population's, in standard deviations",
                mean_ticks,
                50.0,
                tuple(
                    _box(layer, layer.mean_shift_sd, lambda v: v, wide, "shift of the mean")
                    for layer in net
                ),
            ),
            Shift(
                "variance",
                "Moving variance over the population's",
                ratio_ticks,
                50.0,
                tuple(
                    _box(layer, layer.variance_ratio, _log, far, "ratio of the variances")
                    for layer in net
                ),
            ),
        )
        for net in nets
    ]


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within [low, high], about so many: steps are 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _line(curve: Curve, key: str, end: float, high: float, say: Callable[[float], str]) -> Line:
    marks = tuple(_mark(each.passes, getattr(each, key), end, high, say) for each in curve.epochs)
    frozen = _mark(curve.kept, curve.frozen[key], end, high, say) if curve.frozen else None
    left = next((mark for mark in marks if mark.passes == curve.kept and not curve.held_out), None)
    points = " ".join(f"{mark.x:g},{mark.y:g}" for mark in marks)
    return Line(curve.variant, curve.seed, marks, left, frozen, points)


def _mark(
    passes: float, value: float, end: float, high: float, say: Callable[[float], str]
) -> Mark:
    y = 100 - _percent(value, 0, high) if math.isfinite(value) else 0.0
    return Mark(_percent(passes, 0, end), round(max(y, -400.0), DECIMALS), passes, say(value))


def _box(
    layer: FrozenLayer,
    values: Sequence[float],
    scale: Callable[[float], float],
    wide: float,
    what: str,
) -> Box:
    low, lower, middle, upper, high = (decimal(value, 2) for value in values)
    return Box(
        label=layer_label(layer.name),
        places=tuple(_percent(scale(value), -wide, wide) for value in values),
        text=f"{layer.name}, {what}: median {middle}, half of its {layer.channels} channels "
        f"between {lower} and {upper}, all between {low} and {high}",
    )


def layer_label(name: str) -> str:
    """Of "block2_norm1" its numbers, "2.1"; any other name as it is."""
    numbers = "".join(each if each.isdigit() else " " for each in name).split()
    return ".".join(numbers) if len(numbers) == 2 else name


def _log(ratio: float) -> float:
    return math.log(max(ratio, 1e-6))


def _percent(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), DECIMALS)
