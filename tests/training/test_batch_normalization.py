"""Batch normalization in both its modes, in nets that were really fitted.

In inference a layer normalizes with fixed statistics, in training with those of its own batch. The
difference is what the freeze is for, so both modes are held against the paper's formulas (Ioffe &
Szegedy 2015) in float64, and against one another.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tests.training import oracle
from training.freeze import frozen, population_statistics
from training.nets import logits_of, running_statistics


@pytest.fixture(scope="module")
def pictures(dataset: Any) -> np.ndarray:
    return dataset.test_images[:12]


def without_dropout(net: keras.Model) -> keras.Model:
    """A copy of ``net`` whose training mode differs by its normalization alone."""
    copy = keras.models.clone_model(net)
    copy.set_weights(net.get_weights())
    for layer in copy.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return copy


def call(model: keras.Model, images: np.ndarray, *, training: bool) -> Any:
    answer = model(images.astype(np.float32), training=training)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, answer)


def layer_by_layer(
    net: keras.Model, images: np.ndarray, *, training: bool
) -> list[tuple[keras.layers.Layer, np.ndarray, np.ndarray]]:
    """Every normalization layer with what went in and what came out."""
    layers = running_statistics(net)
    probe = keras.Model(net.input, [[layer.input, layer.output] for layer in layers])
    answers = call(probe, images, training=training)
    return [(layer, *answer) for layer, answer in zip(layers, answers, strict=True)]


def weights_of(layer: keras.layers.Layer) -> list[np.ndarray]:
    """Gamma, beta, mean, variance: float64 [channels]."""
    return [weight.astype(np.float64) for weight in layer.get_weights()]


@pytest.mark.parametrize("stage", ["net", "frozen"])
def test_inference_normalizes_with_the_stored_statistics(
    stage: str, with_bn: Any, pictures: np.ndarray
) -> None:
    layers = layer_by_layer(getattr(with_bn, stage), pictures, training=False)
    assert len(layers) == 10
    for layer, x, y in layers:
        gamma, beta, mean, variance = weights_of(layer)
        expected = gamma * (x.astype(np.float64) - mean) / np.sqrt(variance + 1e-3) + beta
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5, err_msg=layer.name)


def test_training_normalizes_with_the_statistics_of_its_batch(
    with_bn: Any, pictures: np.ndarray
) -> None:
    layers = layer_by_layer(without_dropout(with_bn.net), pictures, training=True)
    assert len(layers) == 10
    for layer, x, y in layers:
        gamma, beta, *_ = weights_of(layer)
        mean, variance, _ = oracle.two_pass_moments(x)
        np.testing.assert_allclose(
            y, oracle.normalize(x, gamma, beta, mean, variance), rtol=1e-3, atol=1e-4
        )
        centre, spread, _ = oracle.two_pass_moments(y)
        np.testing.assert_allclose(centre, beta, atol=1e-4, err_msg=layer.name)
        np.testing.assert_allclose(
            spread, gamma**2 * variance / (variance + 1e-3), rtol=1e-3, atol=1e-5
        )


def test_a_training_step_moves_the_averages_a_hundredth_of_the_way(
    relu_with_bn: Any, pictures: np.ndarray
) -> None:
    net = without_dropout(relu_with_bn.net)
    before = {layer.name: weights_of(layer) for layer in running_statistics(net)}
    for layer, x, _ in layer_by_layer(net, pictures, training=True):
        _, _, mean, variance = weights_of(layer)
        batch_mean, batch_variance, _ = oracle.two_pass_moments(x)
        _, _, old_mean, old_variance = before[layer.name]
        np.testing.assert_allclose(
            mean, 0.99 * old_mean + 0.01 * batch_mean, rtol=1e-4, atol=1e-5, err_msg=layer.name
        )
        np.testing.assert_allclose(
            variance, 0.99 * old_variance + 0.01 * batch_variance, rtol=1e-4, atol=1e-6
        )


def test_one_observation_normalizes_to_beta_whatever_it_is(relu_with_bn: Any) -> None:
    """Its mean is itself and its variance is 0: in training mode nothing of it is left."""
    layer = without_dropout(relu_with_bn.net).get_layer("block5_norm2")
    gamma, beta, mean, variance = weights_of(layer)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.normal(mean, np.sqrt(variance) + 1, (1, 1, 1, 100)).astype(np.float32)
        alone = keras.ops.convert_to_numpy(layer(x, training=True))
        np.testing.assert_allclose(alone[0, 0, 0], beta, atol=1e-4)
    layer.set_weights([gamma, beta, mean, variance])  # training moved the averages
    told_apart = keras.ops.convert_to_numpy(layer(x, training=False))
    np.testing.assert_allclose(
        told_apart, oracle.normalize(x, gamma, beta, mean, variance), rtol=1e-4, atol=1e-5
    )
    assert np.abs(told_apart[0, 0, 0] - beta).max() > 0.5


def test_a_single_picture_in_training_mode_gets_another_answer(
    with_bn: Any, pictures: np.ndarray
) -> None:
    net = logits_of(without_dropout(with_bn.frozen))
    expected = call(net, pictures, training=False)
    frozen_alone = np.concatenate([call(net, each[None], training=True) for each in pictures])
    for layer in running_statistics(net):
        layer.trainable = True  # undo that part of the freeze
    alone = np.concatenate([call(net, each[None], training=True) for each in pictures])
    # Further off than most pictures' logits are from the average picture's.
    assert np.abs(alone - expected).mean() > 0.6 * expected.std(axis=0).mean()
    assert np.abs(frozen_alone - expected).mean() < 1e-3 * np.abs(alone - expected).mean()


def test_statistics_of_growing_batches_converge_to_the_populations(
    with_bn: Any, dataset: Any
) -> None:
    net = without_dropout(with_bn.net)
    off = []
    for size in (16, 64, 256):
        images = dataset.train_images[100 : 100 + size]
        distances = []
        for layer, x, _ in layer_by_layer(net, images, training=True):
            mean, variance, _ = oracle.two_pass_moments(x)
            *_, frozen_mean, frozen_variance = weights_of(with_bn.frozen.get_layer(layer.name))
            distances.append(np.abs(mean - frozen_mean).mean() / np.sqrt(frozen_variance).mean())
            distances.append(np.abs(variance / frozen_variance - 1).mean())
        off.append(np.mean(distances))
    assert off[1] < 0.8 * off[0]
    assert off[2] < 0.8 * off[1]
    assert off[2] < 0.02


def test_answers_in_training_mode_converge_to_the_frozen_nets_as_batches_grow(
    relu_with_bn: Any, dataset: Any
) -> None:
    """Eight pictures' logits in ever larger company, against what the frozen net says of them."""
    watched, others = dataset.train_images[:8], dataset.train_images[8:]
    expected = call(logits_of(relu_with_bn.frozen), watched, training=False)
    net = logits_of(without_dropout(relu_with_bn.net))
    off = []
    for size, companies in ((16, 6), (64, 4), (256, 1)):
        squares = []
        for company in np.split(others[: companies * (size - 8)], companies):
            answers = call(net, np.concatenate([watched, company]), training=True)[:8]
            squares.append(np.mean((answers - expected) ** 2))
        off.append(np.sqrt(np.mean(squares)) / expected.std(axis=0).mean())
    assert off[1] < 0.8 * off[0]
    assert off[2] < 0.8 * off[1]
    assert off[2] < 0.2


