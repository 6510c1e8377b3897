"""The batched augmentation against Keras' own ``ImageDataGenerator``, eager and compiled, on both
backends that train.
"""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from training.augment import random_parameters, transform
from training.recipes import Augmentation

RNG = np.random.default_rng(7)
IMAGES = RNG.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
SHEAR = RNG.uniform(-20, 20, 24).astype(np.float32)  # far beyond the recipe's 0.2 degrees
ROW_ZOOM = RNG.uniform(0.6, 1.5, 24).astype(np.float32)
COLUMN_ZOOM = RNG.uniform(0.6, 1.5, 24).astype(np.float32)
FLIP = np.arange(24) % 2 == 0


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


def check() -> None:
    """Eager and compiled, within a hundredth of a grey level (float32 source positions)."""
    expected = oracle()
    arguments = [keras.ops.convert_to_tensor(x) for x in (IMAGES, SHEAR, ROW_ZOOM, COLUMN_ZOOM)]
    arguments.append(keras.ops.convert_to_tensor(FLIP))
    eager = np.array(transform(*arguments))
    if keras.backend.backend() == "jax":
        import jax

        fast = jax.jit(transform)
    else:
        import tensorflow as tf

        fast = tf.function(transform)
    compiled = np.array(fast(*arguments))
    np.testing.assert_allclose(eager, expected, atol=1e-2)
    np.testing.assert_allclose(compiled, expected, atol=1e-2)


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
