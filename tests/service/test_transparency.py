"""A PNG's one transparent colour (tRNS) is compared at the file's own bit depth.

The oracle reads samples as the PNG specification has them, from bytes written here.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from service.pictures import decode
from tests.service.hostile import chunk, png

SIDE = 32


def written(samples: np.ndarray, depth: int, key: tuple[int, ...], *extra: bytes) -> bytes:
    """Samples, whole numbers [32, 32] or [32, 32, 3], as a PNG with a transparent colour."""
    bits = (samples.reshape(SIDE, -1, 1) >> np.arange(depth)[::-1]) & 1
    lines = np.packbits(bits.reshape(SIDE, -1).astype(np.uint8), axis=1)
    data = b"".join(b"\0" + line.tobytes() for line in lines)
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    colour = 0 if samples.ndim == 2 else 2
    return png(SIDE, SIDE, transparent, *extra, depth=depth, colour=colour, data=data)


def shown(samples: np.ndarray, depth: int, key: tuple[int, ...]) -> np.ndarray:
    """What a viewer shows on white: uint8 [32, 32, 3]. 16 bits are cut to their high byte."""
    colours = samples.reshape(SIDE, SIDE, -1)
    eight = colours >> 8 if depth == 16 else colours * 255 // ((1 << depth) - 1)
    found = (colours == np.array(key)).all(axis=-1, keepdims=True)
    return np.broadcast_to(np.where(found, 255, eight), (SIDE, SIDE, 3))


def assert_shown(samples: np.ndarray, depth: int, *key: int) -> None:
    got = decode(written(samples, depth, key), max_pixels=SIDE**2)
    np.testing.assert_array_equal(got, shown(samples, depth, key))


@pytest.mark.parametrize(
    ("depth", "key"),
    [(depth, key) for depth in (1, 2, 4) for key in range(1 << depth)]
    + [(8, 0), (8, 5), (8, 85), (8, 255)],
)
def test_of_grey_values_one_alone_is_transparent(depth: int, key: int) -> None:
    samples = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % (1 << depth)
    assert_shown(samples, depth, key)


def test_of_16_bit_grey_both_bytes_count() -> None:
    samples = np.array([0x1234, 0x1235, 0x3412, 0x1200, 0x0012, 0x0034])
    grid = np.resize(samples, (SIDE, SIDE))
    for key in samples:
        assert_shown(grid, 16, int(key))


@pytest.mark.parametrize("depth", [8, 16])
def test_of_colours_one_alone_is_transparent(depth: int) -> None:
    colours = np.array([(0, 0, 0), (18, 52, 86), (18, 52, 87), (255, 254, 253)])
    if depth == 16:
        more = [(0x1234, 0x5678, 0x9ABC), (0x1235, 0x5678, 0x9ABC), (0x1200, 0x3400, 0x5600)]
        colours = np.concatenate([colours, more])
    samples = colours[np.arange(SIDE * SIDE) % len(colours)].reshape(SIDE, SIDE, 3)
    for key in colours.tolist():
        assert_shown(samples, depth, *key)


def test_of_a_colour_that_needs_more_bits_than_there_are_the_lowest_count() -> None:
    """PNG specification, section 11.3.1.1: "the least significant bits are used"."""
    for depth, key in ((2, 0xFF05), (4, 0x00F5), (8, 0x0155)):
        grey = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % (1 << depth)
        got = decode(written(grey, depth, (key,)), max_pixels=SIDE**2)
        np.testing.assert_array_equal(got, shown(grey, depth, (key % (1 << depth),)))
    colours = np.broadcast_to(np.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1) % 256, (SIDE, SIDE, 3))
    got = decode(written(colours, 8, (0x0155, 0x0255, 0x8055)), max_pixels=SIDE**2)
    np.testing.assert_array_equal(got, shown(colours, 8, (0x55,) * 3))


def test_a_picture_on_its_side_is_transparent_in_the_same_places() -> None:
    colours = np.zeros((SIDE, SIDE, 3), int)
    colours[0] = 0x1234
    on_its_side = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    data = written(colours, 16, (0x1234,) * 3, chunk(b"eXIf", on_its_side))
    got = decode(data, max_pixels=SIDE**2)
    assert np.all(got[:, -1] == 255)
    assert not got[:, :-1].any()