def test_training_mode_leaves_a_frozen_net_as_it_is(with_bn: Any, pictures: np.ndarray) -> None:
    """Neither its statistics nor, dropout aside, its answers; as frozen, and as read back."""
    for net in (
        without_dropout(with_bn.frozen),
        without_dropout(frozen(with_bn.net, population_statistics(with_bn.net, [pictures]))),
    ):
        before = net.get_weights()
        expected = call(net, pictures, training=False)
        answers = call(net, pictures, training=True)
        np.testing.assert_allclose(answers, expected, atol=1e-6)
        for old, new in zip(before, net.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_training_mode_changes_a_net_that_is_not_frozen(
    relu_with_bn: Any, pictures: np.ndarray
) -> None:
    net = without_dropout(relu_with_bn.net)
    before = net.get_weights()
    expected = call(net, pictures, training=False)
    assert np.abs(call(net, pictures, training=True) - expected).max() > 0.01
    changed = [(old != new).any() for old, new in zip(before, net.get_weights(), strict=True)]
    assert sum(changed) == 20  # a mean and a variance for each of ten layers


def test_dropout_is_all_that_training_mode_does_to_a_frozen_net(
    relu_with_bn: Any, pictures: np.ndarray
) -> None:
    net = keras.models.clone_model(relu_with_bn.frozen)
    net.set_weights(relu_with_bn.frozen.get_weights())
    inference = call(net, pictures, training=False)
    assert np.abs(call(net, pictures, training=True) - inference).max() > 1e-3  # dropout is on
    for layer, x, y in layer_by_layer(net, pictures, training=True):
        np.testing.assert_allclose(
            y, oracle.normalize(x, *weights_of(layer)), rtol=1e-4, atol=1e-5, err_msg=layer.name
        )
