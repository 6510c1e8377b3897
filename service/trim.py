"""A picture file's bytes in, the same file without what its pixels do not depend on out.

Pillow reads a file's parts (PNG chunks, JPEG segments, GIF blocks) one by one, in Python, and
inflates every text and profile: a small file can keep it busy for seconds, and fill gigabytes. So
it only gets the parts that pixels depend on; metadata that may hold the orientation is returned
separately. A file with nothing to remove is returned as it is. WebP and BMP have no parts that are
read so; of a BMP only the number of colours is checked, which Pillow looks at one by one.

The cost is bounded by the limits below. No state: safe in any thread. Sources: PNG
specification (third edition), sections 5 and 11; ITU-T T.81, annex B; GIF89a specification;
Microsoft's BITMAPINFOHEADER; what Pillow and libjpeg make of each.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

MOST_PARTS = 20_000
"""A PNG may have so many chunks: 10 MB in half kilobytes (libpng writes eight at a time). A GIF may
have as many blocks before its pixels."""

MOST_SEGMENTS = 2_000
"""A JPEG may have so many segments; one with 10 MB of colour profile and other metadata has 200."""

MOST_SCANS = 50
"""A JPEG may have so many scans, each of which goes over all pixels; progressive ones have ten."""

MOST_COLOURS = 256
"""A BMP's palette may have so many, as many as its pixels can name. A header may claim thousands in
a file of a hundred bytes, and Pillow takes as long over those that are not there."""

MOST_TEXT = 1 << 16
"""Bytes of a PNG's text that are read, packed, and as many that come of them."""

MOST_JUNK = 1 << 16
"""Bytes between a JPEG's or a GIF's parts that are skipped."""

WINDOW = 1 << 16
"""Bytes that are searched at a time: other threads wait meanwhile."""


class Trimmed(NamedTuple):
    """``data`` is the file to decode; ``exif`` and ``xmp`` are the metadata it had, if any."""

    data: bytes
    exif: bytes | None = None
    xmp: bytes | None = None


class TooManyPartsError(Exception):
    """The file has more parts than are read; the message says how many of which are."""


def trimmed(kind: str, data: bytes) -> Trimmed:
    """``data``, a file of format ``kind``, without what its pixels do not depend on.

    Raises ``TooManyPartsError``, and ``ValueError`` or ``IndexError`` where it is broken.
    """
    trim = _TRIMS.get(kind)
    return Trimmed(data) if trim is None else trim(data)


_CHUNK = Struct(">I4s")
_CHUNKS_LEFT_SPLIT = 16
_ONCE = {b"IHDR", b"PLTE", b"tRNS", b"IEND"}
_XMP_TEXT, _EXIF_TEXT = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"


def _png(data: bytes) -> Trimmed:
    """Pixel data in many chunks become one: any number of them means the same."""
    at, end, parts, other = 8, len(data), 0, False
    kept: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    exif = xmp = None
    while end - at >= _CHUNK.size:
        length, kind = _CHUNK.unpack_from(data, at)
        start, at, parts = at, at + length + 12, parts + 1
        if parts > MOST_PARTS:
            raise TooManyPartsError(f"{MOST_PARTS} chunks")
        if kind == b"IDAT":
            kept.setdefault(kind, b"")  # its place
            pixels.append(data[start + 8 : at - 4])
        elif kind in _ONCE and kind not in kept:
            kept[kind] = data[start:at]
            if kind == b"IEND":
                break
        else:
            other = True
            content, stop = start + 8, min(at - 4, start + 8 + MOST_TEXT)
            if kind == b"eXIf":
                exif = exif or data[content : at - 4]
            elif xmp is None and data.startswith(_XMP_TEXT, content):
                xmp = _text(kind, data[content:stop])
            elif exif is None and data.startswith(_EXIF_TEXT, content):
                exif = _unhexed(_text(kind, data[content:stop]))
    if not other and parts <= _CHUNKS_LEFT_SPLIT:
        return Trimmed(data)
    if pixels:
        whole = b"".join([b"IDAT", *pixels])
        kept[b"IDAT"] = _CHUNK.pack(len(whole) - 4, b"IDAT") + whole[4:]
        kept[b"IDAT"] += zlib.crc32(whole).to_bytes(4)
    return Trimmed(b"".join([data[:8], *kept.values()]), exif, xmp)


def _text(kind: bytes, content: bytes) -> bytes:
    """The beginning of a PNG's text."""
    text = content.partition(b"\0")[2]
    packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        text = text[2:].split(b"\0", 2)[-1]
    if not packed:
        return text[:MOST_TEXT]
    try:
        return zlib.decompressobj().decompress(text, MOST_TEXT)
    except zlib.error:
        return b""


