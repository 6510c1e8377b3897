"""The engine under thousands of requests: every answer right, and nothing left behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from service.engine import DeadlineError, GoneError, OverloadedError
from service.models.repository import load_repository
from service.models.runtime import RuntimeOptions
from tests.service.engines import (
    Fake,
    answer,
    assert_at_rest,
    looped,
    make_engine,
    pictures,
    submit,
    until,
)
from tests.service.tiny import oracle


@pytest.mark.parametrize("threads", [0, 1, 3])
@looped
async def test_thousands_of_mixed_requests_equal_their_serial_answers(
    models_dir: Any, threads: int
) -> None:
    repository = load_repository(models_dir, RuntimeOptions(threads=1))
    engine = make_engine(threads=threads, max_batch=8, queue_images=100_000)
    stock = np.random.default_rng(3).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    expected = {variant: oracle(variant, stock) for variant in repository.models}
    models = {variant: repository.get(variant, 1) for variant in repository.models}

    company = asyncio.Semaphore(100)

    async def request(seed: int) -> None:
        generator = np.random.default_rng(seed)
        names = generator.choice(list(models), size=generator.integers(1, 3))
        parts = [generator.integers(0, 40, size=generator.choice([1, 1, 1, 2, 20])) for _ in names]
        tasks = [(models[name], stock[index]) for name, index in zip(names, parts, strict=True)]
        async with company:
            call = engine.submit(tasks, deadline=time.monotonic() + 60)
            await answer(call)
        for name, index, found in zip(names, parts, call.result(), strict=True):
            np.testing.assert_allclose(found, expected[name][index], atol=1e-5)

    await asyncio.gather(*(request(seed) for seed in range(2000)))
    assert_at_rest(engine)


@pytest.mark.parametrize("threads", [0, 2])
@looped
async def test_random_deadlines_and_failures_leave_nothing_behind(threads: int) -> None:
    engine = make_engine(threads=threads, max_batch=4, queue_images=60)
    models = [Fake(1), Fake(2)]
    counts = {"answered": 0, "refused": 0, "late": 0, "failed": 0, "gone": 0}

    def slow(model: Fake, images: np.ndarray) -> np.ndarray:
        time.sleep(0.0005 * len(images))
        if (images[:, 0, 0, 0] == 13).any():
            raise RuntimeError("unlucky")
        return Fake.run(model, images)

    for model in models:
        # In the place of a method, which a test may.
        model.run = lambda images, model=model: slow(model, images)  # type: ignore[method-assign, misc]

    async def request(seed: int) -> None:
        generator = np.random.default_rng(seed)
        tasks = [
            (models[generator.integers(2)], pictures(*generator.integers(0, 99, 5).tolist()))
            for _ in range(generator.integers(1, 4))
        ]
        await asyncio.sleep(float(generator.uniform(0, 8)))
        gone = bool(generator.random() < 0.1)
        seconds = float(generator.choice([0.002, 0.02, 5]))
        try:
            answers = await answer(submit(engine, *tasks, seconds=seconds, gone=lambda: gone))
            for (model, images), rows in zip(tasks, answers, strict=True):
                assert rows == [[model.number, value] for value in images[:, 0, 0, 0].tolist()]
            outcome = "answered"
        except OverloadedError:
            outcome = "refused"
        except DeadlineError:
            outcome = "late"
        except GoneError:
            outcome = "gone"
        except RuntimeError:
            outcome = "failed"
        counts[outcome] += 1

    await asyncio.gather(*(request(seed) for seed in range(3000)))
    assert sum(counts.values()) == 3000
    assert min(counts.values()) > 0, counts
    await until(lambda: not engine._running)
    assert_at_rest(engine)
