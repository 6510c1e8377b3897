"""Many training steps per execution: data set, augmentation and inner loop stay on the device.

In: a compiled ``Fitter`` and the data set, which goes to the device once, as uint8. Each call then
runs many steps: the host sends the pictures' indices (a few bytes a picture) and receives a loss
and an accuracy per step. The loop around the step is compiled too, so no step waits for Python. A
step computes what ``Fitter.train_on_batch`` does, however many of them an execution runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.dataset import Images, Labels
from training.step import Fitter

CAPACITY = 1_000  # steps an execution at most

Logs = NDArray[np.float64]
Steps = Callable[[NDArray[np.int64], int], Logs]


def inner_loop(fitter: Fitter, images: Images, labels: Labels) -> Steps:
    """A function that runs steps: ``(chosen, first) -> logs``.

    ``chosen`` [steps, batch] are the places in ``images`` [N, 32, 32, 3] and ``labels`` [N] that
    each step sees, the first of which is step number ``first``; at most ``CAPACITY`` rows. ``logs``
    are float64 [steps, 2]: every step's loss and accuracy. The variables of the net and of the
    optimizer, which must be built, hold the result.
    """
    # Losses and metrics make their variables when they are first used.
    pictures = images[:1], np.zeros(1, np.int32)
    answer = fitter(pictures)
    fitter.compute_loss(pictures, labels[:1], answer)
    fitter.compute_metrics(pictures, labels[:1], answer)
    run = {"tensorflow": _tensorflow, "jax": _jax}[keras.backend.backend()](fitter, images, labels)

    def steps(chosen: NDArray[np.int64], first: int) -> Logs:
        # One shape for every count: nothing is compiled twice.
        padded = np.zeros((CAPACITY, chosen.shape[1]), np.int32)
        padded[: len(chosen)] = chosen
        return np.asarray(run(padded, np.int32(first), np.int32(len(chosen))), np.float64)[
            : len(chosen)
        ]

    return steps


def _tensorflow(fitter: Fitter, images: Images, labels: Labels) -> Callable[..., Any]:
    import tensorflow as tf

    # Arguments, not captured: TensorFlow keeps what a function has captured to the process' end.
    images, labels = tf.constant(images), tf.constant(labels)

    def step(images: Any, labels: Any, chosen: Any, number: Any) -> Any:
        for variable in fitter.metrics_variables:
            variable.assign(tf.zeros_like(variable.value))
        pictures = tf.gather(images, chosen), tf.reshape(number, (1,))
        logs = fitter.train_step((pictures, tf.gather(labels, chosen)))
        return tf.stack([logs["loss"], logs["accuracy"]])

    def loop(images: Any, labels: Any, chosen: Any, first: Any, count: Any) -> Any:
        def body(place: Any, logs: Any) -> Any:
            done = step(images, labels, chosen[place], first + place)
            return place + 1, logs.write(place, done)

        logs = tf.TensorArray(tf.float32, CAPACITY, element_shape=(2,))
        _, logs = tf.while_loop(lambda place, _: place < count, body, (0, logs))
        return logs.stack()

    # XLA is for GPUs here: on a CPU it takes three times as long for this step.
    compiled = tf.function(loop, jit_compile=bool(tf.config.list_physical_devices("GPU")))
    return lambda *rows: compiled(images, labels, *rows)


def _jax(fitter: Fitter, images: Images, labels: Labels) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    # XLA's convolutions run on one core, slowly, inside a loop that it compiles for a CPU (2
    # pictures/s, not 27): there the compiled step is called step by step.
    one_by_one = jax.default_backend() == "cpu"

    images, labels = jax.device_put(images), jax.device_put(labels)

    def step(state: Any, images: Any, labels: Any, chosen: Any, number: Any) -> Any:
        *variables, metrics = state
        blank = [jnp.zeros_like(variable) for variable in metrics]
        pictures = images[chosen], jnp.reshape(number, (1,))
        logs, state = fitter.train_step((*variables, blank), (pictures, labels[chosen]))
        return state, jnp.stack([logs["loss"], logs["accuracy"]])

    def loop(state: Any, images: Any, labels: Any, chosen: Any, first: Any, count: Any) -> Any:
        def body(place: Any, carried: Any) -> Any:
            state, logs = step(carried[0], images, labels, chosen[place], first + place)
            return state, carried[1].at[place].set(logs)

        return jax.lax.fori_loop(0, count, body, (state, jnp.zeros((CAPACITY, 2))))

    compiled = jax.jit(step if one_by_one else loop)

    def run(chosen: Any, first: Any, count: Any) -> Any:
        groups = (
            fitter.trainable_variables,
            fitter.non_trainable_variables,
            fitter.optimizer.variables,
            fitter.metrics_variables,
        )
        state = tuple([variable.value for variable in group] for group in groups)
        if one_by_one:
            logs = []
            for place in range(count):
                state, each = compiled(state, images, labels, chosen[place], first + place)
                logs.append(each)
        else:
            state, logs = compiled(state, images, labels, chosen, first, count)
        for group, values in zip(groups, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        return logs

    return run
