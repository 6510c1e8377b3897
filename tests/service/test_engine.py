"""The engine: right answers in any company, bounded waiting, and nothing left behind.

Its models are stand-ins that say when they run, with which pictures and in which thread, and wait
to be let go; ``tests/service/test_operations.py`` runs it on real ones.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
import pytest

from service.engine import Call, DeadlineError, Engine, GoneError, OverloadedError
from service.repository import Model, load_repository
from service.runtime import RuntimeOptions
from tests.service.tiny import oracle

LIMIT = 10.0
"""Seconds after which a test has failed rather than hung."""


class Fake:
    """A model whose row for a picture is (its own number, the picture's first byte)."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
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
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 60))  # type: ignore[arg-type]

    return run


def pictures(*values: int) -> np.ndarray:
    return np.array([np.full((32, 32, 3), value, np.uint8) for value in values])


def make_engine(**changes: Any) -> Engine:
    return Engine(**{"max_batch": 8, "queue_images": 64, **changes})


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


@looped
async def test_the_loop_itself_computes_all_that_has_come_in_by_then() -> None:
    engine, model = make_engine(), Fake()
    calls = [submit(engine, (model, pictures(value))) for value in range(6)]
    assert model.batches == []  # whoever else is ready may still join
    assert [await answer(call) for call in calls] == [[[[0, value]]] for value in range(6)]
    assert model.batches == [[0, 1, 2, 3, 4, 5]]
    assert model.threads == [threading.main_thread()]
    assert_at_rest(engine)


@looped
async def test_the_loop_turns_between_two_runs() -> None:
    engine, model = make_engine(max_batch=1), Fake()
    call = submit(engine, (model, pictures(*range(5))))
    turns = 0
    while not call.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 5
    assert model.batches == [[0], [1], [2], [3], [4]]


@looped
async def test_what_waits_for_a_thread_is_computed_together() -> None:
    engine, model = make_engine(threads=1), Fake()
    calls = [await occupy(engine, model)]
    calls += [submit(engine, (model, pictures(value))) for value in range(6)]
    await asyncio.sleep(0.01)
    assert model.batches == [[255]]
    model.go.set()
    expected = [[[[0, value]]] for value in (255, 0, 1, 2, 3, 4, 5)]
    assert [await answer(call) for call in calls] == expected
    assert model.batches == [[255], [0, 1, 2, 3, 4, 5]]
    assert threading.main_thread() not in model.threads
    assert_at_rest(engine)


@looped
async def test_a_batch_counts_pictures_and_holds_one_model_alone() -> None:
    engine, one, other = make_engine(max_batch=4), Fake(1), Fake(2)
    calls = [
        submit(engine, (model, pictures(*values)))
        for model, values in [
            *((one, (1, 2)), (other, (3,)), (one, (4, 5, 6)), (one, (7,)), (other, (8,))),
        ]
    ]
    for call in calls:
        await answer(call)
    # The pair and the single fit; the three between them come next, not never.
    assert one.batches == [[1, 2, 7], [4, 5, 6]]
    assert other.batches == [[3, 8]]
    assert_at_rest(engine)


@pytest.mark.parametrize("threads", [0, 1, 3])
@looped
async def test_a_request_of_many_pictures_and_models_comes_back_in_order(threads: int) -> None:
    engine = make_engine(threads=threads, max_batch=4)
    one, other = Fake(1), Fake(2)
    tasks = (one, pictures(*range(11))), (other, pictures(5)), (one, pictures(9))
    expected = [[[1, value] for value in range(11)], [[2, 5]], [[1, 9]]]
    assert await answer(submit(engine, *tasks)) == expected
    assert max(len(batch) for batch in one.batches) <= 4
    assert_at_rest(engine)
    models = [(cast(Model, model), images) for model, images in tasks]
    here = engine.run(models, deadline=time.monotonic() + LIMIT)
    assert [rows.tolist() for rows in here] == expected


@looped
async def test_a_request_of_many_pictures_uses_every_free_thread() -> None:
    engine, model = make_engine(threads=2, max_batch=2), Fake()
    model.go.clear()
    call = submit(engine, (model, pictures(1, 2, 3, 4)))
    await until(lambda: len(model.batches) == 2)
    model.go.set()
    assert await answer(call) == [[[0, value] for value in (1, 2, 3, 4)]]
    assert sorted(model.batches) == [[1, 2], [3, 4]]
    assert len(set(model.threads)) == 2
    assert_at_rest(engine)


