"""However much stands around a picture's pixels: they are decoded, at a cost that has a bound."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from service import trim
from service.pictures import UndecodablePictureError, decode
from service.trim import trimmed
from tests.service.hostile import PHOTO, chunk
from tests.service.tiny import encode

PNG, JPEG, GIF = (encode(PHOTO, kind) for kind in ("PNG", "JPEG", "GIF"))
MEGABYTE = 1 << 20
NOISE = np.random.default_rng(0).bytes(MEGABYTE)


def seen(data: bytes) -> np.ndarray:
    return decode(data, max_pixels=10**6)


def with_chunks(*chunks: bytes) -> bytes:
    """The photo as a PNG, with ``chunks`` after its header."""
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def with_segments(*segments: tuple[int, bytes]) -> bytes:
    """The photo as a JPEG, with (marker, content) after its start."""
    written = [struct.pack(">BBH", 255, kind, len(data) + 2) + data for kind, data in segments]
    return JPEG[:2] + b"".join(written) + JPEG[2:]


def with_blocks(*extensions: tuple[int, list[bytes]]) -> bytes:
    """The photo as a GIF, with (label, blocks) before its pixels."""
    flags = GIF[10]
    head = 13 + (3 << (flags & 7) + 1)
    written = [
        b"!" + bytes([label]) + b"".join(bytes([len(each)]) + each for each in blocks) + b"\0"
        for label, blocks in extensions
    ]
    return GIF[:head] + b"".join(written) + GIF[head:]


def with_colours(claimed: int, *, bits: int = 8) -> bytes:
    """A BMP of 8 x 8 pixels, whose header claims so many colours; 256 are there."""
    pixels = bytes(range(bits)) * 8
    colours = bytes(range(256)) * 4
    head = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, bits, 0, 0, 0, 0, claimed, 0)
    start = 14 + len(head) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + colours + pixels


def international(text: bytes) -> bytes:
    return chunk(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(text))


SURROUNDED: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "PNG with 4 MB of XMP": lambda: (
        PNG,
        with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 4 * MEGABYTE)),
    ),
    "PNG with a colour profile of 3 MB": lambda: (
        PNG,
        with_chunks(chunk(b"iCCP", b"profile\0\0" + zlib.compress(NOISE * 3))),
    ),
    "PNG with texts that inflate to 80 MB": lambda: (
        PNG,
        with_chunks(*[international("\U0001f600".encode() + bytes(MEGABYTE))] * 80),
    ),
    "PNG with a broken text": lambda: (PNG, with_chunks(chunk(b"zTXt", b"a\0\0not packed"))),
    "PNG with text after its pixels": lambda: (PNG, PNG[:-12] + international(b"a") + PNG[-12:]),
    "PNG with 4000 texts": lambda: (PNG, with_chunks(*[chunk(b"tEXt", b"a\0b")] * 4000)),
    "PNG in chunks of three bytes": lambda: (PNG, resplit(3)),
    "JPEG with a colour profile of 3 MB": lambda: (
        JPEG,
        with_segments(*[(0xE2, b"ICC_PROFILE\0\1\1" + NOISE[:60_000])] * 50),
    ),
    "JPEG with 6 MB of EXIF": lambda: (
        JPEG,
        with_segments(*[(0xE1, b"Exif\0\0" + NOISE[:60_000])] * 100),
    ),
    "JPEG with a thousand comments": lambda: (JPEG, with_segments(*[(0xFE, b"hello")] * 1000)),
    "JPEG with bytes between its segments": lambda: (
        JPEG,
        JPEG[:2] + b"\xff" * 500 + b"\0" * 500 + JPEG[2:],
    ),
    "GIF with 4 MB of comments": lambda: (GIF, with_blocks((0xFE, [NOISE[:255]] * 16_000))),
    "GIF with a thousand extensions": lambda: (
        GIF,
        with_blocks(*[(0xFF, [b"NETSCAPE2.0"])] * 1000),
    ),
}


def resplit(size: int) -> bytes:
    """The photo as a PNG whose pixel data are in chunks of so many bytes."""
    length = int.from_bytes(PNG[33:37])
    assert PNG[37:41] == b"IDAT"
    pixels, rest = PNG[41 : 41 + length], PNG[41 + length + 4 :]
    assert len(pixels) / size < trim.MOST_PARTS
    split = [chunk(b"IDAT", pixels[i : i + size]) for i in range(0, len(pixels), size)]
    return PNG[:33] + b"".join(split) + rest


@pytest.mark.parametrize("make", SURROUNDED.values(), ids=SURROUNDED.keys())
def test_what_stands_around_a_picture_changes_no_pixel_and_takes_no_memory(
    make: Callable[[], tuple[bytes, bytes]],
) -> None:
    plain, surrounded = make()
    expected = seen(plain)
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(seen(surrounded), expected)
        assert tracemalloc.get_traced_memory()[1] < len(surrounded) + MEGABYTE
    finally:
        tracemalloc.stop()


SCAN = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\0"

COSTLY: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG of many chunks": ("20000 chunks", lambda: with_chunks(chunk(b"tEXt", b"a\0") * 700_000)),
    "PNG of pixels in many chunks": (
        "20000 chunks",
        lambda: PNG[:33] + chunk(b"IDAT", b"") * 800_000,
    ),
    "JPEG of comments": ("2000 segments", lambda: JPEG[:2] + b"\xff\xfe\0\2" * 2_500_000),
    "JPEG of segments between scans": (
        "2000 segments",
        lambda: JPEG[:-2] + b"\xff\xfe\0\2" * 2_500_000,
    ),
    "JPEG of scans": ("50 scans", lambda: JPEG[:-2] + SCAN * 1_000_000),
    "JPEG of 255": ("broken", lambda: b"\xff\xd8\xff" + b"\xff" * (10 << 20)),
    "JPEG of zeros": ("broken", lambda: JPEG[:20] + bytes(10 << 20)),
    "JPEG of 255 between its segments": (
        "broken",
        lambda: JPEG[:2] + (b"\xff\xfe\0\2" + b"\xff" * 6000) * 1700 + JPEG[2:],
    ),
    "GIF of comments": ("20000 blocks", lambda: with_blocks((0xFE, [b"a"] * 5_000_000))),
    "GIF of empty extensions": ("20000 blocks", lambda: with_blocks(*[(0xFE, [])] * 3_000_000)),
    "GIF of zeros": ("broken", lambda: GIF[:13] + bytes(10 << 20)),
    "BMP of colours": ("256 colours", lambda: with_colours(65_536)),
}


@pytest.mark.parametrize(("why", "make"), COSTLY.values(), ids=COSTLY.keys())
def test_what_would_take_seconds_is_refused_at_once(why: str, make: Callable[[], bytes]) -> None:
    data = make()
    begun = time.process_time()
    with pytest.raises(UndecodablePictureError, match=why):
        decode(data, max_pixels=10**6)
    assert time.process_time() - begun < 0.5  # without bounds 2 to 7


def test_a_bmp_of_as_many_colours_as_its_pixels_can_name_is_decoded() -> None:
    np.testing.assert_array_equal(seen(with_colours(256)), seen(with_colours(0)))  # 0: all
    with pytest.raises(UndecodablePictureError, match="256 colours"):
        seen(with_colours(257))


def test_a_bmp_without_a_palette_may_say_how_many_colours_it_has() -> None:
    plain = with_colours(0, bits=24)
    np.testing.assert_array_equal(seen(with_colours(65_536, bits=24)), seen(plain))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "BMP"])
def test_a_plain_file_is_not_copied(kind: str) -> None:
    data = encode(PHOTO, kind)
    assert trimmed(kind, data).data is data


def test_a_progressive_jpeg_of_every_kind_of_scan_is_decoded() -> None:
    for picture in (PHOTO, PHOTO.convert("L"), PHOTO.convert("CMYK")):
        file = io.BytesIO()
        picture.save(file, "JPEG", progressive=True, restart_marker_blocks=1, optimize=True)
        assert file.getvalue().count(b"\xff\xda") < trim.MOST_SCANS
        seen(file.getvalue())


def test_an_animated_png_shows_what_stands_for_it_where_it_is_still() -> None:
    others = [Image.new("RGB", PHOTO.size, "red")] * 2
    for default in (True, False):
        data = encode(PHOTO, save_all=True, append_images=others, default_image=default)
        np.testing.assert_array_equal(seen(data), seen(PNG))


def test_pillow_gets_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def inflate(data: bytes) -> bytes:
        raise AssertionError

    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", inflate)
    seen(with_chunks(international(b"a"), chunk(b"iCCP", b"a\0\0" + zlib.compress(b"b"))))
