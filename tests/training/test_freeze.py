"""The freeze: population statistics against a float64 two-pass computation, and the record."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import logsumexp

import training.freeze
import training.trial
from tests.training import oracle
from tests.training.trials import digest
from training import fit
from training.dataset import hold_out
from training.freeze import freeze, population_statistics
from training.recipes import Recipe
from training.trial import Trial, read_record
from training.variants import VARIANTS


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The batches that a freeze takes its statistics from."""
    batches: list[np.ndarray] = []

    def keep(net: keras.Model, pictures: Any) -> Any:
        batches.extend(pictures)
        return population_statistics(net, batches)

    monkeypatch.setattr(training.freeze, "population_statistics", keep)
    return batches


def scores(path: Path, dataset: Any) -> tuple[float, float, float]:
    """Top-1, top-5 and loss of a stored net, its logits by Keras and the rest by hand."""
    net = keras.saving.load_model(path, compile=False)
    logits_net = keras.Model(net.input, net.get_layer("logits").output)
    logits = logits_net.predict(dataset.test_images, verbose=0).astype(np.float64)
    labels = dataset.test_labels
    order = np.argsort(-logits, axis=1)
    own = logits[np.arange(len(labels)), labels]
    return (
        float((order[:, 0] == labels).mean()),
        float((order[:, :5] == labels[:, None]).any(axis=1).mean()),
        float((logsumexp(logits, axis=1) - own).mean()),
    )


def test_population_statistics_are_the_papers(with_bn: Any, dataset: Any) -> None:
    """Batch means and unbiased variances, each batch weighing the same, whatever its size."""
    places = (0, 16, 32, 42)
    batches = [dataset.train_images[a:b] for a, b in itertools.pairwise(places)]
    before = with_bn.net.get_weights()
    found = population_statistics(with_bn.net, batches)
    expected = oracle.population(
        oracle.weights_of(with_bn.net), with_bn.activation, with_bn.training_mean, batches
    )
    assert list(found) == list(expected)
    assert len(found) == 10
    for name, (mean, variance) in found.items():
        spread = np.sqrt(expected[name][1])
        assert mean.dtype == variance.dtype == np.float64
        assert (np.abs(mean - expected[name][0]) <= 1e-4 * spread).all(), name
        np.testing.assert_allclose(variance, expected[name][1], rtol=1e-4, err_msg=name)
    for old, new in zip(before, with_bn.net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)  # the net itself is left as it is


def test_a_frozen_net_holds_the_statistics_of_its_training_pictures(
    sigmoid_with_bn: Any, copy_of: Callable[[Any], Path], seen: list[np.ndarray]
) -> None:
    folder = copy_of(sigmoid_with_bn)
    record = freeze(folder, sigmoid_with_bn.data, images=120)["freeze"]
    assert (record["kind"], record["images"], record["batches"]) == ("population", 100, 2)
    assert [len(batch) for batch in seen] == [50] * 2  # the recipe's batch
    chosen = {picture.tobytes() for batch in seen for picture in batch}
    assert len(chosen) == 100  # no picture twice
    assert chosen <= {picture.tobytes() for picture in sigmoid_with_bn.data.train_images}

    net = keras.saving.load_model(folder / "frozen.keras", compile=False)
    fitted = oracle.weights_of(sigmoid_with_bn.net)
    expected = oracle.population(fitted, "sigmoid", sigmoid_with_bn.training_mean, seen)
    for name, (gamma, beta, *_) in fitted.items():
        if name not in expected:
            for old, new in zip(fitted[name], net.get_layer(name).get_weights(), strict=True):
                np.testing.assert_array_equal(old, new)
            continue
        new_gamma, new_beta, mean, variance = net.get_layer(name).get_weights()
        np.testing.assert_array_equal(new_gamma, gamma)
        np.testing.assert_array_equal(new_beta, beta)
        spread = np.sqrt(expected[name][1])
        assert (np.abs(mean - expected[name][0]) <= 1e-4 * spread).all(), name
        np.testing.assert_allclose(variance, expected[name][1], rtol=1e-4, err_msg=name)
        assert net.get_layer(name).trainable is False


def test_both_figures_are_kept_side_by_side(sigmoid_with_bn: Any) -> None:
    record = read_record(sigmoid_with_bn.folder)
    assert record is not None
    assert record["status"] == "frozen"
    result = record["freeze"]
    assert (result["split"], result["split_images"]) == (
        "test",
        len(sigmoid_with_bn.data.test_images),
    )
    for figure, name in (("before", "model.keras"), ("after", "frozen.keras")):
        top1, top5, loss = scores(sigmoid_with_bn.folder / name, sigmoid_with_bn.data)
        assert result[figure]["top1"] == pytest.approx(top1, abs=1e-9)
        assert result[figure]["top5"] == pytest.approx(top5, abs=1e-9)
        assert result[figure]["loss"] == pytest.approx(loss, rel=1e-6)


