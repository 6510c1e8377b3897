"""What strangers may send: files made by Pillow or byte by byte, as functions without arguments.

``GOOD`` must be answered; every entry of ``BAD`` has the status that it must get.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.service.tiny import encode

PIXELS = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
# Smooth, so that lossy formats keep it.
SLOPE = Image.fromarray(
    np.stack(np.meshgrid(range(64), range(48), indexing="xy"), axis=-1).astype(np.uint8)
    * 3
    @ np.array([[1, 0, 1], [0, 1, 1]], np.uint8)
)


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """One PNG chunk (PNG specification, section 5.3)."""
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(
    width: int,
    height: int,
    *extra: bytes,
    depth: int = 8,
    colour: int = 0,
    data: bytes | None = None,
    crc: int | None = None,
) -> bytes:
    """A PNG written by hand; ``data`` are its scan lines, by default as many zeros as 4 MB hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    if data is None:
        data = bytes(min(4 << 20, height * (width + 1)))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header, crc),
            *extra,
            chunk(b"IDAT", zlib.compress(data)),
            chunk(b"IEND", b""),
        ]
    )


def sixteen_bits() -> bytes:
    values = (PIXELS[:, :, 0].astype(">u2") * 257).tobytes()
    lines = b"".join(b"\0" + values[i : i + 112] for i in range(0, len(values), 112))
    return png(56, 40, depth=16, data=lines)


def sixteen_bit_colours(*extra: bytes) -> bytes:
    values = (PIXELS.astype(">u2") * 257).tobytes()
    lines = b"".join(b"\0" + values[i : i + 336] for i in range(0, len(values), 336))
    return png(56, 40, *extra, depth=16, colour=2, data=lines)


def animated(kind: str) -> bytes:
    other = Image.new("RGB", PHOTO.size, "red")
    options = {"lossless": True} if kind == "WEBP" else {}
    return encode(PHOTO, kind, save_all=True, append_images=[other, other], **options)


