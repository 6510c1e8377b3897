"""The batched augmentation against Keras' own ``ImageDataGenerator``, eager and compiled, on both
backends that train.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from training.augment import augment, random_parameters, random_shifts, shifted, transform
from training.recipes import Augmentation

RNG = np.random.default_rng(7)
IMAGES = RNG.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
SHEAR = RNG.uniform(-20, 20, 24).astype(np.float32)  # far beyond the recipe's 0.2 degrees
ROW_ZOOM = RNG.uniform(0.6, 1.5, 24).astype(np.float32)
COLUMN_ZOOM = RNG.uniform(0.6, 1.5, 24).astype(np.float32)
FLIP = np.arange(24) % 2 == 0
ROWS, COLUMNS = RNG.integers(-6, 7, (2, 24), dtype=np.int32)


def oracle() -> np.ndarray:
    generator = ImageDataGenerator(fill_mode="nearest")
    return np.stack(
        [
            generator.apply_transform(
                image.astype(np.float64),
                {"shear": shear, "zy": zy, "zx": zx, "flip_horizontal": bool(flip)},
            )
            for image, shear, zy, zx, flip in zip(
                IMAGES, SHEAR, ROW_ZOOM, COLUMN_ZOOM, FLIP, strict=True
            )
        ]
    )


def both_modes(function: Callable[..., Any], *arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``function`` answers eagerly and compiled."""
    if keras.backend.backend() == "jax":
        import jax

        fast = jax.jit(function)
    else:
        import tensorflow as tf

        fast = tf.function(function)
    arguments = [keras.ops.convert_to_tensor(array) for array in arrays]
    return np.array(function(*arguments)), np.array(fast(*arguments))


def check() -> None:
    """Eager and compiled, within a hundredth of a grey level (float32 source positions); shifts
    to the very byte.
    """
    for answer in both_modes(transform, IMAGES, SHEAR, ROW_ZOOM, COLUMN_ZOOM, FLIP):
        np.testing.assert_allclose(answer, oracle(), atol=1e-2)
    for answer in both_modes(shifted, IMAGES, ROWS, COLUMNS, FLIP):
        assert answer.dtype == np.uint8
        np.testing.assert_array_equal(answer, padded_and_cropped())


def padded_and_cropped() -> np.ndarray:
    """Pad by mirroring, flip, cut a window out: picture by picture."""
    answers = []
    for image, row, column, flip in zip(IMAGES, ROWS, COLUMNS, FLIP, strict=True):
        padded = np.pad(image, ((6, 6), (6, 6), (0, 0)), mode="reflect")
        window = padded[6 + row :, 6 + column :] if not flip else padded[6 + row :, : 38 + column]
        window = window[:32, :32] if not flip else window[:32, -32:][:, ::-1]
        answers.append(window)
    return np.stack(answers)


@pytest.mark.filterwarnings("ignore:Please import `affine_transform`")  # inside Keras
def test_the_transform_is_image_data_generators() -> None:
    check()


def test_the_transform_is_image_data_generators_on_jax() -> None:
    code = "import tests.training.test_augment as t; t.check(); print('agrees')"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "agrees", done.stderr


def test_no_transform_leaves_a_picture_as_it_is() -> None:
    ones, zeros = np.ones(24, np.float32), np.zeros(24, np.float32)
    same = transform(IMAGES, zeros, ones, ones, keras.ops.convert_to_tensor(np.zeros(24, bool)))
    np.testing.assert_array_equal(np.array(same), IMAGES)


def test_parameters_have_the_generators_distributions() -> None:
    generator = keras.random.SeedGenerator(3)
    drawn = random_parameters(Augmentation(), 20_000, generator)
    shear, row_zoom, column_zoom, flip = (np.array(x) for x in drawn)
    for values, low, high in ((shear, -0.2, 0.2), (row_zoom, 0.8, 1.2), (column_zoom, 0.8, 1.2)):
        assert low <= values.min() < low + 0.001
        assert high - 0.001 < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.005)
        assert values.std() == pytest.approx((high - low) / 12**0.5, rel=0.03)
    assert flip.mean() == pytest.approx(0.5, abs=0.02)
    together = np.corrcoef([shear, row_zoom, column_zoom, flip])
    assert np.abs(together - np.eye(4)).max() < 0.03  # independent of one another


def test_no_flip_means_none() -> None:
    *_, flip = random_parameters(Augmentation(flip=False), 1000, keras.random.SeedGenerator(3))
    assert not np.array(flip).any()
    moved = Augmentation(shear=0, zoom=0, shift=4, flip=False)
    *_, flip = random_shifts(moved, 1000, keras.random.SeedGenerator(3))
    assert not np.array(flip).any()


def test_shifts_are_whole_pixels_all_equally_likely() -> None:
    drawn = random_shifts(
        Augmentation(shear=0, zoom=0, shift=4), 20_000, keras.random.SeedGenerator(3)
    )
    rows, columns, flip = (np.array(x) for x in drawn)
    for values in (rows, columns):
        places, counts = np.unique(values, return_counts=True)
        assert places.tolist() == list(range(-4, 5))
        assert np.abs(counts - 20_000 / 9).max() < 5 * (20_000 / 9) ** 0.5
    assert flip.mean() == pytest.approx(0.5, abs=0.02)
    together = np.corrcoef([rows, columns, flip])
    assert np.abs(together - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(shear=0, zoom=0, shift=4)])
def test_the_recipe_chooses_the_transform(augmentation: Augmentation) -> None:
    """Every picture is what the recipe's transform makes of what is drawn for it."""
    answer = np.array(augment(IMAGES, augmentation, keras.random.SeedGenerator(1)))
    same = keras.random.SeedGenerator(1)
    if augmentation.shift:
        expected = np.array(shifted(IMAGES, *random_shifts(augmentation, len(IMAGES), same)))
    else:
        expected = np.array(transform(IMAGES, *random_parameters(augmentation, len(IMAGES), same)))
    np.testing.assert_array_equal(answer, expected)
    assert all((one != two).any() for one, two in zip(answer, IMAGES, strict=True))
