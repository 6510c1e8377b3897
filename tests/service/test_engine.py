"""The engine: right answers in any company, and what is computed together, where and when.

Its models are stand-ins (``tests.service.engines``); ``tests/service/test_operations.py`` runs it
on real ones.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import cast

import pytest

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