def oriented(orientation: int, kind: str = "PNG", **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(PHOTO, kind, exif=exif, **options)


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose frame header lies about its size."""
    data = bytearray(encode(PHOTO, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_claiming(width: int, height: int) -> bytes:
    data = bytearray(encode(PHOTO, "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def gif_claiming(width: int, height: int) -> bytes:
    data = bytearray(encode(PHOTO, "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def cut(kind: str) -> bytes:
    data = encode(PHOTO, kind)
    return data[: len(data) // 2]


ZTXT_BOMB = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20)))

GOOD: dict[str, Callable[[], bytes]] = {
    "1x1": lambda: encode(PHOTO.crop((0, 0, 1, 1))),
    "1x20000": lambda: encode(Image.new("RGB", (1, 20000), "blue")),
    "20000x1 JPEG": lambda: encode(Image.new("RGB", (20000, 1), "blue"), "JPEG"),
    "16-bit grey PNG": sixteen_bits,
    "16-bit grey PNG with a transparent value": lambda: png(
        4, 4, chunk(b"tRNS", struct.pack(">H", 0)), depth=16, data=bytes(36)
    ),
    "16-bit colour PNG": sixteen_bit_colours,
    "16-bit colour PNG with a transparent colour": lambda: sixteen_bit_colours(
        chunk(b"tRNS", struct.pack(">HHH", 0xFFFF, 0xFFFF, 0xFFFF))
    ),
    "grey PNG": lambda: encode(PHOTO.convert("L")),
    "1-bit PNG": lambda: encode(PHOTO.convert("1")),
    "1-bit PNG with a transparent value": lambda: png(
        8, 2, chunk(b"tRNS", b"\0\1"), depth=1, data=b"\0\xaa\0\x55"
    ),
    "palette PNG with transparency": lambda: encode(PHOTO.convert("P"), transparency=0),
    "palette PNG with an alpha for every colour": lambda: encode(
        PHOTO.convert("P"), transparency=bytes(range(256))
    ),
    "palette GIF with transparency": lambda: encode(PHOTO.convert("P"), "GIF", transparency=0),
    "RGBA PNG": lambda: encode(PHOTO.convert("RGBA")),
    "RGBA WebP": lambda: encode(PHOTO.convert("RGBA"), "WEBP"),
    "RGBA BMP": lambda: encode(PHOTO.convert("RGBA"), "BMP"),
    "LA PNG": lambda: encode(PHOTO.convert("LA")),
    "CMYK JPEG": lambda: encode(PHOTO.convert("CMYK"), "JPEG"),
    "progressive JPEG": lambda: encode(PHOTO, "JPEG", progressive=True),
    "JPEG on its side": lambda: oriented(6, "JPEG"),
    "JPEG with an impossible orientation": lambda: oriented(99, "JPEG"),
    "JPEG with a broken EXIF block": lambda: encode(PHOTO, "JPEG", exif=b"Exif\0\0garbage"),
    "animated GIF": lambda: animated("GIF"),
    "animated WebP": lambda: animated("WEBP"),
    "animated PNG": lambda: animated("PNG"),
    "PNG with a text of 200 kB": lambda: png(4, 4, chunk(b"tEXt", b"Comment\0" + b"x" * 200_000)),
    "PNG with a text that inflates to 80 MB": lambda: png(4, 4, ZTXT_BOMB),
    "PNG with bytes after its end": lambda: encode(PHOTO) + b"<script>" * 100,
}

BAD: dict[str, tuple[int, Callable[[], bytes]]] = {
    "empty": (400, lambda: b""),
    "one byte": (415, lambda: b"\x89"),
    "text": (415, lambda: b"this is not a picture"),
    "HTML": (415, lambda: b"<!doctype html><title>no</title>"),
    "zeros": (415, lambda: bytes(10_000)),
    "SVG": (415, lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>'),
    "TIFF": (415, lambda: encode(PHOTO, "TIFF")),
    "ICO": (415, lambda: encode(PHOTO, "ICO")),
    "PPM": (415, lambda: encode(PHOTO, "PPM")),
    "HEIC": (415, lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)),
    "AVIF": (415, lambda: b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + bytes(100)),
    "PDF": (415, lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    "EPS": (415, lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "WAV": (415, lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(40)),
    "PNG signature alone": (422, lambda: b"\x89PNG\r\n\x1a\n"),
    "text after a PNG signature": (422, lambda: b"\x89PNG\r\n\x1a\nthis is not a picture"),
    "cut PNG": (422, lambda: cut("PNG")),
    "cut JPEG": (422, lambda: cut("JPEG")),
    "cut WebP": (422, lambda: cut("WEBP")),
    "cut GIF": (422, lambda: cut("GIF")),
    "cut BMP": (422, lambda: cut("BMP")),
    "PNG with a wrong header checksum": (422, lambda: png(4, 4, crc=1)),
    "PNG with wrong pixel data": (422, lambda: png(4, 4, data=b"\xff" * 3)),
    "PNG without width": (422, lambda: png(0, 4)),
    "PNG without height": (422, lambda: png(4, 0)),
    "PNG of 99 bits": (422, lambda: png(4, 4, depth=99)),
    "GIF without size": (422, lambda: gif_claiming(0, 0)[:20]),
    "JPEG without height": (422, lambda: jpeg_claiming(56, 0)),
    "PNG bomb": (413, lambda: png(2000, 2000)),
    "PNG bomb beyond Pillow's own limit": (413, lambda: png(50_000, 50_000)),
    "PNG that claims 2^31 pixels a side": (413, lambda: png(2**31 - 1, 2**31 - 1, data=b"")),
    "JPEG that claims 65535 pixels a side": (413, lambda: jpeg_claiming(65535, 65535)),
    "BMP that claims 30000 pixels a side": (413, lambda: bmp_claiming(30_000, 30_000)),
    "BMP of negative width, which reads as 2^32 - 9": (413, lambda: bmp_claiming(-9, 9)),
    "GIF that claims 65535 pixels a side": (413, lambda: gif_claiming(65535, 65535)),
    "WebP of 1.1 million pixels": (413, lambda: encode(Image.new("RGB", (1100, 1000)), "WEBP")),
}
