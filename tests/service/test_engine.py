"""The engine: right answers in any company, bounded waiting, and no thread left behind.

Its models are stand-ins that say when they run, with which pictures and in which thread, and wait
to be let go; ``tests/service/test_operations.py`` runs it on real ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest

from service.engine import DeadlineError, Engine, OverloadedError
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


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def pictures(*values: int) -> np.ndarray:
    return np.array([np.full((32, 32, 3), value, np.uint8) for value in values])


def make_engine(**changes: Any) -> Engine:
    return Engine(**{"slots": 1, "max_batch": 8, "queue_images": 64, **changes})


def ask(engine: Engine, *tasks: tuple[Fake, np.ndarray], seconds: float = LIMIT) -> list[Any]:
    answers = engine.run(
        [(cast(Model, model), images) for model, images in tasks],
        deadline=time.monotonic() + seconds,
    )
    return [rows.tolist() for rows in answers]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def occupy(engine: Engine, pool: ThreadPoolExecutor, model: Fake) -> Future[Any]:
    """Have every slot taken by a run that lasts until ``model.go`` is set."""
    model.go.clear()
    running = pool.submit(ask, engine, (model, pictures(255)))
    wait_until(lambda: model.batches == [[255]])
    return running


def assert_at_rest(engine: Engine) -> None:
    """Every slot is free and nothing waits."""
    wait_until(lambda: engine._free == engine.slots)
    assert engine.waiting_images == 0
    assert not engine._waiting


def test_a_lone_request_runs_in_its_own_thread() -> None:
    engine, model = make_engine(), Fake()
    assert ask(engine, (model, pictures(7))) == [[[0, 7]]]
    assert model.threads == [threading.current_thread()]
    assert_at_rest(engine)


def test_what_waits_is_computed_together_and_nobody_gets_anothers_answer(
    pool: ThreadPoolExecutor,
) -> None:
    engine, model = make_engine(), Fake()
    running = occupy(engine, pool, model)
    waiting = []
    for value in range(6):
        waiting.append(pool.submit(ask, engine, (model, pictures(value))))
        wait_until(lambda: engine.waiting_images == len(waiting))
    model.go.set()
    assert running.result(LIMIT) == [[[0, 255]]]
    assert [each.result(LIMIT) for each in waiting] == [[[[0, value]]] for value in range(6)]
    assert model.batches == [[255], [0, 1, 2, 3, 4, 5]]
    assert_at_rest(engine)


def test_a_batch_counts_pictures_and_holds_one_model_alone(pool: ThreadPoolExecutor) -> None:
    engine, one, other = make_engine(max_batch=4), Fake(1), Fake(2)
    running = occupy(engine, pool, one)
    waiting = []
    for count, (model, values) in enumerate(
        [(one, (1, 2)), (other, (3,)), (one, (4, 5, 6)), (one, (7,)), (other, (8,))], 1
    ):
        waiting.append(pool.submit(ask, engine, (model, pictures(*values))))
        wait_until(lambda count=count: len(engine._waiting) == count)  # type: ignore[misc]
    one.go.set()
    for each in (running, *waiting):
        each.result(LIMIT)
    # The pair and the single fit; the three between them come next, not never.
    assert one.batches == [[255], [1, 2, 7], [4, 5, 6]]
    assert other.batches == [[3, 8]]
    assert_at_rest(engine)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_request_of_many_pictures_and_models_comes_back_in_order(
    slots: int, spread: bool
) -> None:
    engine = make_engine(slots=slots, max_batch=4, spread=spread)
    one, other = Fake(1), Fake(2)
    answers = ask(engine, (one, pictures(*range(11))), (other, pictures(5)), (one, pictures(9)))
    assert answers == [[[1, value] for value in range(11)], [[2, 5]], [[1, 9]]]
    assert max(len(batch) for batch in one.batches) <= 4
    assert_at_rest(engine)


def test_a_request_of_many_pictures_uses_every_free_slot(pool: ThreadPoolExecutor) -> None:
    engine, model = make_engine(slots=2, spread=True), Fake()
    model.go.clear()
    answer = pool.submit(ask, engine, (model, pictures(1, 2, 3, 4)))
    wait_until(lambda: len(model.batches) == 2)
    model.go.set()
    assert answer.result(LIMIT) == [[[0, value] for value in (1, 2, 3, 4)]]
    assert sorted(model.batches) == [[1, 2], [3, 4]]
    assert len(set(model.threads)) == 2
    assert_at_rest(engine)


def test_a_full_queue_refuses_at_once_and_serves_again(pool: ThreadPoolExecutor) -> None:
    engine, model = make_engine(queue_images=3), Fake()
    running = occupy(engine, pool, model)
    waiting = pool.submit(ask, engine, (model, pictures(1, 2)))
    wait_until(lambda: engine.waiting_images == 2)
    assert not engine.full
    started = time.monotonic()
    with pytest.raises(OverloadedError):
        ask(engine, (model, pictures(3, 4)))
    assert time.monotonic() - started < 0.05
    last = pool.submit(ask, engine, (model, pictures(3)))
    wait_until(lambda: engine.full)
    model.go.set()
    for each in (running, waiting, last):
        each.result(LIMIT)
    assert ask(engine, (model, pictures(6))) == [[[0, 6]]]
    assert_at_rest(engine)


def test_a_request_larger_than_the_queue_is_served_when_nothing_else_waits(
    pool: ThreadPoolExecutor,
) -> None:
    engine, model = make_engine(queue_images=3), Fake()
    running = occupy(engine, pool, model)
    large = pool.submit(ask, engine, (model, pictures(*range(20))))
    wait_until(lambda: engine.waiting_images == 20)
    model.go.set()
    assert running.result(LIMIT)
    assert large.result(LIMIT) == [[[0, value] for value in range(20)]]
    assert_at_rest(engine)


def test_what_passes_its_deadline_is_not_computed(pool: ThreadPoolExecutor) -> None:
    engine, model = make_engine(), Fake()
    running = occupy(engine, pool, model)
    late = pool.submit(ask, engine, (model, pictures(1)), seconds=0.05)
    wait_until(lambda: engine.waiting_images == 1)
    patient = pool.submit(ask, engine, (model, pictures(2)))
    with pytest.raises(DeadlineError):
        late.result(LIMIT)
    wait_until(lambda: engine.waiting_images == 1)
    model.go.set()
    assert running.result(LIMIT)
    assert patient.result(LIMIT) == [[[0, 2]]]
    assert model.batches == [[255], [2]]
    with pytest.raises(DeadlineError):
        ask(engine, (model, pictures(3)), seconds=-1)
    assert_at_rest(engine)


def test_the_observer_learns_that_what_passed_its_deadline_waits_no_more(
    pool: ThreadPoolExecutor,
) -> None:
    class Watcher:
        waits = 0

        def ran(self, *facts: object) -> None:
            pass

        def waiting(self, engine: Engine) -> None:
            self.waits = engine.waiting_images

    watcher, model = Watcher(), Fake()
    engine = make_engine(observer=watcher)
    running = occupy(engine, pool, model)
    late = pool.submit(ask, engine, (model, pictures(1)), seconds=0.05)
    wait_until(lambda: watcher.waits == 1)
    with pytest.raises(DeadlineError):
        late.result(LIMIT)
    assert watcher.waits == 0
    model.go.set()
    assert running.result(LIMIT)


def test_a_long_request_stops_at_its_deadline() -> None:
    engine = make_engine(max_batch=1)
    model = Fake()
    model.run = lambda images: (time.sleep(0.02), np.zeros((1, 2), np.float32))[1]  # type: ignore[method-assign]
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        ask(engine, (model, pictures(*range(200))), seconds=0.1)
    assert time.monotonic() - started < 2
    assert_at_rest(engine)


def test_a_run_that_fails_fails_its_own_requests_and_no_others(pool: ThreadPoolExecutor) -> None:
    engine, good, bad = make_engine(), Fake(1), Fake(2)
    running = occupy(engine, pool, good)
    bad.failing = RuntimeError("out of memory")
    waiting = []
    for count, model in enumerate([bad, good, bad, good], 1):
        waiting.append(pool.submit(ask, engine, (model, pictures(count))))
        wait_until(lambda count=count: engine.waiting_images == count)  # type: ignore[misc]
    good.go.set()
    assert running.result(LIMIT)
    for each in (waiting[0], waiting[2]):
        with pytest.raises(RuntimeError, match="out of memory"):
            each.result(LIMIT)
    assert [waiting[1].result(LIMIT), waiting[3].result(LIMIT)] == [[[[1, 2]]], [[[1, 4]]]]
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(engine, (bad, pictures(1)))
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(engine, (good, pictures(1)), (bad, pictures(1)))
    bad.failing = None
    assert ask(engine, (bad, pictures(9))) == [[[2, 9]]]
    assert_at_rest(engine)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_thousands_of_mixed_requests_equal_their_serial_answers(
    models_dir: Any, pool: ThreadPoolExecutor, slots: int
) -> None:
    repository = load_repository(models_dir, RuntimeOptions(threads=1))
    engine = make_engine(slots=slots, max_batch=8, queue_images=10_000, spread=True)
    stock = np.random.default_rng(3).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    expected = {variant: oracle(variant, stock) for variant in repository.models}
    models = {variant: repository.get(variant, 1) for variant in repository.models}

    def request(seed: int) -> None:
        generator = np.random.default_rng(seed)
        names = generator.choice(list(models), size=generator.integers(1, 3))
        parts = [generator.integers(0, 40, size=generator.choice([1, 1, 1, 2, 20])) for _ in names]
        tasks = [(models[name], stock[index]) for name, index in zip(names, parts, strict=True)]
        rows = engine.run(tasks, deadline=time.monotonic() + 60)
        for name, index, found in zip(names, parts, rows, strict=True):
            np.testing.assert_allclose(found, expected[name][index], atol=1e-5)

    for each in [pool.submit(request, seed) for seed in range(2000)]:
        each.result(60)
    assert_at_rest(engine)


def test_random_deadlines_and_failures_leave_nothing_behind(pool: ThreadPoolExecutor) -> None:
    engine = make_engine(slots=2, max_batch=4, queue_images=150, spread=True)
    models = [Fake(1), Fake(2)]
    counts = {"answered": 0, "refused": 0, "late": 0, "failed": 0}
    lock = threading.Lock()

    def slow(model: Fake, images: np.ndarray) -> np.ndarray:
        time.sleep(0.0005 * len(images))
        if (images[:, 0, 0, 0] == 13).any():
            raise RuntimeError("unlucky")
        return Fake.run(model, images)

    for model in models:
        model.run = lambda images, model=model: slow(model, images)  # type: ignore[method-assign, misc]

    def request(seed: int) -> None:
        generator = np.random.default_rng(seed)
        tasks = [
            (models[generator.integers(2)], pictures(*generator.integers(0, 99, 5).tolist()))
            for _ in range(generator.integers(1, 4))
        ]
        try:
            answers = ask(engine, *tasks, seconds=float(generator.choice([0.001, 0.02, 5])))
            for (model, images), rows in zip(tasks, answers, strict=True):
                assert rows == [[model.number, value] for value in images[:, 0, 0, 0].tolist()]
            outcome = "answered"
        except OverloadedError:
            outcome = "refused"
            time.sleep(0.005)
        except DeadlineError:
            outcome = "late"
        except RuntimeError:
            outcome = "failed"
        with lock:
            counts[outcome] += 1

    for each in [pool.submit(request, seed) for seed in range(3000)]:
        each.result(60)
    assert sum(counts.values()) == 3000
    assert min(counts.values()) > 0, counts
    assert_at_rest(engine)
