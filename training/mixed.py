"""Batch normalization for mixed precision: bfloat16 in and out, everything between in float32.

Keras' own layer is right in mixed precision too, but on a CPU it costs as much as all convolutions:
its moments and its gradient pass over the activations a dozen times. Here the sums are products
with a row of ones, which the matrix kernels compute at memory speed, and the gradient is written
out (Ioffe & Szegedy 2015, section 3). The layer has the same variables and moving averages as
``keras.layers.BatchNormalization``, which can load its weights unchanged.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


@keras.saving.register_keras_serializable("training")
class MixedBatchNormalization(keras.layers.BatchNormalization):
    """``BatchNormalization`` over the last axis of [batch, height, width, channels]."""

    def call(self, inputs: Tensor, training: bool = False, mask: Any = None) -> Tensor:
        """Normalize: with the batch's statistics in training, else with the moving averages."""
        if not (training and self.trainable):
            return super().call(inputs, training=training)
        mean, variance = moments(inputs)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        gamma, beta = (ops.cast(each, "float32") for each in (self.gamma, self.beta))
        return normalize(inputs, gamma, beta, mean, variance, self.epsilon)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel (the last axis), float32, as constants.

    The variance is the mean square less the squared mean, in float32: its error is about 1e-7 of
    the mean square, so it wants channels whose mean is not hundreds of standard deviations away.
    """
    rows = ops.cast(ops.reshape(x, (-1, x.shape[-1])), "float32")
    mean = column_means(rows)
    variance = ops.maximum(column_means(ops.square(rows)) - ops.square(mean), 0.0)
    return ops.stop_gradient(mean), ops.stop_gradient(variance)


def column_means(rows: Tensor) -> Tensor:
    """The means of the columns of ``rows``, float32 [N, C] to [C]."""
    count = ops.shape(rows)[0]
    return (ops.ones((1, count), "float32") @ rows)[0] / ops.cast(count, "float32")


def normalize(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta``, of the dtype of ``x``.

    ``mean`` and ``variance`` are the batch's own (``moments``): the gradient with respect to ``x``
    holds what flows through them.
    """
    channels, dtype, shape = x.shape[-1], x.dtype, ops.shape(x)
    inverse = ops.rsqrt(variance + epsilon)

    def rows_of(values: Tensor) -> Tensor:
        return ops.cast(ops.reshape(values, (-1, channels)), "float32")

    def as_given(rows: Tensor) -> Tensor:
        return ops.cast(ops.reshape(rows, shape), dtype)

    def forward(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Any]:
        scale = gamma * inverse

        def backward(*arguments: Tensor, upstream: Tensor = None) -> tuple[Tensor, ...]:
            if upstream is None:
                (upstream,) = arguments
            rows, slopes = rows_of(x), rows_of(upstream)
            slope = column_means(slopes)
            along = (column_means(slopes * rows) - mean * slope) * inverse
            # scale * (slopes - slope - normalized * along), with as few passes as can be.
            bend = -scale * inverse * along
            shift = -scale * slope - bend * mean
            count = ops.cast(ops.shape(rows)[0], "float32")
            return as_given(slopes * scale + rows * bend + shift), count * along, count * slope

        return as_given(rows_of(x) * scale + (beta - mean * scale)), backward

    return ops.custom_gradient(forward)(x, gamma, beta)
