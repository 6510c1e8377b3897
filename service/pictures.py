"""Untrusted bytes in, pixels for the nets out: uint8 [32, 32, 3] RGB.

PNG, JPEG, WebP, GIF and BMP are recognized by their content, never by a name or a header of the
request; of an animation, the first frame counts. The pixel ceiling is checked on the picture's
header, before anything is decoded. Then: EXIF orientation is applied; palettes, grey, CMYK and
16 bits become 8-bit RGB (colour profiles are not applied); transparency is laid over white; and
the whole picture, nothing cropped, is stretched to 32x32 by Pillow's bilinear filter, whose
support grows with the reduction, so that it neither aliases nor rings. A picture that is 32x32
already is passed through unchanged. No state: safe in any thread. Data that no pixel depends on is
removed before Pillow sees it (``service.trim``), however much of it there is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

# WebPImagePlugin registers itself; the other four are among those that Pillow always has ready.
from PIL import Image, ImageFile, WebPImagePlugin  # noqa: F401

from service.trim import TooManyPartsError, trimmed
from service.upright import UPRIGHT, orientation

SIDE = 32
FORMATS = ("PNG", "JPEG", "WebP", "GIF", "BMP")
BACKGROUND = 255
"""White, as viewers show transparency."""

_DEPTHS: dict[object, int] = {"L;2": 2, "L;4": 4, "RGB;16B": 16}
"""Bits of a sample, by what Pillow calls a PNG's pixels."""

_RUN_LENGTHS = (1, 2)
"""A BMP's field for its compression."""

# Pillow warns of odd files in words that hold their numbers, and Python keeps every such text for
# ever: strangers could fill the memory, and the log.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Behind the ceiling below stands Pillow's own: it warns above 89 million pixels.
warnings.simplefilter("error", Image.DecompressionBombWarning)


class PictureError(Exception):
    """A picture cannot be used; the message says why."""


class UnsupportedPictureError(PictureError):
    """The bytes are of none of the five formats."""


class UndecodablePictureError(PictureError):
    """The bytes are of a known format, but broken or cut off."""


class PictureTooLargeError(PictureError):
    """The picture has more pixels than are decoded here."""


@dataclass(frozen=True)
class Picture:
    """A picture of which only the header has been read.

    ``data`` is its file, trimmed; ``orientation``, if any, is how it is to be turned.
    """

    kind: str
    image: ImageFile.ImageFile
    data: bytes
    orientation: int | None

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.image.width * self.image.height

    @property
    def interpreted(self) -> bool:
        """Whether it is decoded in Python, which takes long, however small it is."""
        return self.kind == "BMP" and self.image.info.get("compression") in _RUN_LENGTHS


