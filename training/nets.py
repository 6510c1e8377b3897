"""The four nets: five blocks of two 3x3 convolutions, 413,200 parameters (BN: 414,560 + 1,360).

Blocks 1 to 4 are [Conv2D(60) -> (BatchNormalization) -> activation] twice, MaxPool 2x2, Dropout;
block 5 is [Conv2D(100) -> (BN) -> activation] twice; then Flatten (400), Dense(100), softmax.
57.2 million multiply-adds a picture, forward. Source: the article's notebook (see docs/recipes.md).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from training.backend import keep_defaults, keep_float32
from training.dataset import CLASSES, IMAGE_SHAPE
from training.mixed import MixedBatchNormalization
from training.recipes import Recipe
from training.variants import Variant

# Whatever computes with a net imports this: the fit, its validation, the freeze, the ablation.
keep_float32()
keep_defaults()

WIDTHS = (60, 60, 60, 60, 100)
MULTIPLY_ADDS = 57.2e6  # of a picture, forward
TRAINING_FLOP = 3 * 2 * MULTIPLY_ADDS  # of a picture: the backward pass is two forward ones
LOGITS = "logits"
# Times 1/sqrt(fan in): the standard deviation that carries the variance from layer to layer. ReLU
# lets half of it through (He et al. 2015); the sigmoid is half a tanh of half its input, for which
# 5/3 is usual.
GAIN = {"relu": 2**0.5, "sigmoid": 4 * 5 / 3}

NORMALIZATIONS = {  # in how many groups a picture's channels are normalized; batch: over pictures
    "batch": None,  # Ioffe & Szegedy 2015
    "group": 20,  # Wu & He 2018: of 3 channels, in the last block of 5
    "layer": 1,  # Ba et al. 2016, over all channels and places of a picture
    "instance": -1,  # Ulyanov et al. 2016: each channel by itself
}
"""All but ``batch`` compute the same in training and in inference: there is nothing to freeze."""


def is_to_freeze(variant: Variant) -> bool:
    """Whether its nets normalize over pictures, with statistics that are taken in training."""
    return variant.normalization in NORMALIZATIONS and NORMALIZATIONS[variant.normalization] is None


def build(recipe: Recipe, variant: Variant, training_mean: float, seed: int) -> keras.Model:
    """The net that ``recipe`` fits: float pixels [N, 32, 32, 3], RGB 0..255, to probabilities
    float32 [N, 100].

    The first layer subtracts ``training_mean`` (0..255) and divides by the recipe's
    ``pixel_scale``, so no caller can preprocess wrongly. Initial weights and dropout derive from
    ``seed`` alone. Convolutions keep their bias before BN too, as the article's did.

    Of the recipe's words, ``initialization`` is ``"glorot"`` (uniform) or ``"scaled"``, which
    starts a net without normalization so that the variance survives all of its layers;
    ``precision`` is ``"float32"`` or ``"bfloat16"``: float32 variables, bfloat16 between the first
    layer and the logits. Either has the same variables in the same order. Raises ``ValueError``
    for a normalization that is not known.
    """
    seeds = iter(np.random.SeedSequence(seed).generate_state(64) >> 1)
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[recipe.precision]
    scaled = recipe.initialization == "scaled" and variant.normalization is None

    def kernel(activation: str | None = None) -> keras.initializers.Initializer:
        """Of the layer behind ``activation``; None: the pixels, which Glorot's rule suits."""
        if scaled and activation is not None:
            return keras.initializers.VarianceScaling(
                GAIN.get(activation, 1.0) ** 2, "fan_in", "uniform", seed=int(next(seeds))
            )
        return keras.initializers.GlorotUniform(seed=int(next(seeds)))

    pixels = keras.Input(IMAGE_SHAPE, name="pixels")
    x = keras.layers.Rescaling(
        1.0 / recipe.pixel_scale,
        offset=-training_mean / recipe.pixel_scale,
        name="subtract_training_mean",
    )(pixels)
    behind = None
    for block, width in enumerate(WIDTHS, start=1):
        for half in (1, 2):
            name = f"block{block}_{{}}{half}"
            conv = keras.layers.Conv2D(
                width,
                3,
                padding="same",
                kernel_initializer=kernel(behind),
                name=name.format("conv"),
                dtype=policy,
            )
            behind = variant.activation
            activation = keras.layers.Activation(behind, name=name.format(behind), dtype=policy)
            layers = [conv, activation]
            if variant.normalization is not None:
                norm = _normalization(variant.normalization, name.format("norm"), policy)
                layers.insert(2 if variant.behind_activation else 1, norm)
            for layer in layers:
                x = layer(x)
        if block < len(WIDTHS):
            x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool", dtype=policy)(x)
            x = keras.layers.Dropout(
                recipe.dropout, seed=int(next(seeds)), name=f"block{block}_dropout", dtype=policy
            )(x)
    x = keras.layers.Flatten(name="flatten", dtype=policy)(x)
    x = keras.layers.Dense(CLASSES, kernel_initializer=kernel(), name=LOGITS)(x)
    x = keras.layers.Softmax(name="probabilities", dtype="float32")(x)
    net = keras.Model(pixels, x, name=variant.name)
    if scaled and variant.activation == "sigmoid":
        _centre(net)
    return net


def _centre(net: keras.Model) -> None:
    """Give every layer behind a sigmoid the bias that takes off what the sigmoid's mean of 1/2
    makes of its kernel: the net starts as one of tanh, ``sigmoid(x) = 1/2 + tanh(x/2) / 2``.
    """
    for layer in [layer for layer in net.layers if layer.weights][1:]:
        weights = ops.convert_to_numpy(layer.kernel).astype(np.float64)
        layer.bias.assign(-0.5 * weights.reshape(-1, weights.shape[-1]).sum(axis=0))


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


def _normalization(kind: str, name: str, policy: str) -> keras.layers.Layer:
    if kind not in NORMALIZATIONS:
        known = ", ".join(map(repr, NORMALIZATIONS))
        raise ValueError(f"unknown normalization {kind!r}: this project knows {known} and None")
    groups = NORMALIZATIONS[kind]
    if groups is not None:
        return keras.layers.GroupNormalization(groups, epsilon=1e-3, name=name, dtype=policy)
    mixed = policy != "float32"
    layer = MixedBatchNormalization if mixed else keras.layers.BatchNormalization
    return layer(momentum=0.99, epsilon=1e-3, name=name, dtype=policy)
