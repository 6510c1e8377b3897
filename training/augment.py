"""The recipes' augmentations, batched and backend-neutral, inside the compiled training step.

The article's is ``ImageDataGenerator(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)``: one
affine transform per picture, resampled once: shear (degrees), then zoom of rows and columns, about
the picture's centre, bilinear, with the nearest edge pixel outside; then half the pictures are
flipped.
Keras' own ``RandomShear`` and ``RandomZoom`` layers are something else: 0.2 means 11.3 degrees
there, about a corner, with reflection outside and one resampling each. The augmentation of
``modern`` shifts by whole pixels and flips.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from training.recipes import Augmentation

Tensor = Any


def augment(
    images: Tensor, augmentation: Augmentation, generator: keras.random.SeedGenerator
) -> Tensor:
    """Every picture of uint8 ``images`` [N, H, W, C] transformed by chance, as the recipe says."""
    count = ops.shape(images)[0]
    if augmentation.shift:
        return shifted(images, *random_shifts(augmentation, count, generator))
    return transform(images, *random_parameters(augmentation, count, generator))


def random_shifts(
    augmentation: Augmentation, count: Tensor, generator: keras.random.SeedGenerator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw for each of ``count`` pictures: rows and columns to shift it by (int32), flip (bool)."""
    rows, columns, flip = ops.unstack(
        keras.random.uniform((3, count), 0.0, 1.0, seed=generator), axis=0
    )
    places, most = 2 * augmentation.shift + 1, augmentation.shift

    def pixels(uniform: Tensor) -> Tensor:
        return ops.minimum(ops.cast(ops.floor(places * uniform), "int32"), places - 1) - most

    return pixels(rows), pixels(columns), flip < (0.5 if augmentation.flip else 0.0)


def shifted(images: Tensor, rows: Tensor, columns: Tensor, flip: Tensor) -> Tensor:
    """Crop every picture out of itself, mirrored at its edges: the usual "pad and crop".

    ``images`` is [N, H, W, C]; returns the same shape and dtype. Pixel (i, j) comes from
    (i + rows, j + columns), counted from the right where ``flip``; outside, the picture is mirrored
    about its outermost pixels. The parameters are [N]: int32, less than H and W in size; bool.
    """
    count, height, width, channels = ops.shape(images)
    row = ops.arange(height, dtype="int32")[None, :] + rows[:, None]
    column = ops.arange(width, dtype="int32")[None, :]
    column = ops.where(flip[:, None], width - 1 - column, column) + columns[:, None]

    def mirrored(place: Tensor, size: int) -> Tensor:
        return (size - 1) - ops.abs((size - 1) - ops.abs(place))

    corner = ops.arange(count, dtype="int32")[:, None, None] * (height * width)
    place = corner + mirrored(row, height)[:, :, None] * width + mirrored(column, width)[:, None, :]
    return ops.take(ops.reshape(images, (-1, channels)), place, axis=0)


def random_parameters(
    augmentation: Augmentation, count: Tensor, generator: keras.random.SeedGenerator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw the transform of each of ``count`` pictures: shear (degrees), row and column zoom, flip.

    All float32 [count] but ``flip``, which is bool [count].
    """
    # One draw: a generator that is set from the step must not run into the next step's numbers.
    shear, row_zoom, column_zoom, flip = ops.unstack(
        keras.random.uniform((4, count), -1.0, 1.0, seed=generator), axis=0
    )
    return (
        augmentation.shear * shear,
        1.0 + augmentation.zoom * row_zoom,
        1.0 + augmentation.zoom * column_zoom,
        flip < (0.0 if augmentation.flip else -1.0),
    )


def transform(
    images: Tensor, shear: Tensor, row_zoom: Tensor, column_zoom: Tensor, flip: Tensor
) -> Tensor:
    """Apply one affine transform and perhaps a flip to every picture.

    ``images`` is [N, H, W, C] of any dtype; returns float32 of the same shape. The parameters are
    [N]: degrees, factors (below 1 magnifies), bool. Oracle:
    ``ImageDataGenerator.apply_transform`` with ``shear``, ``zy``, ``zx`` and ``flip_horizontal``.
    """
    count, height, width, channels = ops.shape(images)
    angle = shear[:, None, None] * (math.pi / 180)
    row_zoom, column_zoom = row_zoom[:, None, None], column_zoom[:, None, None]
    row = ops.arange(height, dtype="float32")[None, :, None] - (height / 2 - 0.5)
    column = ops.arange(width, dtype="float32")[None, None, :] - (width / 2 - 0.5)
    # A flip after the resampling is a resampling from the mirrored column.
    column = ops.where(flip[:, None, None], -column, column)

    source_column = column_zoom * column - ops.sin(angle) * row_zoom * row + (width / 2 - 0.5)
    source_row = ops.cos(angle) * row_zoom * row + (height / 2 - 0.5)
    source_column = ops.clip(source_column, 0.0, width - 1.0)
    source_row = ops.clip(ops.broadcast_to(source_row, ops.shape(source_column)), 0.0, height - 1.0)

    top = ops.minimum(ops.floor(source_row), height - 2.0)
    left = ops.minimum(ops.floor(source_column), width - 2.0)
    below, right = (source_row - top)[..., None], (source_column - left)[..., None]

    corner = ops.cast(top * width + left, "int32") + ops.reshape(
        ops.arange(count, dtype="int32") * (height * width), (count, 1, 1)
    )
    flat = ops.reshape(images, (-1, channels))

    def pixel(offset: int) -> Tensor:
        return ops.cast(ops.take(flat, corner + offset, axis=0), "float32")

    upper = pixel(0) * (1 - right) + pixel(1) * right
    lower = pixel(width) * (1 - right) + pixel(width + 1) * right
    return upper * (1 - below) + lower * below
