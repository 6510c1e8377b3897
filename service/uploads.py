"""The pictures of one request, as the nets take them.

A request holds either a multipart form with one or more files in its field ``image``, or one
picture as its raw body, whatever its Content-Type says (``service.files``). Small pictures are
decoded in the event loop, large ones in threads (``service.decoding``), within the limits of the
settings.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute import NOT_DONE, refusal
from service.decoding import Check
from service.engine import never
from service.files import FIELD, read_files, shown
from service.http.wsgi import GONE
from service.messages import Request, current
from service.metrics import metrics
from service.operations import Body
from service.pictures import (
    FORMATS,
    Picture,
    PictureError,
    PictureTooLargeError,
    UndecodablePictureError,
    UnsupportedPictureError,
    decode_opened,
    open_picture,
)
from service.problems import Problem, Refusals
from service.settings import Settings
from service.state import decoding
from service.state import settings as current_settings

FORM = "application/x-www-form-urlencoded"
BY_CURL = "; curl sends a file as it is by --data-binary @FILE"
"""Told to whoever may have called it with -d, which takes the newlines out, or forgotten the @."""

INLINE_PIXELS, INLINE_BYTES = 1 << 16, 1 << 16
"""Pictures up to here, together, are decoded in the event loop; more would keep others waiting."""

HUGE_PIXELS = 1 << 23
"""Pictures of more are decoded one at a time: some take 20 bytes a pixel meanwhile."""

_HUGE = threading.Lock()

_NOT_AS_IT_WAS = UnsupportedPictureError, UndecodablePictureError
"""What a file may be without its newlines: a PNG has one in its first bytes, others within."""

_STATUS = {
    UnsupportedPictureError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    UndecodablePictureError: HTTPStatus.UNPROCESSABLE_ENTITY,
    PictureTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


BAD_UPLOAD: Refusals = {
    HTTPStatus.BAD_REQUEST: (
        "no picture, an unknown form field, a form that cannot be read, or a body that ends early"
    ),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "more than {max_body_bytes:,} bytes, {max_images} pictures, {max_pixels:,} pixels in one "
        "of them or {max_request_pixels:,} in all of them"
    ),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: f"a file that is none of {', '.join(FORMATS)}",
    HTTPStatus.UNPROCESSABLE_ENTITY: "a picture that is broken, cut off or in too many parts",
}


def _media(settings: Settings) -> dict[str, Any]:
    """What ``read_upload`` reads."""
    kinds = [f"image/{name.lower()}" for name in FORMATS]
    file = {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}
    files = {"type": "array", "items": file, "minItems": 1, "maxItems": settings.max_images}
    form = {
        "type": "object",
        "properties": {FIELD: files},
        "required": [FIELD],
        "additionalProperties": False,
    }
    pictures = {
        kind: {
            "schema": {
                "type": "string",
                "contentMediaType": kind,
                "minLength": 1,
                "maxLength": settings.max_body_bytes,
            }
        }
        for kind in (*kinds, "application/octet-stream")
    }
    encoding = {FIELD: {"contentType": ", ".join(kinds)}}
    return {"multipart/form-data": {"schema": form, "encoding": encoding}, **pictures}


UPLOAD = Body(
    f"One picture as the body, whatever its Content-Type says, or one or more as files of the "
    f"multipart field `{FIELD}`. Formats, told by their content: {', '.join(FORMATS)}. At most "
    "{max_images} pictures and {max_body_bytes:,} bytes, {max_pixels:,} pixels each.",
    _media,
)


def _pass() -> None:
    """Before a small picture there is nothing to check."""


@dataclass(frozen=True)
class Upload:
    """The pictures of one request: ``images`` is uint8 [N, 32, 32, 3], ``names`` has N entries.

    A name is the upload's own file name, or None.
    """

    names: tuple[str | None, ...]
    images: NDArray[np.uint8]


def read_upload() -> Upload:
    """Read and decode the current request's pictures.

    Raises ``Problem`` 400 (no picture), 413 (too large, too many), 415 (not a supported picture),
    422 (cannot be decoded), and 503 or 504 where large ones would wait for too long.
    """
    request, settings = current(), current_settings()
    parts = read_files(request, settings)
    work = _Work(parts, settings)
    try:
        if work.bytes > INLINE_BYTES:
            images = _in_thread(work.whole, request, settings, len(parts))
        else:
            work.open()
            if work.light:
                images = list(work.decode())
            else:
                images = _in_thread(work.decode, request, settings, len(parts))
    except Problem as problem:
        if isinstance(problem.__cause__, _NOT_AS_IT_WAS) and request.mimetype == FORM:
            problem.detail += BY_CURL
        raise
    metrics().decoded(work.seconds)
    names = tuple(name for name, _ in parts)
    return Upload(names, images[0][None] if len(images) == 1 else np.stack(images))


def _in_thread(
    each: Callable[[Check], Iterator[NDArray[np.uint8]]],
    request: Request,
    settings: Settings,
    pictures: int,
) -> list[NDArray[np.uint8]]:
    """All that ``each`` yields, by the request's deadline. Raises ``Problem`` 503 and 504 too."""
    deadline = request.started + settings.deadline_seconds
    gone = request.environ.get(GONE, never)
    try:
        return decoding().run(each, pictures, deadline=deadline, gone=gone)
    except NOT_DONE as error:
        raise refusal(error, settings.deadline_seconds) from None


