"""One training step: which pictures it sees, how they are augmented, and the compiled update.

Everything random in it derives from (seed, step) and nothing else.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training import augment, nets, optimizers
from training.recipes import Recipe


class Fitter(keras.Model):
    """A net with its augmentation in front, as the compiled step sees it.

    Call it with ``(images, step)``: uint8 [batch, 32, 32, 3] and int [1]; answers logits. In
    training every random generator is set from ``step`` first, so no generator's state has to
    survive a kill. In inference the pictures pass as they are.
    """

    def __init__(self, net: keras.Model, recipe: Recipe, seed: int) -> None:
        super().__init__(name="fitter")
        self.net = net
        self.recipe = recipe
        self.logits = nets.logits_of(net)
        self.augmentation_seed = keras.random.SeedGenerator(0)
        self.generators = [self.augmentation_seed] + [
            layer.seed_generator
            for layer in net.layers
            if isinstance(layer, keras.layers.Dropout) and layer.rate
        ]
        streams = np.random.SeedSequence([seed, 1]).generate_state(len(self.generators)) >> 1
        self.streams = [int(stream) for stream in streams]

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Logits, float32 [batch, 100]."""
        images, step = inputs
        if training:
            for generator, stream in zip(self.generators, self.streams, strict=True):
                state = ops.stack([ops.full((), stream, dtype=step.dtype), step[0]])
                generator.state.assign(ops.cast(state, generator.state.dtype))
            images = augment.augment(images, self.recipe.augmentation, self.augmentation_seed)
        return self.logits(ops.cast(images, "float32"), training=training)


def compiled(net: keras.Model, recipe: Recipe, seed: int) -> Fitter:
    """A ``Fitter`` of ``net``, compiled with the recipe's optimizer and loss."""
    fitter = Fitter(net, recipe, seed)
    fitter.compile(
        optimizer=optimizers.build(recipe),
        loss=optimizers.loss(recipe),
        metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
        # XLA takes three times as long for this step on a CPU under TensorFlow (98 against 328
        # pictures/s on two cores of an AMD EPYC 9004); JAX always compiles.
        jit_compile=keras.backend.backend() == "jax",
    )
    return fitter


def batch_indices(seed: int, step: int, batch: int, pictures: int) -> NDArray[np.int64]:
    """Which training pictures step ``step`` (from 0) sees: int [batch].

    The stream of pictures is one random order of the whole set after another, each derived from
    ``seed`` and the number of the pass.
    """
    places = np.arange(step * batch, (step + 1) * batch)
    chosen = np.empty(batch, dtype=np.int64)
    for number in np.unique(places // pictures):
        inside = places // pictures == number
        chosen[inside] = _order(seed, int(number), pictures)[places[inside] % pictures]
    return chosen


@functools.lru_cache(maxsize=2)  # a step may see the end of one pass and the start of the next
def _order(seed: int, number: int, pictures: int) -> NDArray[np.int64]:
    """The order of the pictures in pass ``number``: shuffled once, not for each of its steps."""
    order = np.random.default_rng([seed, 2, number]).permutation(pictures)
    order.flags.writeable = False
    return order