def test_the_population_is_worth_more_than_averages_that_lag(relu_with_bn: Any) -> None:
    """After 60 steps of momentum 0.99, more than half of an average is what it started from."""
    result = relu_with_bn.record["freeze"]
    assert result["after"]["loss"] < result["before"]["loss"] - 0.1
    assert result["after"]["top1"] > result["before"]["top1"]


def test_the_record_says_how_far_the_averages_stood_off(relu_with_bn: Any) -> None:
    layers = relu_with_bn.record["freeze"]["layers"]
    assert [layer["channels"] for layer in layers] == [60] * 8 + [100] * 2
    for layer in layers:
        *_, moving_mean, moving_variance = relu_with_bn.net.get_layer(layer["name"]).get_weights()
        *_, mean, variance = relu_with_bn.frozen.get_layer(layer["name"]).get_weights()
        shift = np.sort((moving_mean - mean) / np.sqrt(variance + 1e-3))
        ratio = np.sort((moving_variance + 1e-3) / (variance + 1e-3))
        for quantiles, values in (
            (layer["mean_shift_sd"], shift),
            (layer["variance_ratio"], ratio),
        ):
            places = np.array([0, 0.25, 0.5, 0.75, 1]) * (len(values) - 1)
            expected = np.interp(places, np.arange(len(values)), values)
            np.testing.assert_allclose(quantiles, expected, rtol=1e-3, atol=1e-4)


def test_the_net_as_fitted_stays_as_it_is_and_a_second_freeze_changes_nothing(
    sigmoid_with_bn: Any, copy_of: Callable[[Any], Path]
) -> None:
    folder = copy_of(sigmoid_with_bn)
    fitted = digest(folder / "model.keras")
    first = freeze(folder, sigmoid_with_bn.data, images=100)
    weights = keras.saving.load_model(folder / "frozen.keras", compile=False).get_weights()
    assert digest(folder / "model.keras") == fitted
    second = freeze(folder, sigmoid_with_bn.data, images=100)
    assert digest(folder / "model.keras") == fitted
    again = keras.saving.load_model(folder / "frozen.keras", compile=False).get_weights()
    for one, two in zip(weights, again, strict=True):
        np.testing.assert_array_equal(one, two)
    first["freeze"].pop("seconds")
    second["freeze"].pop("seconds")
    assert first == second
    assert not [path for path in folder.iterdir() if path.name.startswith(".partial")]


def test_a_net_without_running_statistics_is_copied_and_the_record_says_so(
    relu_without_bn: Any, dataset: Any, copy_of: Callable[[Any], Path]
) -> None:
    said: list[str] = []
    folder = copy_of(relu_without_bn)
    (folder / "frozen.keras").unlink()
    result = freeze(folder, dataset, say=said.append)["freeze"]
    assert result["kind"] == "none"
    assert (result["images"], result["batches"], result["layers"]) == (0, 0, [])
    assert result["before"] == result["after"]
    assert len(said) == 1
    assert said[0].startswith(f"{folder}: test accuracy ")  # which of many runs folders, too
    assert "no running statistics, nothing frozen" in said[0]
    net = keras.saving.load_model(folder / "frozen.keras", compile=False)
    for old, new in zip(relu_without_bn.net.get_weights(), net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_pictures_counted_in_are_from_anywhere_in_the_training_set(
    sigmoid_with_bn: Any, copy_of: Callable[[Any], Path], seen: list[np.ndarray]
) -> None:
    """Of a set that is sorted by class, the first ones would be of a few classes."""
    data = sigmoid_with_bn.data
    freeze(copy_of(sigmoid_with_bn), data, images=400)
    place = {picture.tobytes(): n for n, picture in enumerate(data.train_images)}
    places = [place[picture.tobytes()] for batch in seen for picture in batch]
    assert len(set(places)) == len(places) == 400
    quarters = np.bincount(np.array(places) * 4 // len(data.train_images), minlength=4)
    assert quarters.min() > 50


def test_pictures_held_out_are_not_counted_in(
    small_dataset: Any, tmp_path: Path, seen: list[np.ndarray]
) -> None:
    """Not even where more pictures are asked for than are left."""
    recipe = Recipe("test", "synthetic", 1, 1, 2, 1e-3, freeze_images=5_000, freeze_batch=20)
    trial = Trial(recipe, VARIANTS["relu_with_bn"], seed=0, runs=tmp_path, hold_out=100)
    fit.fit(trial, small_dataset)
    result = freeze(trial.folder, small_dataset)["freeze"]
    assert (result["images"], result["batches"]) == (100, 5)
    _, held, _ = hold_out(small_dataset, 100)
    counted = {picture.tobytes() for batch in seen for picture in batch}
    assert len(counted) == 100
    assert counted.isdisjoint(picture.tobytes() for picture in held)
    assert counted <= {picture.tobytes() for picture in small_dataset.train_images}