class _Work:
    """The decoding of one request's pictures; ``seconds`` is what it has taken so far."""

    def __init__(self, parts: Sequence[tuple[str | None, bytes]], settings: Settings) -> None:
        self._parts = parts
        self._settings = settings
        self._pictures: deque[tuple[int, Picture]] = deque()  # with their places among the files
        self._pixels, self._interpreted = 0, False
        self.bytes = sum(len(data) for _, data in parts)
        self.seconds = 0.0

    @property
    def light(self) -> bool:
        """Whether what has been opened may be decoded in the event loop."""
        return self._pixels <= INLINE_PIXELS and not self._interpreted

    def whole(self, check: Check) -> Iterator[NDArray[np.uint8]]:
        """Open all, then decode one after the other."""
        self.open(check)
        yield from self.decode(check)

    def open(self, check: Check = _pass) -> None:
        """Read every picture's header. Raises ``Problem``, and what ``check`` raises."""
        started = time.perf_counter()
        for place in range(len(self._parts)):
            check()
            picture = self._open(place)
            self._pictures.append((place, picture))
            self._pixels += picture.pixels
            self._interpreted = self._interpreted or picture.interpreted
        if self._pixels > self._settings.max_request_pixels:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the request's pictures have {self._pixels:,} pixels together, more than the "
                f"{self._settings.max_request_pixels:,} allowed; send fewer of them at a time, or "
                "scale them down",
            )
        self.seconds += time.perf_counter() - started

    def decode(self, check: Check = _pass) -> Iterator[NDArray[np.uint8]]:
        """Decode what has been opened, and let go of each picture then. Raises as ``open`` does."""
        while self._pictures:
            huge = self._pictures[0][1].pixels > HUGE_PIXELS
            with _HUGE if huge else nullcontext():
                check()
                started = time.perf_counter()
                image = self._decode(*self._pictures.popleft())
                self.seconds += time.perf_counter() - started
            yield image  # without the lock: the next one's turn may be in another thread

    def _open(self, place: int) -> Picture:
        _, data = self._parts[place]
        if not data:
            status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            raise Problem(status, f"{self._label(place)}: the file is empty")
        try:
            return open_picture(data, max_pixels=self._settings.max_pixels)
        except PictureError as error:
            raise self._problem(place, error) from error

    def _decode(self, place: int, picture: Picture) -> NDArray[np.uint8]:
        try:
            return decode_opened(picture)
        except PictureError as error:
            raise self._problem(place, error) from error

    def _problem(self, place: int, error: PictureError) -> Problem:
        return Problem(_STATUS[type(error)], f"{self._label(place)}: {error}")

    def _label(self, place: int) -> str:
        """How a message names a file: by its place too, where others are called the same."""
        names = [name for name, _ in self._parts]
        name = names[place]
        label = shown(name) if name else "the picture"
        if names.count(name) == 1:
            return label
        return f"{label} (picture {place + 1} of {len(names)})"
