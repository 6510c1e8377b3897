"""The mixed-precision normalization against Keras' own layer, gradients and all."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from tests.training import oracle
from training.mixed import MixedBatchNormalization, moments
from training.nets import build
from training.recipes import RECIPES
from training.variants import VARIANTS

RNG = np.random.default_rng(11)
X = (RNG.normal(size=(6, 4, 4, 5)) * [1, 2, 0.1, 5, 1] + [0, 1, -1, 20, 3]).astype(np.float32)
UPSTREAM = RNG.normal(size=X.shape).astype(np.float32)
GAMMA, BETA = RNG.normal(size=(2, 5)).astype(np.float32)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    return np.array(ops.cast(ops.cast(values, dtype.removeprefix("mixed_")), "float32"))


def analytic(dtype: str) -> tuple[np.ndarray, ...]:
    """Outputs, gradients and moments in float64, by Ioffe & Szegedy's section 3, of what the layer
    sees: inputs rounded to its dtype.
    """
    x, dy = (rounded(v, dtype).reshape(-1, 5).astype(np.float64) for v in (X, UPSTREAM))
    mean, variance, _ = oracle.two_pass_moments(x)
    deviation = np.sqrt(variance + oracle.EPSILON)
    normalized = (x - mean) / deviation
    dnorm = dy * GAMMA
    dvariance = (dnorm * (x - mean)).sum(0) * -0.5 * deviation**-3
    dmean = (-dnorm / deviation).sum(0) + dvariance * (-2 * (x - mean)).mean(0)
    dx = dnorm / deviation + dvariance * 2 * (x - mean) / len(x) + dmean / len(x)
    y = GAMMA * normalized + BETA
    return y, dx, (dy * normalized).sum(0), dy.sum(0), 0.01 * mean, 0.99 + 0.01 * variance


def computed(dtype: str, compiled: bool) -> tuple[Any, ...]:
    """Output, gradients of input, gamma and beta, and moving statistics, of the layer itself."""
    layer = MixedBatchNormalization(epsilon=oracle.EPSILON, dtype=dtype)
    layer.build(X.shape)
    layer.gamma.assign(GAMMA)
    layer.beta.assign(BETA)
    if keras.backend.backend() == "jax":
        import jax

        def run(x: Any, gamma: Any, beta: Any) -> Any:
            states = layer.moving_mean.value, layer.moving_variance.value
            answer, (mean, variance) = layer.stateless_call((gamma, beta), states, x, training=True)
            return (ops.cast(answer, "float32") * UPSTREAM).sum(), (answer, mean, variance)

        step = jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)
        step = jax.jit(step) if compiled else step
        (_, (y, mean, variance)), gradients = step(ops.cast(X, layer.compute_dtype), GAMMA, BETA)
        return y, *gradients, mean, variance
    import tensorflow as tf

    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * UPSTREAM)
        sources = [x, layer.gamma.value, layer.beta.value]
        return y, *tape.gradient(loss, sources)

    y, *gradients = (tf.function(run) if compiled else run)(tf.constant(X))
    return y, *gradients, layer.moving_mean, layer.moving_variance


def check() -> None:
    """What is bfloat16 at the end is right to its last bit but one; everything else as float32."""
    for dtype, last in (("float32", 1e-4), ("mixed_bfloat16", 2**-7)):
        for compiled in (False, True):
            found = computed(dtype, compiled)
            assert keras.backend.standardize_dtype(found[0].dtype) == dtype.removeprefix("mixed_")
            for place, (one, wanted) in enumerate(zip(found, analytic(dtype), strict=True)):
                tolerance = last if place < 2 else 1e-4
                np.testing.assert_allclose(
                    np.array(ops.cast(one, "float32")).reshape(-1, 5),
                    wanted.reshape(-1, 5),
                    rtol=tolerance,
                    atol=tolerance * np.abs(wanted).max() / 10,
                )


def test_the_layer_is_batch_normalization_with_its_gradient() -> None:
    check()


def test_the_layer_is_batch_normalization_with_its_gradient_on_jax() -> None:
    code = "import tests.training.test_mixed as t; t.check(); print('agrees')"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "agrees", done.stderr


def test_in_inference_the_moving_averages_normalize() -> None:
    ours, keras_own = MixedBatchNormalization(), keras.layers.BatchNormalization()
    for layer in (ours, keras_own):
        layer.build(X.shape)
        layer.set_weights([GAMMA, BETA, BETA * 2, GAMMA**2])
    np.testing.assert_array_equal(np.array(ours(X)), np.array(keras_own(X)))


def test_a_layer_that_is_frozen_normalizes_with_its_averages_in_training_too() -> None:
    layer = MixedBatchNormalization(epsilon=oracle.EPSILON)
    layer.build(X.shape)
    layer.set_weights([GAMMA, BETA, BETA * 2, GAMMA**2])
    layer.trainable = False
    expected = oracle.normalize(X, GAMMA, BETA, BETA * 2, GAMMA**2)
    np.testing.assert_allclose(np.array(layer(X, training=True)), expected, rtol=1e-4, atol=1e-4)
    for found, set_to in zip(layer.get_weights(), [GAMMA, BETA, BETA * 2, GAMMA**2], strict=True):
        np.testing.assert_array_equal(found, set_to)


def test_the_variance_of_a_channel_that_is_constant_is_not_negative() -> None:
    """Its mean square less its squared mean is rounding alone, of either sign."""
    values = np.random.default_rng(0).normal(0, 1_000, 200).astype(np.float32)
    x = np.broadcast_to(values, (3, 7, 7, 200))
    squares = (x.reshape(-1, 200) ** 2).mean(axis=0, dtype=np.float32)
    mean, variance = (np.array(each) for each in moments(x))
    np.testing.assert_allclose(mean, values, rtol=1e-5)
    assert (variance >= 0).all()
    assert (variance <= 1e-5 * squares).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_net_in_mixed_precision_has_the_same_float32_variables(name: str) -> None:
    plain, mixed = (
        build(replace(RECIPES["article"], precision=each), VARIANTS[name], 120.0, seed=3)
        for each in ("float32", "bfloat16")
    )
    assert [v.path for v in plain.weights] == [v.path for v in mixed.weights]
    assert len(plain.variables) == len(mixed.variables)
    assert {v.dtype for v in mixed.weights} == {"float32"}
    for one, two in zip(plain.get_weights(), mixed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
    answers = [np.array(net(images)) for net in (plain, mixed)]
    assert answers[1].dtype == np.float32
    assert np.abs(answers[0] - answers[1]).max() < 0.05 * answers[0].max()
    assert {layer.compute_dtype for layer in mixed.layers if "conv" in layer.name} == {"bfloat16"}
    assert mixed.get_layer("logits").compute_dtype == "float32"
