"""The four nets: five blocks of two 3x3 convolutions, 413,200 parameters (BN: 414,560 + 1,360).

Blocks 1 to 4 are [Conv2D(60) -> (BatchNormalization) -> activation] twice, MaxPool 2x2, Dropout;
block 5 is [Conv2D(100) -> (BN) -> activation] twice; then Flatten (400), Dense(100), softmax.
57.2 million multiply-adds a picture, forward. Source: the article's notebook (see README).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from training.dataset import CLASSES, IMAGE_SHAPE
from training.variants import Variant

WIDTHS = (60, 60, 60, 60, 100)
LOGITS = "logits"


def build(variant: Variant, training_mean: float, seed: int, dropout: float = 0.15) -> keras.Model:
    """Build a net: float pixels [N, 32, 32, 3], RGB 0..255, to probabilities float32 [N, 100].

    The first layer subtracts ``training_mean`` (0..255), so no caller can preprocess wrongly.
    Initial weights (Glorot uniform) and dropout derive from ``seed`` alone. Convolutions keep
    their bias before BN too, as the article's did.
    """
    seeds = iter(np.random.SeedSequence(seed).generate_state(64) >> 1)

    def glorot() -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=int(next(seeds)))

    pixels = keras.Input(IMAGE_SHAPE, name="pixels")
    x = keras.layers.Rescaling(1.0, offset=-training_mean, name="subtract_training_mean")(pixels)
    for block, width in enumerate(WIDTHS, start=1):
        for half in (1, 2):
            name = f"block{block}_{{}}{half}"
            x = keras.layers.Conv2D(
                width, 3, padding="same", kernel_initializer=glorot(), name=name.format("conv")
            )(x)
            if variant.normalization is not None:
                x = _normalization(variant.normalization, name.format("norm"))(x)
            x = keras.layers.Activation(variant.activation, name=name.format(variant.activation))(x)
        if block < len(WIDTHS):
            x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
            x = keras.layers.Dropout(dropout, seed=int(next(seeds)), name=f"block{block}_dropout")(
                x
            )
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(CLASSES, kernel_initializer=glorot(), name=LOGITS)(x)
    x = keras.layers.Softmax(name="probabilities", dtype="float32")(x)
    return keras.Model(pixels, x, name=variant.name)


def logits_of(net: keras.Model) -> keras.Model:
    """The same net (shared weights) up to the logits: float32 [N, 100] before the softmax."""
    return keras.Model(net.input, net.get_layer(LOGITS).output, name=f"{net.name}_logits")


def running_statistics(net: keras.Model) -> list[Any]:
    """The layers that normalize with running statistics of their input, in the order of the data.

    Any layer that keeps a ``moving_mean`` and a ``moving_variance`` is one, whatever its class.
    """
    return [
        layer
        for layer in net.layers
        if hasattr(layer, "moving_mean") and hasattr(layer, "moving_variance")
    ]


def _normalization(kind: str, name: str) -> keras.layers.Layer:
    if kind == "batch":
        return keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)
    raise ValueError(f"unknown normalization {kind!r}: this project knows 'batch' and None")
