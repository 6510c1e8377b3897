"""Requests with large pictures: in threads, each picture let go of, and refused as the API says."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flask import Flask

from service import uploads
from service.app import create_app
from service.gate import gate_of
from service.http.waiting import Turns
from service.http.wsgi import GONE, OnLoop
from service.settings import Settings
from service.state import state_of
from tests.service.engines import make_bodies
from tests.service.exposition import samples, total
from tests.service.http.test_waiting import in_turn
from tests.service.test_api import multipart
from tests.service.test_decoding import SOON, in_loop, until
from tests.service.tiny import encode

SMALL = encode(np.zeros((32, 32, 3), np.uint8))
LARGE = encode(np.zeros((300, 300, 3), np.uint8))
HEAVY = encode(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
"""Few pixels, in more bytes than are opened in the loop."""


async def ask(
    app: Flask, *pictures: bytes, gone: Callable[[], bool] = lambda: False
) -> tuple[int, bytes]:
    """The status and the whole answer, of the application in this event loop."""
    form = multipart([("image", data, "a.png") for data in pictures])
    with app.test_request_context("/predict", method="POST", **form) as context:
        body = context.request.get_data()
        environ = dict(context.request.environ)
    for key in [key for key in environ if key.startswith(("werkzeug", "flask", "batchnorm"))]:
        del environ[key]
    environ |= {GONE: gone, "wsgi.input_terminated": True}
    gate = gate_of(app)
    application = OnLoop(app, gate, make_bodies(len(body)))
    answer = await in_turn(lambda: application(environ, lambda: (body, False)), Turns())
    return int(answer.head[9:12]), answer.head + answer.body


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads in which pictures are opened, one entry for each."""
    threads: list[threading.Thread] = []
    real = uploads.open_picture

    def open_picture(data: bytes, *, max_pixels: int) -> Any:
        threads.append(threading.current_thread())
        return real(data, max_pixels=max_pixels)

    monkeypatch.setattr(uploads, "open_picture", open_picture)
    return threads


def test_many_bytes_are_not_even_opened_in_the_loop(
    app: Flask, opened: list[threading.Thread]
) -> None:
    async def main() -> None:
        assert len(HEAVY) > uploads.INLINE_BYTES
        for pictures in ([HEAVY], [SMALL] * 3 + [HEAVY]):
            opened.clear()
            assert (await ask(app, *pictures))[0] == 200
            assert len(opened) == len(pictures)
            assert threading.main_thread() not in opened
        opened.clear()
        assert (await ask(app, SMALL, SMALL))[0] == 200
        assert opened == [threading.main_thread()] * 2

    in_loop(main)


def run_lengths() -> bytes:
    """A BMP of 32 x 32 pixels, whose lines are each 32 times colour 1."""
    pixels = b"\x20\1\0\0" * 32 + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 32, 32, 1, 8, 1, len(pixels), 0, 0, 2, 2)
    start = 14 + len(head) + 8
    file = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head
    return file + b"\0\0\0\0\x0a\x14\x1e\0" + pixels


