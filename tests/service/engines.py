"""An engine alone, stand-ins for its models, and what stands before it.

They say when they run, with which pictures and in which thread, and wait to be let go.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np

from service.engine import Call, Engine
from service.http.bodies import Bodies
from service.models.model import Model
from service.models.runtime import CPU

LIMIT = 10.0
"""Seconds after which a test has failed rather than hung."""


class Fake:
    """A model whose row for a picture is (its own number, the picture's first byte)."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.provider = CPU
        self.batches: list[list[int]] = []
        self.threads: list[threading.Thread] = []
        self.go = threading.Event()
        self.go.set()
        self.failing: Exception | None = None

    def run(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(images[:, 0, 0, 0].tolist())
        self.threads.append(threading.current_thread())
        assert self.go.wait(LIMIT)
        if self.failing is not None:
            raise self.failing
        rows = [[self.number, each] for each in images[:, 0, 0, 0]]
        return np.array(rows, np.float32)


def looped(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test that is a coroutine."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        # A test is a coroutine function, of whatever arguments.
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 60))  # type: ignore[arg-type]

    return run


def pictures(*values: int) -> np.ndarray:
    return np.array([np.full((32, 32, 3), value, np.uint8) for value in values])


def make_engine(**changes: Any) -> Engine:
    return Engine(**{"max_batch": 8, "queue_images": 64, **changes})


def make_bodies(max_bytes: int, queue_bytes: int = 1 << 30) -> Bodies:
    """Bodies of requests that are all of use."""
    return Bodies(lambda environ: True, max_bytes=max_bytes, queue_bytes=queue_bytes)


def submit(
    engine: Engine, *tasks: tuple[Fake, np.ndarray], seconds: float = LIMIT, **options: Any
) -> Call:
    models = [(cast(Model, model), images) for model, images in tasks]
    return engine.submit(models, deadline=time.monotonic() + seconds, **options)


async def answer(call: Call) -> list[Any]:
    ended = asyncio.Event()
    if not call.done():
        call.add_done_callback(lambda _: ended.set())
        await asyncio.wait_for(ended.wait(), LIMIT)
    return [rows.tolist() for rows in call.result()]


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def occupy(engine: Engine, model: Fake) -> Call:
    """Have the engine's one thread run until ``model.go`` is set."""
    model.go.clear()
    running = submit(engine, (model, pictures(255)))
    await until(lambda: model.batches == [[255]])
    return running


def assert_at_rest(engine: Engine) -> None:
    assert engine.waiting_images == 0
    assert not engine._waiting
    assert not engine._running
