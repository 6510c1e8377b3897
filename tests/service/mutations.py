"""Real pictures and real forms, changed in a few places.

Hypothesis strategies. A picture is changed piece by piece (``tests.service.formats``), so that
changes get past the first check that a decoder makes: lengths and checksums are right again
afterwards, unless lying about them is the change.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.service.formats import FORMATS, SOURCES, Piece

BOUNDARIES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
"""Numbers at which decoders have gone wrong."""


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
