"""The orientation is found where cameras and editors write it, at a cost that has a bound."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.pictures import decode
from service.upright import MOST_ENTRIES, MOST_XMP, orientation
from tests.service.hostile import PHOTO, chunk
from tests.service.tiny import encode

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PACKED = zlib.compress(XMP)


def exif(turn: int, *, order: str = ">", before: int = 0) -> bytes:
    """A block whose first directory says ``turn``, after so many other entries."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    other = struct.pack(f"{order}HHII", 0x0100, 4, 1, 5) * before
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, turn, 0)
    head = struct.pack(f"{order}IH", 8, before + 1)
    return b"Exif\0\0" + mark + head + other + entry + bytes(4)


def with_chunks(*chunks: bytes) -> bytes:
    """The photo as a PNG, with ``chunks`` after its header."""
    data = encode(PHOTO)
    return data[:33] + b"".join(chunks) + data[33:]


def with_segment(segment: bytes) -> bytes:
    """The photo as a JPEG, with an APP1 segment at its beginning."""
    data = encode(PHOTO, "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_orders_of_bytes_are_read(order: str) -> None:
    for turn in range(2, 9):
        assert orientation(exif(turn, order=order, before=20), None) == turn
    assert orientation(exif(1, order=order), None) is None
    assert orientation(exif(9, order=order), None) is None


def test_an_orientation_that_is_no_short_is_none() -> None:
    """EXIF 2.32, section 4.6.4: one SHORT. A LONG, or a RATIONAL's place, may look like one."""
    for order in "<>":
        for kind in (4, 5):
            block = exif(6, order=order)
            entry = struct.pack(f"{order}HH", 0x0112, 3)
            other = block.replace(entry, struct.pack(f"{order}HH", 0x0112, kind))
            assert other != block
            assert orientation(other, None) is None


def test_xmp_is_read_to_a_bound() -> None:
    assert orientation(None, XMP.rjust(MOST_XMP)) == 6
    assert orientation(None, XMP.rjust(MOST_XMP + len(XMP))) is None


def test_exif_counts_before_xmp() -> None:
    assert orientation(exif(3), XMP) == 3
    assert orientation(exif(1), XMP) is None
    assert orientation(b"Exif\0\0nothing", XMP) == 6
    assert orientation(None, XMP) == 6
    assert orientation(None, b"<tiff:Orientation>8</tiff:Orientation>") == 8


RAW_PROFILE = b"\nexif\n      34\n" + exif(6).hex().encode()


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(chunk(b"eXIf", exif(6)[6:])),
        with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED)),
        with_chunks(chunk(b"tEXt", b"Raw profile type exif\0" + RAW_PROFILE)),
        with_chunks(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE))),
    ],
    ids=["eXIf", "XMP", "packed XMP", "profile", "packed profile"],
)
def test_a_png_is_turned_by_whatever_says_so(data: bytes) -> None:
    turned = encode(PHOTO.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(decode(data, max_pixels=10**6), decode(turned, max_pixels=10**6))


@pytest.mark.parametrize("segment", [exif(6), b"http://ns.adobe.com/xap/1.0/\0" + XMP])
def test_so_is_a_jpeg(segment: bytes) -> None:
    stored = Image.open(io.BytesIO(encode(PHOTO, "JPEG")))
    turned = encode(stored.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(
        decode(with_segment(segment), max_pixels=10**6), decode(turned, max_pixels=10**6)
    )


@given(st.binary(max_size=60), st.sampled_from([b"", b"II*\0", b"MM\0*\0\0\0\x08", b"Exif\0\0"]))
def test_any_bytes_are_read(rest: bytes, start: bytes) -> None:
    assert orientation(start + rest, rest) in {None, *range(2, 9)}


def test_a_directory_is_read_to_a_bound_in_no_time() -> None:
    """Every entry points at the whole of the block: read one by one, that is a gigabyte."""
    assert orientation(exif(6, before=MOST_ENTRIES - 1), None) == 6
    assert orientation(exif(6, before=MOST_ENTRIES), None) is None
    entry = struct.pack(">HHII", 0x010E, 2, 60_000, 8)
    block = b"MM\0*\0\0\0\x08" + struct.pack(">H", 5000) + entry * 5000 + bytes(4)
    for data in (with_segment(b"Exif\0\0" + block), with_chunks(chunk(b"eXIf", block * 10))):
        begun = time.process_time()
        decode(data, max_pixels=10**6)
        assert time.process_time() - begun < 0.03
