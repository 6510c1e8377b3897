"""The engine's limits: how many may wait, for how long, and for whom."""

from __future__ import annotations

import time
from typing import cast

import numpy as np
import pytest

from service.engine import DeadlineError, GoneError, OverloadedError
from service.models.model import Model
from tests.service.engines import (
    LIMIT,
    Fake,
    answer,
    assert_at_rest,
    looped,
    make_engine,
    occupy,
    pictures,
    submit,
    until,
)


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


@looped
async def test_large_requests_leave_the_queue_and_their_turn_to_small_ones() -> None:
    engine, model, other = make_engine(max_batch=4, queue_images=12), Fake(), Fake(1)
    large = [
        submit(engine, (model, pictures(*range(30))), (other, pictures(*range(30))))
        for _ in range(2)
    ]
    assert engine.waiting_images == 8
    small = submit(engine, (model, pictures(100)))
    assert await answer(small) == [[[0, 100]]]
    assert model.batches[:3] == [[0, 1, 2, 3], [0, 1, 2, 3], [100]]
    assert not any(call.done() for call in large)
    for call in large:
        assert await answer(call) == [[[n, value] for value in range(30)] for n in (0, 1)]
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
    hanging = submit(engine, (model, pictures(1)), seconds=1)
    await until(lambda: model.batches == [[1]])
    waiting = submit(engine, (model, pictures(2)), seconds=1)
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
    # In the place of a method, which a test may.
    model.run = lambda images: (time.sleep(0.02), np.zeros((1, 2), np.float32))[1]  # type: ignore[method-assign]
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        await answer(submit(engine, (model, pictures(*range(200))), seconds=0.1))
    here = [(cast(Model, model), pictures(*range(200)))]
    with pytest.raises(DeadlineError):
        engine.run(here, deadline=time.monotonic() + 0.1)
    assert time.monotonic() - started < 2
    assert_at_rest(engine)