def _unhexed(text: bytes) -> bytes | None:
    """What ImageMagick has written as a text: a newline, a name, a length, and lines of digits."""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
    except ValueError:
        return None


_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""But for restarts and what stands for a byte of 255, neither of which begins a segment."""
_SOS, _EOI, _APP0, _APP1, _APP14, _COM = 0xDA, 0xD9, 0xE0, 0xE1, 0xEE, 0xFE
_SEGMENTS = {*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(_SOS, 0xF0), _COM}
_METADATA = {*range(_APP0, 0xF0), _COM} - {_APP0, _APP14}
"""The two that stay say how colours are stored."""
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def _jpeg(data: bytes) -> Trimmed:
    """The segments before the first scan, but for metadata; what follows stays as it is."""
    kept: list[bytes] = []
    run, at, junk = 0, 2, 0  # what stays begins at ``run``
    exif = xmp = None
    for _ in range(MOST_SEGMENTS):
        start, marker = at, data[at + 1]
        if data[at] != 0xFF or marker not in _SEGMENTS:
            found = _MARKER.search(data, at, at + WINDOW)
            if found is None:
                raise ValueError
            kept.append(data[run:at])
            run, marker = found.start(), found[1][0]
            start, junk = run, junk + run - at
            if marker not in _SEGMENTS or junk > MOST_JUNK:
                raise ValueError
        length = data[start + 2] << 8 | data[start + 3]
        if length < 2:
            raise ValueError
        at = start + 2 + length
        if marker == _SOS:
            _count_scans(data, at)
            return Trimmed(b"".join([*kept, data[run:]]), exif, xmp)
        if marker in _METADATA:
            kept.append(data[run:start])
            run = at
            if marker == _APP1 and exif is None and data.startswith(_EXIF, start + 4):
                exif = data[start + 4 : at]
            elif marker == _APP1 and xmp is None and data.startswith(_XMP, start + 4):
                xmp = data[start + 4 : at]
    raise TooManyPartsError(f"{MOST_SEGMENTS} segments")


def _count_scans(data: bytes, at: int) -> None:
    """Raise where more scans follow the first one, whose pixels begin at ``at``, than are read."""
    scans, segments = 1, 0
    while at < len(data):
        found = _MARKER.search(data, at, at + WINDOW)
        if found is None:
            at += WINDOW - 1
            continue
        at, marker = found.end(), found[1][0]
        if marker == _EOI:
            return
        segments += 1
        scans += marker == _SOS
        if scans > MOST_SCANS:
            raise TooManyPartsError(f"{MOST_SCANS} scans")
        if segments > MOST_SEGMENTS:
            raise TooManyPartsError(f"{MOST_SEGMENTS} segments")
        if marker in _SEGMENTS:  # what else there is, is broken; libjpeg may make do with it
            at += int.from_bytes(data[at : at + 2])


_BLOCK = re.compile(rb"[!,;]")
_CONTROL = 0xF9


def _gif(data: bytes) -> Trimmed:
    """Before the first picture, but for what controls it, without comments and extensions."""
    flags = data[10]
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    head, parts, junk, control = data[:at], 0, 0, b""
    while found := _BLOCK.search(data, at, at + WINDOW):
        start = found.start()
        junk += start - at
        if found[0] == b",":
            return Trimmed(b"".join([head, control, data[start:]]))
        if found[0] == b";" or junk > MOST_JUNK:
            break
        at = start + 2
        while True:
            parts += 1
            if parts > MOST_PARTS:
                raise TooManyPartsError(f"{MOST_PARTS} blocks")
            size = data[at]
            at += size + 1
            if not size:
                break
        if data[start + 1] == _CONTROL:
            control = data[start:at]  # of several, the last one counts
    raise ValueError


_WITH_COLOURS = 40
"""Bytes of a BMP's second header, if not more, where it says how many colours there are."""
_DEEPEST = 8
"""Bits of a BMP's pixel that names a colour of its palette; deeper ones are colours themselves."""


def _bmp(data: bytes) -> Trimmed:
    """The file as it is, unless it claims too many colours."""
    size, bits, colours = (
        int.from_bytes(data[at:end], "little") for at, end in ((14, 18), (28, 30), (46, 50))
    )
    if size >= _WITH_COLOURS and bits <= _DEEPEST and colours > MOST_COLOURS:
        raise TooManyPartsError(f"{MOST_COLOURS} colours")
    return Trimmed(data)


_TRIMS: dict[str, Callable[[bytes], Trimmed]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "GIF": _gif,
    "BMP": _bmp,
}
