"""Noise that scenes are textured with: smooth, seeded, the same on every machine to the eye.

Points in, values in 0..1 out. ``fbm`` sums octaves of value noise, as K. Perlin's "An Image
Synthesizer" (1985) does for marble and clouds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Plane = Any
"""float32 arrays of one shape, whatever it is; NumPy's stubs lose it at every step."""


def value(x: Plane, y: Plane, seed: int = 0) -> Plane:
    """Value noise on the unit lattice, smoothly interpolated."""
    left, below = np.floor(x), np.floor(y)
    u, v = x - left, y - below
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i, j = left.astype(np.int64), below.astype(np.int64)
    low = _lattice(i, j, seed) * (1 - u) + _lattice(i + 1, j, seed) * u
    high = _lattice(i, j + 1, seed) * (1 - u) + _lattice(i + 1, j + 1, seed) * u
    return low * (1 - v) + high * v


def fbm(x: Plane, y: Plane, octaves: int = 5, seed: int = 0) -> Plane:
    """Fractal noise: each octave twice as fine and half as strong as the last."""
    total, weight = np.zeros(np.broadcast(x, y).shape, np.float32), 0.0
    for octave in range(octaves):
        scale, share = 2.0**octave, 0.5**octave
        total = total + share * value(x * scale + 17.3 * octave, y * scale, seed + octave)
        weight += share
    return total / weight


def _lattice(i: Plane, j: Plane, seed: int) -> Plane:
    """A value for every lattice point: an integer hash of its place."""
    mixed = (i * 374_761_393 + j * 668_265_263 + seed * 974_634_777) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 1_274_126_177) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFFFF).astype(np.float32) / 0xFFFFFF