def decode(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one picture to uint8 [32, 32, 3], RGB 0..255; see the module's docstring.

    Raises ``PictureError`` alone, whatever the bytes: ``UnsupportedPictureError``,
    ``UndecodablePictureError`` or ``PictureTooLargeError``.
    """
    return decode_opened(open_picture(data, max_pixels=max_pixels))


def open_picture(data: bytes, *, max_pixels: int) -> Picture:
    """Read one picture's header. Raises as ``decode`` does."""
    kind = _format(data)
    with _picture_errors(kind):
        data, exif, xmp = trimmed(kind, data)
        try:
            image = Image.open(BytesIO(data), formats=[kind])
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise PictureTooLargeError(
                f"the picture has more than the {max_pixels:,} pixels that are decoded here; "
                "scale it down"
            ) from None
        if kind == "WebP":
            exif, xmp = image.info.get("exif"), image.info.get("xmp")
    picture = Picture(kind, image, data, orientation(exif, xmp))
    if picture.pixels > max_pixels:
        raise PictureTooLargeError(
            f"the picture has {image.width:,} x {image.height:,} pixels, "
            f"more than the {max_pixels:,} that are decoded here; scale it down"
        )
    return picture


def decode_opened(picture: Picture) -> NDArray[np.uint8]:
    """Decode the rest of what ``open_picture`` gave, once. Raises as ``decode`` does."""
    image = picture.image
    with _picture_errors(picture.kind):
        try:
            depth = _depth(image)
            image.load()
            keyed = _keyed(picture, depth)
            turn = UPRIGHT.get(picture.orientation or 0)
            return _pixels(keyed if turn is None else keyed.transpose(turn))
        finally:
            image.close()  # its pixels too, and now: whoever holds it may have others to decode


@contextmanager
def _picture_errors(kind: str) -> Iterator[None]:
    """Turn whatever Pillow raises into a ``PictureError``."""
    try:
        yield
    except PictureError:
        raise
    except TooManyPartsError as error:
        raise UndecodablePictureError(
            f"the {kind} data is in more than {error}, which is more than are read; open the "
            "picture in an editor and save it again"
        ) from None
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        raise UndecodablePictureError(f"the {kind} data is broken or cut off") from error


def _format(data: bytes) -> str:
    """The format that the first bytes announce."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    raise UnsupportedPictureError(f"the content is none of {', '.join(FORMATS)}")


def _depth(image: ImageFile.ImageFile) -> int:
    """Bits of each sample of a PNG whose colour key Pillow may get wrong, else 8."""
    return _DEPTHS.get(image.tile[0].args, 8) if image.format == "PNG" and image.tile else 8


def _keyed(picture: Picture, depth: int) -> Image.Image:
    """The loaded picture, with the one colour that is transparent as its pixels now have it.

    That colour is written with the file's own bits (PNG specification, section 11.3.1.1), of which
    the least count; Pillow makes 8 of the pixels' alone. Of 16 both bytes have to be the same.
    """
    image, key = picture.image, picture.image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int):
        most = (1 << depth) - 1
        image.info["transparency"] = (key & most) * 255 // most
    elif image.mode == "RGB" and isinstance(key, tuple):
        if depth == 16:
            return _keyed_at_16_bits(picture, key)
        image.info["transparency"] = tuple(value & 255 for value in key)
    return image


def _keyed_at_16_bits(picture: Picture, key: tuple[int, ...]) -> Image.Image:
    """An RGB picture whose pixels are transparent where all their 48 bits are those of ``key``.

    Pillow keeps the high bytes; read as if they stood the other way round, it keeps the low ones.
    """
    high = picture.image
    del high.info["transparency"]
    with Image.open(BytesIO(picture.data), formats=[picture.kind]) as low:
        assert isinstance(low, ImageFile.ImageFile)  # noqa: S101 - as all that is opened
        low.tile = [low.tile[0]._replace(args="RGB;16L")]
        low.load()
        opaque = np.zeros((high.height, high.width), np.bool_)
        for band, value in enumerate(key):
            opaque |= np.asarray(high.getchannel(band)) != value >> 8
            opaque |= np.asarray(low.getchannel(band)) != value & 255
        low.close()
    high.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return high


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Any mode of the five formats -> RGB on white, 32x32."""
    size, bilinear = (SIDE, SIDE), Image.Resampling.BILINEAR
    if image.mode == "I;16":
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return np.array(_in_mode(image, "RGB").resize(size, bilinear))
    # Colours are premultiplied by their alpha ("RGBa"), so that what is transparent does not
    # bleed into its neighbours; then white fills what alpha leaves.
    layers = np.array(_in_mode(image, "RGBA").convert("RGBa").resize(size, bilinear))
    colours, alpha = layers[:, :, :3].astype(np.int16), layers[:, :, 3:].astype(np.int16)
    blended: NDArray[np.uint8] = np.minimum(colours + BACKGROUND - alpha, 255).astype(np.uint8)
    return blended


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert only if need be: Pillow would copy every pixel of what is in that mode already."""
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit grey: the high byte, which is what Pillow takes of 16-bit colours.

    Pillow's own conversion clips at 255 instead, which turns most pictures white.
    """
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey
