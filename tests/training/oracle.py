"""The nets' arithmetic in float64 NumPy, from the article's description and the papers' formulas.

Nothing of Keras computes here: weights come in as arrays, so a net, its statistics and its exported
graph can each be held against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np

Weights = dict[str, list[np.ndarray]]
EPSILON = 1e-3  # of batch normalization


class Forward(NamedTuple):
    """``moments`` are each normalization's batch mean and unbiased variance, where it used them."""

    logits: np.ndarray
    probabilities: np.ndarray
    moments: dict[str, tuple[np.ndarray, np.ndarray]]


def weights_of(net: keras.Model) -> Weights:
    return {layer.name: layer.get_weights() for layer in net.layers if layer.weights}


def forward(
    weights: Weights,
    activation: str,
    training_mean: float,
    images: np.ndarray,
    *,
    batch_statistics: bool = False,
) -> Forward:
    """uint8 [N, 32, 32, 3] through five blocks; dropout off. With ``batch_statistics`` every
    normalization uses the mean and (biased) variance of its own input, in two passes over it.
    """
    moments = {}
    x = images.astype(np.float64) - training_mean
    for block in range(1, 6):
        for half in (1, 2):
            x = convolve(x, *weights[f"block{block}_conv{half}"])
            name = f"block{block}_norm{half}"
            if name in weights:
                gamma, beta, mean, variance = (w.astype(np.float64) for w in weights[name])
                if batch_statistics:
                    mean, variance, unbiased = two_pass_moments(x)
                    moments[name] = mean, unbiased
                x = normalize(x, gamma, beta, mean, variance)
            x = {"relu": relu, "sigmoid": sigmoid}[activation](x)
        if block < 5:
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
    kernel, bias = weights["logits"]
    logits = x.reshape(len(x), -1) @ kernel.astype(np.float64) + bias
    return Forward(logits, softmax(logits), moments)


def population(
    weights: Weights, activation: str, training_mean: float, batches: Iterable[np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ioffe & Szegedy's Algorithm 2: batch means and unbiased batch variances, averaged."""
    passes = [
        forward(weights, activation, training_mean, batch, batch_statistics=True).moments
        for batch in batches
    ]
    return {
        name: (
            np.mean([moments[name][0] for moments in passes], axis=0),
            np.mean([moments[name][1] for moments in passes], axis=0),
        )
        for name in passes[0]
    }


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3x3, stride 1, zeros outside: one matrix product for every tap."""
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return bias + sum(
        padded[:, row : row + height, column : column + width] @ kernel[row, column].astype(float)
        for row in range(3)
        for column in range(3)
    )


def two_pass_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, biased and unbiased variance of every channel, the last axis."""
    values = x.reshape(-1, x.shape[-1]).astype(np.float64)
    mean = values.sum(axis=0) / len(values)
    squares = ((values - mean) ** 2).sum(axis=0)
    return mean, squares / len(values), squares / max(len(values) - 1, 1)


def normalize(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    return gamma * (x.astype(np.float64) - mean) / np.sqrt(variance + EPSILON) + beta


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
