"""Accuracy and loss, against counting by hand and scipy's log-sum-exp."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import logsumexp

from tests.training import oracle
from training.evaluate import evaluate, predict, score
from training.nets import logits_of


def by_hand(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Sort every row's classes, best first, a tie by the class's number; look the label up."""
    rank = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        rank.append(order.index(label))
    wide = logits.astype(np.float64)
    losses = logsumexp(wide, axis=1) - wide[np.arange(len(labels)), labels]
    top1 = sum(place == 0 for place in rank) / len(rank)
    top5 = sum(place < 5 for place in rank) / len(rank)
    return top1, top5, losses.mean()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scores_are_those_of_counting_by_hand(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    classes = data.draw(st.integers(2, 12))
    values = st.one_of(
        st.floats(-80, 80, width=32),
        st.sampled_from([-1.0, 0.0, 1.0]),  # ties
    )
    logits = data.draw(arrays.arrays(np.float32, (count, classes), elements=values))
    labels = data.draw(arrays.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    scores = score(logits, labels)
    top1, top5, loss = by_hand(logits, labels)
    assert scores.top1 == pytest.approx(top1)
    assert scores.top5 == pytest.approx(top5)
    assert scores.loss == pytest.approx(loss, rel=1e-9, abs=1e-9)


def test_a_net_that_always_answers_the_same_scores_chance() -> None:
    labels = np.arange(100).repeat(3)
    for logits in (np.zeros((300, 100), np.float32), np.full((300, 100), -7.5, np.float32)):
        scores = score(logits, labels)
        assert scores.top1 == 0.01
        assert scores.top5 == 0.05
        assert scores.loss == pytest.approx(np.log(100))


def test_adding_a_constant_to_every_logit_changes_nothing_however_large() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 3, (50, 100)), rng.integers(0, 100, 50)
    plain, shifted = score(logits, labels), score(logits + 5_000, labels)
    assert (plain.top1, plain.top5) == (shifted.top1, shifted.top5)
    assert shifted.loss == pytest.approx(plain.loss, rel=1e-9)


def test_a_confident_mistake_costs_its_logit() -> None:
    logits = np.zeros((1, 100), np.float32)
    logits[0, 3] = 1_000
    assert score(logits, np.array([3])) == score(logits * 2, np.array([3]))
    assert score(logits, np.array([3])).loss == pytest.approx(0)
    assert score(logits, np.array([4])).loss == pytest.approx(1_000)


def test_a_net_is_scored_in_inference_mode(relu_with_bn: Any, dataset: Any) -> None:
    weights = oracle.weights_of(relu_with_bn.net)
    images, labels = dataset.test_images[:20], dataset.test_labels[:20]
    expected = oracle.forward(weights, "relu", relu_with_bn.training_mean, images)
    scores = evaluate(relu_with_bn.net, images, labels)
    top1, top5, loss = by_hand(expected.logits, labels)
    assert scores.top1 == pytest.approx(top1, abs=1e-9)
    assert scores.top5 == pytest.approx(top5, abs=1e-9)
    assert scores.loss == pytest.approx(loss, rel=1e-4)
    logits = predict(logits_of(relu_with_bn.net), images)
    assert np.abs(logits - expected.logits).max() < 1e-4 * np.abs(expected.logits).max()


def test_every_picture_is_answered_in_its_place(relu_with_bn: Any, dataset: Any) -> None:
    """Also where their number is no multiple of what passes at a time."""
    images = dataset.test_images[:106]
    answers = predict(relu_with_bn.net, images)
    assert answers.shape == (106, 100)
    ends = [0, 1, 98, 99, 100, 105]
    expected = oracle.forward(
        oracle.weights_of(relu_with_bn.net), "relu", relu_with_bn.training_mean, images[ends]
    )
    np.testing.assert_allclose(answers[ends], expected.probabilities, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["not a number", "infinite"])
def test_a_net_that_has_diverged_is_right_by_chance_at_most(value: float) -> None:
    scores = score(np.full((300, 100), value, np.float32), np.arange(100).repeat(3))
    assert scores.top1 <= 0.01
    assert scores.top5 <= 0.05
    assert np.isnan(scores.loss)


def test_a_picture_whose_logits_are_not_numbers_is_wrong_and_the_others_are_as_they_are() -> None:
    labels = np.arange(20)
    logits = np.eye(100, dtype=np.float32)[labels]
    logits[3] = np.nan  # all of them
    logits[7, 7] = np.nan  # the right one alone
    logits[11, :5] = np.nan  # five others
    scores = score(logits, labels)
    assert scores.top1 == scores.top5 == 17 / 20
