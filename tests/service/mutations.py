"""Real pictures and real forms, taken apart, changed in a few places and put together again.

Hypothesis strategies. A picture is split into the pieces that its format has (PNG and RIFF chunks,
JPEG segments, GIF blocks, BMP headers), so that changes get past the first check that a decoder
makes: lengths and checksums are right again afterwards, unless lying about them is the change.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from tests.service.hostile import GOOD, PHOTO, SLOPE, animated, oriented
from tests.service.tiny import encode

BOUNDARIES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
"""Numbers at which decoders have gone wrong."""


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
        tuple(
            b"\xff" + bytes([kind]) for kind in b"\xc0\xc1\xc2\xc4\xc9\xda\xdb\xdd\xe0\xe1\xe2\xee"
        ),
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


@st.composite
def changed_bytes(draw: Any, data: bytes) -> bytes:
    """One change somewhere, more often near the beginning."""
    place = draw(st.integers(0, min(len(data), 48)) | st.integers(0, len(data)))
    change = draw(st.sampled_from(("number", "replace", "insert", "drop", "repeat", "cut")))
    if change == "cut":
        return data[:place]
    if change == "drop":
        return data[:place] + data[place + draw(st.integers(1, 16)) :]
    if change == "repeat":
        size = draw(st.integers(1, 64))
        return data[: place + size] + data[place:]
    if change == "number":
        order, width = draw(st.sampled_from("<>")), draw(st.sampled_from("BHI"))
        value = draw(st.sampled_from(BOUNDARIES)) & (1 << 8 * struct.calcsize(width)) - 1
        new = struct.pack(order + width, value)
    else:
        new = draw(st.binary(min_size=1, max_size=6))
    return data[:place] + new + data[place + (0 if change == "insert" else len(new)) :]


@st.composite
def changed_pieces(draw: Any, pieces: list[Piece], names: tuple[bytes, ...]) -> list[Piece]:
    """One piece changed, dropped, doubled, moved, renamed, or lied about."""
    place = draw(st.integers(0, len(pieces) - 1))
    piece, rest = pieces[place], pieces[:place] + pieces[place + 1 :]
    change = draw(st.sampled_from(("body", "body", "drop", "double", "move", "name", "lie", "new")))
    if change == "drop" and rest:
        return rest
    if change == "double":
        return [*pieces[:place], piece, *pieces[place:]]
    if change == "move":
        place = draw(st.integers(0, len(rest)))
        return [*rest[:place], piece, *rest[place:]]
    if change == "new":
        new = Piece(draw(st.sampled_from(names)), draw(st.binary(max_size=32)))
        return [*pieces[:place], new, *pieces[place:]]
    if change == "name":
        piece = replace(piece, name=draw(st.sampled_from(names)))
    elif change == "lie":
        lie = draw(st.sampled_from(BOUNDARIES))
        piece = replace(piece, **{draw(st.sampled_from(("size", "checksum"))): lie})
    elif piece.name == b"IDAT" and draw(st.booleans()):
        lines = draw(changed_bytes(zlib.decompress(piece.body)) if _whole(piece) else st.just(b""))
        piece = replace(piece, body=zlib.compress(lines))
    else:
        piece = replace(piece, body=draw(changed_bytes(piece.body)))
    return [*pieces[:place], piece, *pieces[place + 1 :]]


def _whole(piece: Piece) -> bool:
    try:
        zlib.decompress(piece.body)
    except zlib.error:
        return False
    return True


@st.composite
def changed_pictures(draw: Any, kind: str) -> bytes:
    """A picture of one format, changed in one to three places."""
    each = FORMATS[kind]
    pieces = each.split(draw(st.sampled_from(each.sources)))
    for _ in range(draw(st.integers(1, 3))):
        pieces = draw(changed_pieces(pieces, each.names))
    data = each.join(pieces)
    return draw(changed_bytes(data)) if draw(st.integers(0, 3)) == 0 else data


_FIELDS = ("images", "Image", "", "é", "image\0", 'im"age', "a" * 999)
_NAMES = (
    *("b c.jpg", "", "é.png", "../../etc/passwd", "C:\\x.bmp", 'q".gif', "%22.png", "a;b=c", ".."),
    *("a" * 5000, "\0", "a\r\nX-Evil: 1", "=?utf-8?q?x?=", "\udcff", "\u202egnp.exe"),
)
_HEADERS = (
    *("Content-Type: text/css; charset=utf-7", "content-type:image/gif", "Content-Type:"),
    *("Content-Transfer-Encoding: base64", "Content-Length: 99999999", "Content-Length: -1"),
    *("X-" + "a" * 9000 + ": 1", "no colon", ": empty", " folded: line", "Content-Disposition: x"),
    "Content-Type: multipart/mixed; boundary=inner",
)
_DISPOSITION = 'form-data; name="{field}"; filename="{name}"'
_DISPOSITIONS = (
    'form-data; filename="{name}"; name="{field}"',
    "form-data; name={field}; filename={name}",
    "form-data; name=\"{field}\"; filename*=UTF-8''{name}",
    'form-data; name="{field}"; filename*0="{name}"; filename*1="x"',
    'form-data; name="{field}"',
    'form-data; filename="{name}"',
    'attachment; name="{field}"; filename="{name}"',
    'form-data; name="{field}; filename="{name}"',
    "form-data",
)
_KINDS = (
    "multipart/form-data; boundary={}",
    "multipart/form-data;charset=utf-16;boundary={}",
    "Multipart/Form-Data; Boundary={}",
    'multipart/form-data; boundary="{}',
    "multipart/form-data; boundary=other",
    "multipart/form-data; boundary=",
    "multipart/form-data",
    "multipart/mixed; boundary={}",
    "multipart/form-data; boundary*=UTF-8''{}",
)
_BOUNDARIES = ("-" * 40 + "7d", "a'()+_,-./:=?", "a" * 70, "a" * 300, "")


def _mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """``usual``, five times of six."""
    return st.integers(0, 5).flatmap(
        lambda turn: st.just(usual) if turn else st.sampled_from(others)
    )


@st.composite
def _parts(draw: Any) -> bytes:
    """One part of a form, from its headers to the end of its content."""
    line = draw(_mostly(_DISPOSITION, *_DISPOSITIONS))
    line = line.format(field=draw(_mostly("image", *_FIELDS)), name=draw(_mostly("a.png", *_NAMES)))
    headers = [f"Content-Disposition: {line}", draw(_mostly("Content-Type: image/png", *_HEADERS))]
    if draw(_mostly(False, True)):
        headers = draw(st.permutations([*headers, draw(st.sampled_from(_HEADERS))]))
        headers = headers[draw(st.integers(0, 2)) :]
    good = st.sampled_from(SOURCES)
    changed = st.sampled_from(sorted(FORMATS)).flatmap(changed_pictures)
    content = draw(draw(st.sampled_from((good, good, good, changed, st.binary(max_size=40)))))
    head = draw(_mostly("\r\n", "\n", "\r")).join([*headers, "", ""])
    return head.encode("utf-8", "surrogateescape") + content


@st.composite
def changed_forms(draw: Any) -> tuple[bytes, str]:
    """A multipart body and its Content-Type: right, nearly right, or broken on purpose."""
    boundary, end = draw(_mostly("XX", *_BOUNDARIES)), draw(_mostly("\r\n", "\n", "")).encode()
    line = b"--" + boundary.encode()
    parts = draw(st.lists(_parts(), min_size=draw(_mostly(1, 0)), max_size=3))
    body = b"".join(line + end + part + end for part in parts) + line + b"--" + end
    if draw(_mostly(False, True)):
        body = draw(st.binary(max_size=9)) + end + body + draw(st.binary(max_size=9))
    for _ in range(draw(_mostly(0, 1, 2, 3))):
        body = draw(changed_bytes(body))
    kind = draw(_mostly('multipart/form-data; boundary="{}"', *_KINDS))
    return body, kind.format(boundary)
