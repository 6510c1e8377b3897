"""What may differ between Keras and a file is what float32 rounds, by the net's own measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from service.models.repository import load_model
from tests.training import oracle
from training.dataset import Dataset
from training.evaluate import predict
from training.export import write_model
from training.graph import convert
from training.parity import MOST, ROUNDINGS, TOLERANCE, in_float64, measure_parity
from training.repository import ExportError


def copy_of(net: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(net)
    copy.set_weights(net.get_weights())
    return copy


def changed(net: keras.Model, *, kernel: float) -> keras.Model:
    """The net with its logits times ``kernel``."""
    copy = copy_of(net)
    matrix, vector = copy.get_layer("logits").get_weights()
    copy.get_layer("logits").set_weights([matrix * np.float32(kernel), vector * np.float32(kernel)])
    return copy


def served(net: keras.Model, model: Any, folder: Path) -> Any:
    """The net's file as the service runs it, with the card of another."""
    write_model(convert(net), replace(model.card, parity=None), folder / "model.onnx")
    return load_model(folder / "model.onnx", sha256=None)


def test_a_net_in_float64_is_the_formulas_to_float64s_own_rounding(
    relu_with_bn: Any, dataset: Dataset
) -> None:
    images = dataset.test_images[:3]
    mean = float(np.float32(relu_with_bn.training_mean))  # as Keras takes it in, like the weights
    expected = oracle.forward(
        oracle.weights_of(relu_with_bn.frozen), "relu", mean, images
    ).probabilities
    exact = predict(in_float64(relu_with_bn.frozen), images)
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-12)
    rounded = predict(relu_with_bn.frozen, images)
    assert 1e-12 < np.abs(rounded - expected).max() < 1e-5


def test_the_rounding_of_the_shipped_arithmetic_is_on_the_record(
    relu_with_bn: Any, model: Any, dataset: Dataset
) -> None:
    exact = predict(in_float64(relu_with_bn.frozen), dataset.test_images)
    rounded = predict(relu_with_bn.frozen, dataset.test_images)
    own = model.card.parity.float32_error
    assert own == pytest.approx(np.abs(rounded - exact).max(), rel=0.2)
    assert own < TOLERANCE


@pytest.fixture(scope="module")
def sharp(relu_with_bn: Any, dataset: Dataset) -> keras.Model:
    """A net so sure of its answers that float32 cannot tell its probabilities to ``TOLERANCE``."""
    images = dataset.test_images[:200]
    for power in range(2, 20):
        net = changed(relu_with_bn.frozen, kernel=1.5**power)
        exact = predict(in_float64(net), images)
        if np.abs(predict(net, images) - exact).max() > TOLERANCE:
            return net
    raise AssertionError("no net rounds as badly")


def test_a_net_that_rounds_more_may_differ_by_so_much_more(
    sharp: keras.Model, model: Any, dataset: Dataset, tmp_path: Path
) -> None:
    parity = measure_parity(sharp, served(sharp, model, tmp_path), dataset.test_images)
    assert parity.float32_error is not None
    assert TOLERANCE < parity.float32_error < MOST / ROUNDINGS
    assert 0 < parity.max_abs_error <= ROUNDINGS * parity.float32_error


def test_beyond_its_rounding_another_net_is_refused(
    sharp: keras.Model, model: Any, dataset: Dataset, tmp_path: Path
) -> None:
    other = served(changed(sharp, kernel=1.01), model, tmp_path)
    says = r"differs from Keras by up to .* \(allowed: .*; Keras' own rounding: .*nothing was publ"
    with pytest.raises(ExportError, match=says):
        measure_parity(sharp, other, dataset.test_images)


def test_no_rounding_excuses_what_the_service_would_refuse(
    relu_with_bn: Any, model: Any, dataset: Dataset, tmp_path: Path
) -> None:
    """Probabilities that float32 computes to a thousandth: whatever differs, it is too much."""
    wild = changed(relu_with_bn.frozen, kernel=3e3)
    with pytest.raises(ExportError, match=rf"\(allowed: {MOST:.1e}; Keras' own rounding"):
        measure_parity(wild, model, dataset.test_images)


def test_the_largest_difference_and_the_share_of_equal_answers_are_on_the_record(
    relu_with_bn: Any, dataset: Dataset
) -> None:
    """Of a net that prefers class 3 by so little that rounding may turn it; one picture is off by
    more.
    """
    net = changed(relu_with_bn.frozen, kernel=0)
    preference = np.zeros(100, np.float32)
    preference[3] = 1e-4
    net.get_layer("logits").bias.assign(preference)
    probabilities = (np.exp(preference) / np.exp(preference).sum()).astype(np.float32)
    images = dataset.test_images
    turned = images[:, 5, 5, 0] < 100
    worst = images[0]

    def run(pictures: np.ndarray) -> np.ndarray:
        answers = np.tile(probabilities, (len(pictures), 1))
        answers[pictures[:, 5, 5, 0] < 100, 4] += np.float32(2e-6)
        answers[(pictures == worst).all(axis=(1, 2, 3)), 7] -= np.float32(8e-6)
        return answers

    parity = measure_parity(net, SimpleNamespace(variant="x", provider="y", run=run), images)
    assert (parity.images, parity.provider) == (len(images), "y")
    assert 0.1 < turned.mean() < 0.9
    assert parity.top1_agreement == pytest.approx(1 - turned.mean(), abs=1e-12)
    assert parity.max_abs_error == pytest.approx(8e-6, rel=0.01)


def test_a_net_that_answers_no_number_is_refused(
    relu_with_bn: Any, model: Any, dataset: Dataset
) -> None:
    """Not a number is not more than is allowed either, if one asks the wrong way round."""
    broken = changed(relu_with_bn.frozen, kernel=float("nan"))
    with pytest.raises(ExportError, match="differs from Keras by up to nan"):
        measure_parity(broken, model, dataset.test_images)