@pytest.mark.parametrize("threads", [0, 1])
@looped
async def test_a_full_queue_refuses_at_once_and_serves_again(threads: int) -> None:
    engine, model = make_engine(threads=threads, queue_images=3), Fake()
    calls = [await occupy(engine, model)] if threads else []
    calls.append(submit(engine, (model, pictures(1, 2))))
    assert not engine.full
    with pytest.raises(OverloadedError):
        submit(engine, (model, pictures(3, 4)))
    with pytest.raises(OverloadedError):
        engine.run([(cast(Model, model), pictures(3, 4))], deadline=time.monotonic() + LIMIT)
    calls.append(submit(engine, (model, pictures(3))))
    assert engine.full
    model.go.set()
    for call in calls:
        await answer(call)
    assert await answer(submit(engine, (model, pictures(6)))) == [[[0, 6]]]
    assert_at_rest(engine)


@looped
async def test_a_request_larger_than_the_queue_is_served_when_nothing_else_waits() -> None:
    engine, model = make_engine(queue_images=3), Fake()
    call = submit(engine, (model, pictures(*range(20))))
    assert await answer(call) == [[[0, value] for value in range(20)]]
    assert_at_rest(engine)


@pytest.mark.parametrize("threads", [0, 1])
@looped
async def test_what_passes_its_deadline_is_not_computed(threads: int) -> None:
    engine, model = make_engine(threads=threads), Fake()
    calls = [await occupy(engine, model)] if threads else []
    late = submit(engine, (model, pictures(1)), seconds=0.05)
    calls.append(submit(engine, (model, pictures(2))))
    if not threads:
        time.sleep(0.1)  # the loop is busy elsewhere
    with pytest.raises(DeadlineError):
        await answer(late)
    model.go.set()
    for call in calls:
        await answer(call)
    assert model.batches[-1] == [2]
    with pytest.raises(DeadlineError):
        submit(engine, (model, pictures(3)), seconds=-1)
    assert_at_rest(engine)


@looped
async def test_a_run_that_hangs_keeps_nobody_beyond_the_deadline() -> None:
    engine, model = make_engine(threads=1), Fake()
    model.go.clear()
    hanging = submit(engine, (model, pictures(1)), seconds=0.05)
    await until(lambda: model.batches == [[1]])
    waiting = submit(engine, (model, pictures(2)), seconds=0.05)
    for call in (hanging, waiting):
        with pytest.raises(DeadlineError):
            await answer(call)
    model.go.set()
    await until(lambda: not engine._running)
    assert model.batches == [[1]]
    assert_at_rest(engine)


@pytest.mark.parametrize("threads", [0, 1])
@looped
async def test_what_nobody_waits_for_any_more_is_not_computed(threads: int) -> None:
    engine, model = make_engine(threads=threads), Fake()
    calls = [await occupy(engine, model)] if threads else []
    gone = [submit(engine, (model, pictures(value)), gone=lambda: True) for value in (1, 2)]
    calls.append(submit(engine, (model, pictures(3)), gone=lambda: False))
    model.go.set()
    for call in calls:
        await answer(call)
    for call in gone:
        with pytest.raises(GoneError):
            await answer(call)
    assert model.batches[-1] == [3]
    assert_at_rest(engine)


@looped
async def test_a_long_request_stops_at_its_deadline() -> None:
    engine = make_engine(max_batch=1)
    model = Fake()
    model.run = lambda images: (time.sleep(0.02), np.zeros((1, 2), np.float32))[1]  # type: ignore[method-assign]
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        await answer(submit(engine, (model, pictures(*range(200))), seconds=0.1))
    here = [(cast(Model, model), pictures(*range(200)))]
    with pytest.raises(DeadlineError):
        engine.run(here, deadline=time.monotonic() + 0.1)
    assert time.monotonic() - started < 2
    assert_at_rest(engine)


@pytest.mark.parametrize("threads", [0, 1])
@looped
async def test_a_run_that_fails_fails_its_own_requests_and_no_others(threads: int) -> None:
    engine, good, bad = make_engine(threads=threads), Fake(1), Fake(2)
    bad.failing = RuntimeError("out of memory")
    calls = [
        submit(engine, (model, pictures(count)))
        for count, model in enumerate([bad, good, bad, good], 1)
    ]
    calls.append(submit(engine, (good, pictures(1)), (bad, pictures(1))))
    for call in (calls[0], calls[2], calls[4]):
        with pytest.raises(RuntimeError, match="out of memory"):
            await answer(call)
    assert [await answer(calls[1]), await answer(calls[3])] == [[[[1, 2]]], [[[1, 4]]]]
    bad.failing = None
    assert await answer(submit(engine, (bad, pictures(9)))) == [[[2, 9]]]
    assert_at_rest(engine)


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
    engine = make_engine(threads=threads, max_batch=4, queue_images=150)
    models = [Fake(1), Fake(2)]
    counts = {"answered": 0, "refused": 0, "late": 0, "failed": 0, "gone": 0}

    def slow(model: Fake, images: np.ndarray) -> np.ndarray:
        time.sleep(0.0005 * len(images))
        if (images[:, 0, 0, 0] == 13).any():
            raise RuntimeError("unlucky")
        return Fake.run(model, images)

    for model in models:
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
