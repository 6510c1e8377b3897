"""Schedules, Muon, weight decay, label smoothing and weight averaging against NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from training import nets, optimizers
from training.optimizers import WarmUpAndDown
from training.recipes import RECIPES
from training.step import compiled
from training.variants import VARIANTS

RNG = np.random.default_rng(5)
MODERN = RECIPES["modern"]
STEADY = replace(MODERN, learning_rate=0.1, schedule="constant", average=0.0)


@pytest.mark.parametrize("steps", [10, 1_000])
def test_the_rate_goes_up_over_the_warm_up_and_down_to_zero(steps: int) -> None:
    recipe = replace(MODERN, steps=steps, warm_up=0.2, learning_rate=0.5)
    rates = np.array([float(WarmUpAndDown.of(recipe)(step)) for step in range(steps + 1)])
    rising = steps // 5
    np.testing.assert_allclose(rates[:rising], 0.5 * np.arange(1, rising + 1) / rising, rtol=1e-6)
    np.testing.assert_allclose(rates[rising - 1 :], np.linspace(0.5, 0, len(rates) - rising + 1))
    assert rates.max() == 0.5


@pytest.mark.parametrize(
    ("steps", "warm_up", "rising"), [(100, 0.0, 1), (50, 0.03, 2), (100, 0.29, 29), (3, 0.03, 1)]
)
def test_the_rate_is_highest_at_the_end_of_the_warm_up_and_never_below_zero(
    steps: int, warm_up: float, rising: int
) -> None:
    """The share of the steps is rounded; without a warm-up the first step has the highest rate."""
    recipe = replace(MODERN, steps=steps, warm_up=warm_up, learning_rate=0.5)
    rates = np.array([float(WarmUpAndDown.of(recipe)(step)) for step in range(steps + 5)])
    assert (rates[rising - 1], rates.argmax()) == (0.5, rising - 1)
    assert (rates[:steps] > 0).all()
    assert not rates[steps:].any()


def test_a_shorter_run_has_the_same_shape() -> None:
    long, short = (WarmUpAndDown.of(replace(MODERN, steps=steps)) for steps in (1_000, 100))
    for share in (0.1, 0.5, 0.9):
        assert float(long(1_000 * share)) == pytest.approx(float(short(100 * share)), rel=0.02)


def test_an_optimizer_is_made_again_from_what_it_says_of_itself() -> None:
    optimizer = optimizers.build(replace(MODERN, steps=1_000))
    again = type(optimizer).from_config(optimizer.get_config())
    for made in (optimizer, again):
        made.build([keras.Variable(np.zeros((3, 3, 5, 7), np.float32))])
    for step in (0, 10, 29, 500, 999):
        for made in (optimizer, again):
            made.iterations.assign(step)
        assert float(again.learning_rate) == float(optimizer.learning_rate) > 0


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Five steps of the quintic that Jordan et al. give, in float64 on the wide matrix."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / np.linalg.norm(wide)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def test_a_kernel_steps_by_its_orthogonalized_momentum_and_decays() -> None:
    kernel = RNG.normal(size=(3, 3, 5, 7))
    gradients = RNG.normal(size=(3, *kernel.shape))
    optimizer = optimizers.build(replace(STEADY, momentum=0.9, weight_decay=0.5))
    variable = keras.Variable(kernel.astype(np.float32), name="kernel")
    momentum = np.zeros_like(kernel)
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient.astype(np.float32))], [variable])
        momentum = 0.9 * momentum + gradient
        ahead = gradient + 0.9 * momentum
        kernel = kernel * (1 - 0.1 * 0.5)
        kernel = kernel - 0.1 * newton_schulz(ahead.reshape(-1, 7)).reshape(kernel.shape)
    np.testing.assert_allclose(np.array(variable), kernel, atol=1e-5)
    singular = np.linalg.svd(newton_schulz(gradients[0].reshape(-1, 7)), compute_uv=False)
    assert 0.6 < singular.min() < singular.max() < 1.3


@pytest.mark.parametrize(
    ("name", "shape"), [("bias", (7,)), ("kernel", (5, 7))], ids=["vector", "dense kernel"]
)
def test_the_rest_steps_by_adam_at_its_share_of_the_rate(name: str, shape: tuple[int, ...]) -> None:
    start, gradients = RNG.normal(size=shape), RNG.normal(size=(3, *shape))
    optimizer = optimizers.build(replace(STEADY, adam_share=0.3, weight_decay=0.0))
    variable = keras.Variable(start.astype(np.float32), name=name)
    first, second, expected = np.zeros(shape), np.zeros(shape), start
    for number, gradient in enumerate(gradients, start=1):
        optimizer.apply([ops.convert_to_tensor(gradient.astype(np.float32))], [variable])
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        # In Kingma & Ba's faster order (end of section 2): the floor is under the biased root.
        rate = 0.03 * np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
        expected = expected - rate * first / (np.sqrt(second) + 1e-7)
    np.testing.assert_allclose(np.array(variable), expected, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "rmsprop"])
def test_only_kernels_decay(optimizer: str) -> None:
    """With gradients of zero, whatever moves is decay."""
    recipe = replace(STEADY, weight_decay=0.5, optimizer=optimizer)
    net = nets.build(recipe, VARIANTS["relu_with_bn"], 120.0, seed=0)
    for variable in net.trainable_variables:
        variable.assign(np.full(variable.shape, 2.0, np.float32))
    zeros = [ops.zeros(variable.shape) for variable in net.trainable_variables]
    optimizers.build(recipe).apply(zeros, net.trainable_variables)
    values = {variable.path: np.array(variable) for variable in net.trainable_variables}
    assert len(values) == 42
    for path, value in values.items():
        expected = 2 * (1 - 0.1 * 0.5) if path.endswith("kernel") else 2.0
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=path)


def test_smoothed_labels_cost_what_the_formula_says() -> None:
    logits = RNG.normal(size=(6, 100)) * 3
    labels = RNG.integers(0, 100, 6)
    target = np.full((6, 100), 0.2 / 100)
    target[np.arange(6), labels] += 0.8
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(target * log_probabilities).sum(axis=1).mean()
    loss = optimizers.loss(replace(MODERN, label_smoothing=0.2))
    for given in (labels, labels[:, None]):  # Keras may add an axis
        found = np.mean(np.array(loss(given, logits.astype(np.float32))))
        assert found == pytest.approx(expected, rel=1e-5)


def test_labels_reach_jax_as_whole_numbers() -> None:
    """In a net, Keras hands the loss floats, of which JAX warns that it will not take them."""
    code = (
        "import numpy as np\n"
        "from training import optimizers\n"
        "from training.recipes import RECIPES\n"
        "loss = optimizers.loss(RECIPES['modern'])\n"
        "print(loss(np.zeros(2, np.float32), np.zeros((2, 100), np.float32)).shape)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error:jax.nn.one_hot:DeprecationWarning", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "()", done.stderr


@pytest.mark.parametrize("optimizer", ["muon", "rmsprop"])
def test_the_weights_average_is_the_exponential_moving_average_of_the_steps(
    optimizer: str,
) -> None:
    recipe = replace(
        MODERN, average=0.6, steps=5, precision="float32", batch=4, optimizer=optimizer
    )
    net = nets.build(recipe, VARIANTS["relu_without_bn"], 120.0, seed=1)
    fitter = compiled(net, recipe, seed=1)
    images = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    expected: list[np.ndarray] = []
    for step in range(5):
        inputs = (images, np.array([step], np.int32))
        fitter.train_on_batch(inputs, np.arange(4))
        now = [np.array(v).astype(np.float64) for v in net.trainable_variables]
        expected = (
            [0.6 * old + 0.4 * new for old, new in zip(expected, now, strict=True)] if step else now
        )
    kept = nets.build(recipe, VARIANTS["relu_without_bn"], 120.0, seed=2)
    fitter.optimizer.finalize_variable_values(kept.trainable_variables)
    for found, wanted in zip(kept.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(np.array(found), wanted, atol=1e-6)
