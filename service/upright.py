"""Which way is up: the orientation in a picture's metadata, read at a small cost.

In: an EXIF block, and XMP, as in the file. Out: 2 to 8, or None for upright. Pillow's own reader
goes through every entry of the block and keeps what each points at, which may be the whole block
again. Sources: EXIF 2.32, section 4.6; TIFF 6.0, section 2.
"""

from __future__ import annotations

import re
from struct import Struct, error, iter_unpack, unpack_from

from PIL import Image

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation; 1 is upright (EXIF 2.32, section 4.6.4)."""

MOST_ENTRIES = 512
"""Of an EXIF block's first directory, which are looked at; cameras write about fifteen."""

MOST_XMP = 1 << 16
"""Bytes of XMP that are looked at."""

_TAG, _SHORT = 0x0112, 3
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ENTRY = "HHIH2x"
_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([2-8])")


def orientation(exif: bytes | None, xmp: bytes | None) -> int | None:
    """What turns the picture, of which EXIF counts first; None where neither does, or is broken."""
    found = _in_exif(exif.removeprefix(b"Exif\0\0")) if exif else None
    if found is None and xmp and (said := _XMP.search(xmp, 0, MOST_XMP)):
        found = int(said[1])
    return found if found in UPRIGHT else None


def _in_exif(block: bytes) -> int | None:
    order = _ORDERS.get(block[:4])
    if order is None:
        return None
    try:
        (at,) = unpack_from(f"{order}I", block, 4)
        (count,) = unpack_from(f"{order}H", block, at)
    except error:
        return None
    size, at = Struct(order + _ENTRY).size, at + 2
    entries = min(count, MOST_ENTRIES, (len(block) - at) // size)
    for tag, kind, _, value in iter_unpack(order + _ENTRY, block[at : at + entries * size]):
        if tag == _TAG:
            return int(value) if kind == _SHORT else None
    return None