def test_what_pillow_decodes_in_python_is_not_decoded_in_the_loop(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    real = uploads.decode_opened

    def decode_opened(picture: Any) -> Any:
        threads.append(threading.current_thread())
        pixels = real(picture)
        assert np.all(pixels == (30, 20, 10))
        return pixels

    monkeypatch.setattr(uploads, "decode_opened", decode_opened)

    async def main() -> None:
        assert (await ask(app, run_lengths()))[0] == 200

    in_loop(main)
    assert len(threads) == 1
    assert threads != [threading.main_thread()]


def test_requests_whose_pictures_may_not_wait_are_told_to_try_again(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = state_of(app).decoding
    monkeypatch.setattr(decoding, "images", decoding.queue_images)

    async def main() -> None:
        for pictures in ([LARGE], [HEAVY]):
            status, answer = await ask(app, *pictures)
            assert status == 503
            assert b"Retry-After: 1\r\n" in answer
            assert b"too many pictures are waiting already; try again later" in answer
        assert (await ask(app, SMALL))[0] == 200  # needs no thread

    in_loop(main)


def test_a_request_of_as_many_pictures_as_may_wait_does_not_shut_out_the_others(
    settings: Settings, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures wait in part, as the metrics show, and it is answered too."""
    assert settings.max_images == settings.queue_images == 64
    roomy, answered = create_app(settings, state_of(app).repository), list[str]()
    begun, free = threading.Event(), threading.Event()
    real = uploads.decode_opened

    def decode_opened(picture: Any) -> Any:
        begun.set()
        assert free.wait(SOON)
        return real(picture)

    monkeypatch.setattr(uploads, "decode_opened", decode_opened)

    def waiting() -> float:
        text = roomy.test_client().get("/metrics").text
        return total(samples(text), "batchnorm_decoding_images")

    async def send(name: str, *pictures: bytes) -> int:
        status, _ = await ask(roomy, *pictures)
        answered.append(name)
        return status

    async def main() -> None:
        assert waiting() == 0
        large = asyncio.ensure_future(send("large", *[LARGE] * 64))
        await until(begun.is_set)
        assert waiting() == 16
        others = [asyncio.ensure_future(send("other", each)) for each in (LARGE, HEAVY)]
        others.append(asyncio.ensure_future(send("as large", *[LARGE] * 40)))
        await until(lambda: state_of(roomy).decoding.images == 16 + 2 + 16)
        assert waiting() == 34
        free.set()
        assert await asyncio.gather(large, *others) == [200] * 4
        assert answered == ["other", "other", "as large", "large"]
        assert waiting() == 0

    in_loop(main)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each picture that is decoded, how many before it are still in memory."""
    alive: list[int] = []
    pictures: list[weakref.ref[Any]] = []
    real = uploads.decode_opened

    def decode_opened(picture: Any) -> Any:
        alive.append(sum(each() is not None for each in pictures))
        time.sleep(0.05)
        pixels = real(picture)
        pictures.append(weakref.ref(picture.image))
        return pixels

    monkeypatch.setattr(uploads, "decode_opened", decode_opened)
    return alive


@pytest.mark.parametrize("picture", [LARGE, HEAVY, SMALL])
def test_a_picture_is_let_go_of_before_the_next_one(
    app: Flask, decoded: list[int], picture: bytes
) -> None:
    async def main() -> None:
        assert (await ask(app, *[picture] * 4))[0] == 200

    in_loop(main)
    assert decoded == [0] * 4


def test_of_a_request_whose_client_leaves_no_picture_more_is_decoded(
    app: Flask, decoded: list[int]
) -> None:
    async def main() -> None:
        status, _ = await ask(app, *[LARGE] * 4, gone=lambda: len(decoded) >= 2)
        assert status == 499

    in_loop(main)
    assert len(decoded) == 2


def test_of_a_request_that_is_late_no_picture_more_is_decoded(
    settings: Settings, app: Flask, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = create_app(replace(settings, deadline_seconds=1), state_of(app).repository)
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 9 * len(decoded))

    async def main() -> None:
        status, answer = await ask(late, *[LARGE] * 4)
        assert (status, b"within the 1 seconds allowed" in answer) == (504, True)
        await until(lambda: state_of(late).decoding.images == 0)

    asyncio.run(main())
    assert len(decoded) == 1


@pytest.mark.parametrize(("huge", "most"), [(200 * 200, 1), (300 * 300, 2)])
def test_of_huge_pictures_one_is_decoded_at_a_time(
    app: Flask, monkeypatch: pytest.MonkeyPatch, huge: int, most: int
) -> None:
    now, found, seconds = [0], [], list[float]()
    real = uploads.decode_opened

    def decode_opened(picture: Any) -> Any:
        now[0] += 1
        time.sleep(0.2)
        found.append(now[0])
        now[0] -= 1
        return real(picture)

    monkeypatch.setattr(uploads, "HUGE_PIXELS", huge)
    monkeypatch.setattr(uploads, "decode_opened", decode_opened)
    monkeypatch.setattr("service.metrics.Metrics.decoded", lambda _, each: seconds.append(each))

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            asyncio.get_running_loop().set_default_executor(pool)
            answers = await asyncio.gather(ask(app, LARGE), ask(app, LARGE))
        assert [status for status, _ in answers] == [200, 200]

    asyncio.run(main())
    assert max(found) == most
    assert all(0.2 <= each < 0.39 for each in seconds), seconds  # without waiting for the other


def test_waiting_for_a_thread_is_not_decoding(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: list[float] = []
    monkeypatch.setattr("service.metrics.Metrics.decoded", lambda _, each: seconds.append(each))

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.5)
        for picture in (LARGE, HEAVY):
            assert (await ask(app, picture))[0] == 200

    in_loop(main)
    assert len(seconds) == 2
    assert all(0 < each < 0.4 for each in seconds)
