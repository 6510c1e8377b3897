"""Real pictures in the pieces that their format has: how they are taken apart and put together.

PNG and RIFF chunks, JPEG segments, GIF blocks, BMP headers. Put together again, lengths and
checksums are right, unless a piece says otherwise.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.service.hostile import GOOD, PHOTO, SLOPE, animated, oriented
from tests.service.tiny import encode


@dataclass(frozen=True)
class Piece:
    """``size`` and ``checksum`` are what the file claims; None is the truth."""

    name: bytes
    body: bytes
    size: int | None = None
    checksum: int | None = None


@dataclass(frozen=True)
class Format:
    """How a format's files are taken apart and put together, and what its pieces may be called."""

    sources: tuple[bytes, ...]
    split: Callable[[bytes], list[Piece]]
    join: Callable[[Sequence[Piece]], bytes]
    names: tuple[bytes, ...]


def _split_png(data: bytes) -> list[Piece]:
    pieces, place = [], 8
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        pieces.append(Piece(data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return pieces


def _join_png(pieces: Sequence[Piece]) -> bytes:
    data = b"\x89PNG\r\n\x1a\n"
    for piece in pieces:
        size = len(piece.body) if piece.size is None else piece.size
        checksum = zlib.crc32(piece.name + piece.body) if piece.checksum is None else piece.checksum
        data += struct.pack(">I", size) + piece.name + piece.body + struct.pack(">I", checksum)
    return data


def _split_jpeg(data: bytes) -> list[Piece]:
    """Segments; the scan's coded data is a piece without a name."""
    pieces, place = [], 2
    while place + 4 <= len(data):
        marker, size = data[place : place + 2], struct.unpack_from(">H", data, place + 2)[0]
        pieces.append(Piece(marker, data[place + 4 : place + 2 + size]))
        place += 2 + size
        if marker == b"\xff\xda":
            coded = re.compile(rb"(?:[^\xff]|\xff[\x00\xd0-\xd7])*", re.DOTALL).match(data, place)
            assert coded is not None
            pieces.append(Piece(b"", coded[0]))
            place = coded.end()
    return pieces


def _join_jpeg(pieces: Sequence[Piece]) -> bytes:
    data = b"\xff\xd8"
    for piece in pieces:
        if piece.name:
            size = len(piece.body) + 2 if piece.size is None else piece.size
            data += piece.name + struct.pack(">H", size & 0xFFFF)
        data += piece.body
    return data + b"\xff\xd9"


def _split_webp(data: bytes) -> list[Piece]:
    pieces, place = [], 12
    while place + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, place + 4)
        pieces.append(Piece(data[place : place + 4], data[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    return pieces


def _join_webp(pieces: Sequence[Piece]) -> bytes:
    data = b"WEBP"
    for piece in pieces:
        size = len(piece.body) if piece.size is None else piece.size
        data += piece.name + struct.pack("<I", size) + piece.body + bytes(len(piece.body) % 2)
    return b"RIFF" + struct.pack("<I", len(data)) + data


def _split_gif(data: bytes) -> list[Piece]:
    """The header, the colours, and the blocks, all of them without a name."""
    cuts = [6, 13]
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while place < len(data) and data[place] in b"\x21\x2c":
        cuts.append(place)
        if data[place] == 0x21:
            place += 2
        else:
            local = data[place + 9]
            place += 10 + (3 << (local & 7) + 1 if local & 0x80 else 0)
            cuts.append(place)
            place += 1
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
    return _pieces_between(data, [*cuts, place])


def _split_bmp(data: bytes) -> list[Piece]:
    """Every field of the two headers, the colours and masks, and the pixels."""
    fields = [2, 6, 8, 10, 14, 18, 22, 26, 28, 30, 34, 38, 42, 46, 50, 54]
    return _pieces_between(data, [*fields, struct.unpack_from("<I", data, 10)[0]])


def _pieces_between(data: bytes, cuts: Sequence[int]) -> list[Piece]:
    ends = sorted({*cuts, len(data)} - {0})
    return [Piece(b"", data[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def _join_plain(pieces: Sequence[Piece]) -> bytes:
    return b"".join(piece.body for piece in pieces)


_SEGMENTS = b"\xc0\xc1\xc2\xc4\xc9\xda\xdb\xdd\xe0\xe1\xe2\xee"
_GREY = PHOTO.convert("L")
_PALETTE = PHOTO.convert("P")

FORMATS = {
    "PNG": Format(
        (
            encode(PHOTO),
            encode(SLOPE),
            encode(_GREY),
            encode(_PALETTE, transparency=0),
            encode(PHOTO.convert("RGBA")),
            encode(PHOTO.convert("1")),
            GOOD["16-bit grey PNG"](),
            GOOD["16-bit colour PNG"](),
            animated("PNG"),
            oriented(6),
        ),
        _split_png,
        _join_png,
        tuple(b"IHDR PLTE IDAT IEND tRNS gAMA iCCP eXIf zTXt iTXt acTL fcTL fdAT pHYs".split()),
    ),
    "JPEG": Format(
        (
            encode(PHOTO, "JPEG"),
            encode(SLOPE, "JPEG", progressive=True),
            encode(_GREY, "JPEG"),
            encode(PHOTO.convert("CMYK"), "JPEG"),
            encode(PHOTO, "JPEG", subsampling=2, restart_marker_rows=1),
            oriented(6, "JPEG"),
        ),
        _split_jpeg,
        _join_jpeg,
        tuple(b"\xff" + bytes([kind]) for kind in _SEGMENTS),
    ),
    "WebP": Format(
        (
            encode(PHOTO, "WEBP"),
            encode(SLOPE, "WEBP", lossless=True),
            encode(PHOTO.convert("RGBA"), "WEBP"),
            animated("WEBP"),
            oriented(6, "WEBP"),
        ),
        _split_webp,
        _join_webp,
        (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"ICCP", b"XMP "),
    ),
    "GIF": Format(
        (
            encode(PHOTO, "GIF"),
            encode(_GREY, "GIF"),
            encode(_PALETTE, "GIF", transparency=0),
            encode(SLOPE, "GIF", interlace=0),
            animated("GIF"),
        ),
        _split_gif,
        _join_plain,
        (b"",),
    ),
    "BMP": Format(
        (
            encode(PHOTO, "BMP"),
            encode(_GREY, "BMP"),
            encode(_PALETTE, "BMP"),
            encode(PHOTO.convert("1"), "BMP"),
            encode(PHOTO.convert("RGBA"), "BMP"),
        ),
        _split_bmp,
        _join_plain,
        (b"",),
    ),
}
SOURCES = tuple(data for each in FORMATS.values() for data in each.sources)
