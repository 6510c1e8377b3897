"""Where things stand in the charts, by arithmetic of its own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.models.card import FrozenLayer
from service.models.study import Article, Curve, Epoch, Study
from service.site import wording
from service.site.charts import curves, layer_label, nice_ticks, shifts


def study(curve: Curve, article_passes: float | None = None) -> Study:
    scores = {curve.variant: {"top1": 0.5, "top5": 0.8, "loss": 2.0}}
    article = Article(article_passes, scores) if article_passes else None
    return Study("quick", "synthetic", 100, ("a test",), (), (curve,), article)


def test_a_curve_runs_from_left_to_right_and_up_with_accuracy() -> None:
    epochs = (Epoch(1.5, 0.1, 4.0), Epoch(3.0, 0.25, 3.0), Epoch(6.0, 0.4, 2.0))
    curve = Curve("relu_with_bn", 0, epochs, {"top1": 0.45, "top5": 0.8, "loss": 1.8}, 6.0, False)
    accuracy, loss = curves(study(curve, 12.0), 100)
    (line,) = accuracy.lines
    assert [mark.x for mark in line.marks] == [12.5, 25, 50]
    high = 0.5 * 1.08  # the article's, which is the highest, and a little room
    assert [mark.y for mark in line.marks] == pytest.approx(
        [100 - 100 * value / high for value in (0.1, 0.25, 0.4)], abs=1e-3
    )
    assert line.frozen is not None
    assert (line.frozen.x, line.frozen.y) == (50, pytest.approx(100 - 45 / high, abs=1e-3))
    assert line.points == " ".join(f"{mark.x:g},{mark.y:g}" for mark in line.marks)
    (reference,) = accuracy.references
    assert (reference.mark.x, reference.mark.text) == (100, "50.0\u202f%")
    ys = [mark.y for mark in loss.lines[0].marks]
    assert ys == sorted(ys)  # a falling loss goes down


def test_a_wild_loss_does_not_flatten_the_others() -> None:
    epochs = (Epoch(1.0, 0.1, 900.0), Epoch(2.0, 0.2, 3.0), Epoch(3.0, 0.2, math.nan))
    _, loss = curves(study(Curve("relu_with_bn", 0, epochs, None, 3.0, False)), 100)
    wild, tame, unknown = loss.lines[0].marks
    assert wild.y < 0 < tame.y < 80
    assert wild.text == "900.000"
    assert math.isfinite(unknown.y)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_round_few_and_within(low: float, span: float, about: int) -> None:
    ticks = nice_ticks(low, low + span, about)
    assert len(ticks) <= about + 2
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    steps = {round((b - a) / span, 6) for a, b in itertools.pairwise(ticks)}
    assert len(steps) <= 2  # one, but for rounding


def test_nets_share_their_scales_and_nothing_moved_stands_in_the_middle() -> None:
    still = FrozenLayer("block1_norm1", 60, (0.0,) * 5, (1.0,) * 5)
    moved = FrozenLayer("block1_norm1", 60, (-1.0, -0.5, 0, 0.5, 1.0), (0.25, 0.5, 1, 2, 4))
    (mean, variance), (mean_moved, variance_moved) = shifts([[still], [moved]])
    assert set(mean.boxes[0].places) == set(variance.boxes[0].places) == {50.0}
    assert mean.ticks == mean_moved.ticks
    places = variance_moved.boxes[0].places
    assert places[2] == 50
    # By their logarithms: a half stands as far to the left as twice does to the right.
    assert places[3] - 50 == pytest.approx(50 - places[1], abs=0.01)
    assert places[4] - 50 == pytest.approx(2 * (places[3] - 50), abs=0.01)
    assert 0 <= min(places) < max(places) <= 100
    assert "median 0.00" in mean_moved.boxes[0].text


@pytest.mark.parametrize("moved", np.geomspace(1e-3, 20, 40))
def test_both_sides_of_a_shift_have_a_tick(moved: float) -> None:
    ratio = 1 + moved
    layer = FrozenLayer("norm", 8, (-moved, 0, 0, 0, moved), (1 / ratio, 1, 1, 1, ratio))
    for chart in shifts([[layer]])[0]:
        places = [tick.place for tick in chart.ticks]
        assert 0 <= min(places) < 50 < max(places) <= 100
        assert places == pytest.approx([100 - place for place in reversed(places)], abs=1e-2)
        assert 3 <= len(places) <= 5
        assert min(np.diff(places)) > 7  # room for a label where the chart is 400 pixels wide


def test_a_layer_is_called_by_its_numbers() -> None:
    assert [layer_label(name) for name in ("block2_norm1", "bn", "norm_7")] == [
        "2.1",
        "bn",
        "norm_7",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (wording.percent(0.3521), "35.2\u202f%"),
        (wording.percent(None), "—"),
        (wording.passes(64.0), "64 passes"),
        (wording.passes(5.625), "5.6 passes"),
        (wording.passes(1.0), "1 pass"),
        (wording.guess(0.9512), "95\u202f%"),
        (wording.guess(0.0123), "1.2\u202f%"),
        (wording.guess(0.9949), "99\u202f%"),
        (wording.guess(0.9951), "99.5\u202f%"),
        (wording.guess(0.9996), ">\u202f99.9\u202f%"),
        (wording.guess(1.0), "100\u202f%"),
        (wording.dataset("cifar100"), "CIFAR-100"),
        (wording.dataset("synthetic"), "synthetic"),
        (wording.guess(0.00001), "<\u202f0.1\u202f%"),
        (wording.points(0.0264), "+2.64 points"),
        (wording.points(-0.01), "\u22121.00 points"),
        (wording.decimal(math.nan, 2), "—"),
        (wording.duration(45), "45\u202fs"),
        (wording.duration(2163.7), "36\u202fmin"),
        (wording.duration(9000), "2.5\u202fh"),
        (wording.size(1677964), "1.7\u202fMB"),
        (wording.size(900), "0.9\u202fkB"),
        (wording.shell("@my cat's.png"), "'@my cat'\"'\"'s.png'"),
        (wording.normalization("group"), "group norm"),
    ],
)
def test_numbers_read_well(words: str, expected: str) -> None:
    assert words == expected
