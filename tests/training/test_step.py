"""A step: which pictures it sees, and that its chance comes from the seed and the step alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import nets
from training.recipes import RECIPES, Augmentation
from training.step import Fitter, batch_indices
from training.variants import VARIANTS


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pictures=st.integers(1, 50),
    batch=st.integers(1, 120),
    passes=st.integers(1, 3),
)
def test_every_pass_shows_every_picture_once(
    seed: int, pictures: int, batch: int, passes: int
) -> None:
    steps = -(-passes * pictures // batch)
    stream = np.concatenate([batch_indices(seed, step, batch, pictures) for step in range(steps)])
    assert len(stream) == steps * batch
    for number in range(passes):
        shown = stream[number * pictures : (number + 1) * pictures]
        assert sorted(shown.tolist()) == list(range(pictures))


def test_passes_and_seeds_have_their_own_orders() -> None:
    first, second = (batch_indices(0, step, 1000, 1000) for step in (0, 1))
    other = batch_indices(1, 0, 1000, 1000)
    in_order = np.arange(1000)
    for one, two in itertools.combinations((first, second, other, in_order), 2):
        assert (one == two).mean() < 0.02
    np.testing.assert_array_equal(batch_indices(0, 1, 1000, 1000), second)
    np.testing.assert_array_equal(  # whatever the size of the batch
        np.concatenate([batch_indices(0, step, 250, 1000) for step in range(4)]), first
    )


@pytest.mark.parametrize("batch", [7, 80, 333])
def test_an_order_that_is_kept_is_the_one_that_was_drawn(batch: int) -> None:
    """To the byte, across the ends of passes, and for two seeds in turns."""
    for step in range(2 * 1000 // batch + 1):
        for seed in (0, 1):
            found = batch_indices(seed, step, batch, 1000)
            passes, places = np.divmod(np.arange(step * batch, (step + 1) * batch), 1000)
            expected = [
                np.random.default_rng([seed, 2, int(number)]).permutation(1000)[place]
                for number, place in zip(passes, places, strict=True)
            ]
            assert found.dtype == np.int64
            assert found.tolist() == expected


def test_a_pass_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each of its steps: 50,000 places are more work than a step's other choices."""
    shuffles = []
    original = np.random.default_rng

    def counted(seed: Any) -> np.random.Generator:
        shuffles.append(seed)
        return original(seed)

    monkeypatch.setattr(np.random, "default_rng", counted)
    for step in range(30):  # three passes
        batch_indices(12_345, step, 100, 1000)
    assert shuffles == [[12_345, 2, number] for number in range(3)]


PLAIN = Augmentation(shear=0.0, zoom=0.0, flip=False)


@pytest.mark.parametrize(
    ("augmentation", "dropout"),
    [(Augmentation(), 0.15), (PLAIN, 0.15), (Augmentation(), 0.0)],
    ids=["both", "dropout alone", "augmentation alone"],
)
def test_chance_in_a_step_comes_from_the_seed_and_the_step_alone(
    augmentation: Augmentation, dropout: float, small_dataset: Any
) -> None:
    recipe = replace(RECIPES["demo"], augmentation=augmentation, dropout=dropout)
    images = small_dataset.train_images[:4]

    def fitter(seed: int) -> Fitter:
        net = nets.build(recipe, VARIANTS["relu_without_bn"], 120.0, seed=0)
        return Fitter(net, recipe, seed)

    def logits(fitter: Fitter, step: int) -> np.ndarray:
        inputs = images, np.array([step], np.int32)
        return keras.ops.convert_to_numpy(fitter(inputs, training=True))

    one, two, other = fitter(0), fitter(0), fitter(1)
    seventh = logits(one, 7)
    for neighbour in (6, 8):
        assert np.abs(logits(one, neighbour) - seventh).max() > 1e-4
    np.testing.assert_array_equal(logits(one, 7), seventh)  # nothing is left of step 8
    np.testing.assert_array_equal(logits(two, 7), seventh)  # nor matters what went before
    assert np.abs(logits(other, 7) - seventh).max() > 1e-4


def test_augmentation_and_every_dropout_draw_their_own_numbers(small_dataset: Any) -> None:
    """With the same ones, a picture that is flipped would lose the same units in every block."""
    net = nets.build(RECIPES["article"], VARIANTS["relu_without_bn"], 120.0, seed=0)
    fitter = Fitter(net, RECIPES["article"], seed=0)
    fitter((small_dataset.train_images[:4], np.array([7], np.int32)), training=True)
    dropouts = [layer for layer in net.layers if isinstance(layer, keras.layers.Dropout)]
    generators = [fitter.augmentation_seed, *(layer.seed_generator for layer in dropouts)]
    assert len(generators) == 5
    drawn = [np.array(keras.random.uniform((1000,), seed=each)) for each in generators]
    assert np.abs(np.corrcoef(drawn) - np.eye(5)).max() < 0.15


def test_inference_sees_the_pictures_as_they_are(small_dataset: Any) -> None:
    images = small_dataset.train_images[:4]
    net = nets.build(RECIPES["demo"], VARIANTS["relu_with_bn"], 120.0, seed=0)
    fitter = Fitter(net, RECIPES["demo"], seed=0)
    probabilities = keras.ops.convert_to_numpy(net(images.astype(np.float32), training=False))
    for step in (0, 1):
        logits = fitter((images, np.array([step], np.int32)), training=False)
        powers = np.exp(keras.ops.convert_to_numpy(logits).astype(np.float64))
        np.testing.assert_allclose(
            powers / powers.sum(axis=1, keepdims=True), probabilities, atol=1e-6
        )
