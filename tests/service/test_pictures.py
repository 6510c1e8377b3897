"""Whatever arrives becomes 32x32 RGB as people would see it, or one of three errors."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.pictures import (
    PictureError,
    PictureTooLargeError,
    UndecodablePictureError,
    UnsupportedPictureError,
    decode,
    decode_opened,
    open_picture,
)
from tests.service import hostile
from tests.service.hostile import BAD, GOOD, PHOTO, PIXELS, SLOPE
from tests.service.tiny import encode

LIMIT = 1_000_000
ERRORS = {
    400: UnsupportedPictureError,
    413: PictureTooLargeError,
    415: UnsupportedPictureError,
    422: UndecodablePictureError,
}


def seen(data: bytes) -> np.ndarray:
    return decode(data, max_pixels=LIMIT).astype(int)


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD.keys())
def test_good_pictures_are_decoded(make: Callable[[], bytes]) -> None:
    image = decode(make(), max_pixels=LIMIT)
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)


@pytest.mark.parametrize(("status", "make"), BAD.values(), ids=BAD.keys())
def test_bad_pictures_raise_their_own_error(status: int, make: Callable[[], bytes]) -> None:
    with pytest.raises(PictureError) as caught:
        decode(make(), max_pixels=LIMIT)
    assert type(caught.value) is ERRORS[status]


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
)
def test_a_picture_of_32x32_comes_through_untouched(
    kind: str, options: dict[str, object], pixels: np.ndarray
) -> None:
    np.testing.assert_array_equal(seen(encode(pixels[0], kind, **options)), pixels[0])


def test_every_format_shows_the_same_picture() -> None:
    expected = seen(encode(SLOPE))
    for kind in ("JPEG", "WEBP", "GIF", "BMP"):
        assert np.abs(seen(encode(SLOPE, kind)) - expected).mean() < 4, kind


def test_reducing_averages_and_enlarging_interpolates() -> None:
    checkers = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(seen(encode(checkers)) - 127.5).max() <= 4  # aliasing would show 0 and 255
    edge = seen(encode(np.array([[0, 255]], np.uint8)))[0, :, 0]
    assert np.all(np.diff(edge) >= 0)
    assert len(set(edge)) > 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {}), ("WEBP", {"lossless": True})]
)
def test_exif_orientation_is_applied(
    orientation: int, kind: str, options: dict[str, object]
) -> None:
    # Where row 0 and column 0 of the file stand in the scene (EXIF 2.32, section 4.6.4).
    stored = np.asarray(Image.open(io.BytesIO(encode(PHOTO, kind, **options))).convert("RGB"))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored.swapaxes(0, 1)[:, ::-1],
        7: stored.swapaxes(0, 1)[::-1, ::-1],
        8: stored.swapaxes(0, 1)[::-1],
    }[orientation]
    np.testing.assert_array_equal(
        seen(hostile.oriented(orientation, kind, **options)),
        seen(encode(np.ascontiguousarray(upright))),
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode: str, pixels: np.ndarray) -> None:
    alpha = np.arange(1024).reshape(32, 32) % 256
    picture = Image.fromarray(pixels[0]).convert(mode)
    picture.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    colours = np.asarray(picture.convert("RGB"), float)
    expected = (colours * alpha[..., None] + 255 * (255 - alpha[..., None])) / 255
    assert np.abs(seen(encode(picture)) - expected).max() <= 1


def test_what_is_transparent_does_not_bleed_into_its_neighbours() -> None:
    picture = np.zeros((320, 320, 4), np.uint8)
    picture[:, :157] = (0, 200, 0, 255)
    picture[:, 157:] = (255, 0, 0, 0)  # invisible red
    image = seen(encode(picture))
    assert np.all(image[:, :, 0] <= image[:, :, 1] + 1)


def test_a_transparent_palette_colour_and_a_transparent_value_turn_white() -> None:
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([10, 20, 30] * 256)
    for kind in ("PNG", "GIF"):
        assert np.all(seen(encode(palette, kind, transparency=0)) == 255)
    assert np.all(seen(GOOD["16-bit grey PNG with a transparent value"]()) == 255)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.repeat(PIXELS[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(seen(hostile.sixteen_bits()), seen(encode(grey)))
    for data in (
        hostile.sixteen_bit_colours(),
        GOOD["16-bit colour PNG with a transparent colour"](),
    ):
        assert np.abs(seen(data) - seen(encode(PIXELS))).max() <= 1


def test_cmyk_is_shown_in_its_colours() -> None:
    for colour in ("red", "green", "blue", "white", "black"):
        plain = Image.new("RGB", (32, 32), colour)
        cmyk = encode(plain.convert("CMYK"), "JPEG", quality=100)
        assert np.abs(seen(cmyk) - np.asarray(plain, int)).max() <= 6, colour


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    first = PHOTO.quantize(256).convert("RGB") if kind == "GIF" else PHOTO
    assert np.abs(seen(hostile.animated(kind)) - seen(encode(first))).mean() < 12


def test_the_pixel_limit_is_exact_and_named() -> None:
    data = encode(np.zeros((30, 50, 3), np.uint8))
    decode(data, max_pixels=1500)
    with pytest.raises(PictureTooLargeError, match="50 x 30 pixels, more than the 1,499"):
        decode(data, max_pixels=1499)
    with pytest.raises(PictureTooLargeError, match="than the 1,499 pixels"):  # of Pillow's own
        decode(BAD["PNG bomb beyond Pillow's own limit"][1](), max_pixels=1499)


def test_a_picture_that_has_been_reduced_is_no_longer_in_memory() -> None:
    picture = open_picture(encode(PHOTO), max_pixels=LIMIT)
    decode_opened(picture)
    with pytest.raises(ValueError, match="closed"):
        picture.image.getpixel((0, 0))


SOURCES = [encode(PHOTO, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]
SOURCES += [make() for make in GOOD.values()]
SOURCES = [data for data in SOURCES if len(data) < 20_000]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(SOURCES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
    st.binary(max_size=16),
)
def test_mutated_pictures_raise_only_picture_errors(
    source: bytes, edits: list[tuple[float, int]], keep: float, tail: bytes
) -> None:
    data = bytearray(source)
    for place, value in edits:
        data[int(place * len(data))] = value
    mutated = bytes(data[: int(len(data) * (1 - (1 - keep) ** 4))]) + tail
    try:
        image = decode(mutated, max_pixels=LIMIT)
    except PictureError:
        return
    assert image.shape == (32, 32, 3)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM"]),
    st.binary(max_size=200),
)
def test_any_bytes_raise_only_picture_errors(start: bytes, rest: bytes) -> None:
    with pytest.raises(PictureError):
        decode(start + rest, max_pixels=LIMIT)


ODD_FILES = """
import struct, sys
from service.pictures import decode
from tests.service.hostile import PHOTO
from tests.service.tiny import encode
for size in range(1000, 1100):
    entry = struct.pack(">HHHLL", 1, 270, 2, size, 26)
    exif = b"Exif\\0\\0MM\\0*" + struct.pack(">L", 8) + entry + bytes(4) + b"abc"
    decode(encode(PHOTO, "JPEG", exif=exif), max_pixels=10**6)
    decode(encode(PHOTO, "JPEG", exif=exif[: size - 980]), max_pixels=10**6)
kept = [getattr(each, "__warningregistry__", {}) for each in sys.modules.values()]
print(sum(type(key) is tuple for each in kept for key in each))
"""


def test_what_pillow_warns_of_is_neither_kept_nor_said() -> None:
    command = [sys.executable, "-c", ODD_FILES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
