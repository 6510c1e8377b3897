"""The compiled inner loop against plain Keras, on both backends that train."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from training import loop, nets
from training.fit import fit
from training.loop import inner_loop
from training.recipes import RECIPES, Recipe
from training.step import Fitter, batch_indices, compiled
from training.trial import Trial
from training.variants import VARIANTS

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 100, 60)
SEED, MEAN = 5, 121.9


def make(recipe: Recipe, variant: str) -> Fitter:
    fitter = compiled(nets.build(recipe, VARIANTS[variant], MEAN, SEED), recipe, SEED)
    fitter.optimizer.build(fitter.trainable_variables)
    return fitter


def chosen(recipe: Recipe, first: int, last: int) -> np.ndarray:
    return np.stack([batch_indices(SEED, n, recipe.batch, len(IMAGES)) for n in range(first, last)])


def both(recipe: Recipe, variant: str, steps: int) -> tuple[Fitter, np.ndarray, Fitter, np.ndarray]:
    """The same steps by Keras' own compiled step, one at a time, and by the loop, in three parts:
    the fitters, and each step's loss and accuracy.
    """
    plain, expected = make(recipe, variant), []
    for step, places in enumerate(chosen(recipe, 0, steps)):
        inputs = IMAGES[places], np.array([step], np.int32)
        logs = plain.train_on_batch(inputs, LABELS[places], return_dict=True)
        expected.append([logs["loss"], logs["accuracy"]])
    fast = make(recipe, variant)
    run = inner_loop(fast, IMAGES, LABELS)
    parts = [(0, 1), (1, 1 + steps // 2), (1 + steps // 2, steps)]
    found = [run(chosen(recipe, *part), part[0]) for part in parts]
    return plain, np.array(expected), fast, np.concatenate(found)


def assert_same_weights(one: Fitter, two: Fitter, tolerance: float) -> None:
    """Biases before a normalization are left out: they change nothing, so their gradients are
    rounding alone, which RMSprop makes whole steps of.
    """
    checked = 0
    for layer in one.net.layers:
        names = [weight.name for weight in layer.weights]
        pairs = zip(
            names, layer.get_weights(), two.net.get_layer(layer.name).get_weights(), strict=True
        )
        for name, ours, theirs in pairs:
            if not ("conv" in layer.name and name == "bias"):
                scale = np.abs(ours).max()
                np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, rtol=0)
                checked += 1
    assert checked == 11 + 1 + 40


def check_on_jax() -> None:
    """50 steps as a CPU takes them, one by one; and the loop that accelerators run, for two."""
    recipe = replace(RECIPES["article"], batch=4, learning_rate=1e-4)
    plain, expected, fast, logs = both(recipe, "relu_with_bn", 50)
    np.testing.assert_allclose(logs[:, 0], expected[:, 0], atol=2e-3)
    assert_same_weights(plain, fast, 5e-3)

    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        run = inner_loop(looped := make(recipe, "relu_with_bn"), IMAGES, LABELS)
    logs = run(chosen(recipe, 0, 2), 0)  # at once, in a loop that is compiled
    np.testing.assert_allclose(logs[:, 0], expected[:2, 0], atol=1e-3)
    assert int(looped.optimizer.iterations) == 2


@pytest.mark.parametrize(
    ("recipe", "variant", "steps"),
    [("article", "relu_with_bn", 50), ("modern", "sigmoid_with_bn", 6)],
)
def test_steps_in_the_loop_are_the_steps_of_fit_to_the_last_bit(
    recipe: str, variant: str, steps: int
) -> None:
    """Under TensorFlow, on the same machine: so a trial's steps may be cut up in any way."""
    plain, expected, fast, logs = both(replace(RECIPES[recipe], batch=4), variant, steps)
    np.testing.assert_array_equal(logs, expected)
    for one, two in zip(plain.net.get_weights(), fast.net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert int(fast.optimizer.iterations) == steps


def test_fifty_steps_in_the_loop_are_the_steps_of_fit_on_jax() -> None:
    code = "import tests.training.test_loop as t; t.check_on_jax(); print('agrees')"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.stdout.strip() == "agrees", done.stderr


SWITCHES = {
    "tensorflow": "not config.experimental.tensor_float_32_execution_enabled()",
    "jax": "config.jax_default_matmul_precision == 'float32'",
}


@pytest.mark.parametrize("backend", SWITCHES)
def test_float32_means_float32_in_whatever_computes(backend: str) -> None:
    """Validation, freeze and ablation too, in a process that never fits: TensorFloat-32 is off."""
    for module in ("evaluate", "freeze", "ablation"):
        code = (
            f"import training.{module}; from {backend} import config; "
            f"assert {SWITCHES[backend]}; print('off')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.stdout.strip() == "off", done.stderr


def test_a_trial_is_fitted_in_few_executions(
    tmp_path: Any, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python speaks once for many steps; never across an epoch's end."""
    asked: list[tuple[int, int]] = []
    original = loop._tensorflow

    def watched(*arguments: Any) -> Any:
        run = original(*arguments)

        def counting(chosen: Any, first: Any, count: Any) -> Any:
            asked.append((int(first), int(count)))
            return run(chosen, first, count)

        return counting

    monkeypatch.setattr(loop, "_tensorflow", watched)
    monkeypatch.setattr("training.fit.EXECUTION_SECONDS", 60.0)
    recipe = replace(RECIPES["demo"], steps=25, steps_per_epoch=10, batch=4)
    fit(Trial(recipe, VARIANTS["relu_without_bn"], seed=0, runs=tmp_path), small_dataset)
    assert asked == [
        (0, 1),
        (0, 1),
        (1, 9),
        (10, 10),
        (20, 5),
    ]  # the first compiles, the next times


def test_the_data_set_leaves_the_device_with_its_loop() -> None:
    import tensorflow as tf

    recipe, images = replace(RECIPES["article"], batch=4), np.concatenate([IMAGES, IMAGES[:1]])

    def on_the_device() -> list[Any]:
        gc.collect()
        tensors = [
            each for each in gc.get_objects() if isinstance(each, tf.__internal__.EagerTensor)
        ]
        return [each for each in tensors if each.shape == images.shape]

    run = inner_loop(make(recipe, "relu_without_bn"), images, np.arange(len(images)))
    run(chosen(recipe, 0, 1), 0)
    assert len(on_the_device()) == 1
    del run
    assert not on_the_device()
