"""The engine: which pictures are computed together, by whom and when.

    engine = Engine(slots=2, max_batch=32, queue_images=64, spread=True)
    (rows,) = engine.run([(model, images)], deadline=time.monotonic() + 10)
    engine.full                          # whether another picture would be refused

In: pairs of a model and its pictures, uint8 [N, 32, 32, 3]. Out, in the same order: probabilities,
float32 [N, classes]. One engine serves every model of a process, from any number of threads.

Batching is greedy. At most ``slots`` runs go on at a time. A request that finds a slot free runs
in its own thread, at once: alone, it pays for no queue and no hand-over. Otherwise its pictures
wait. Who ends a run passes the slot to the thread that has waited longest; that thread takes
everything that waits for the same model, up to ``max_batch`` pictures, runs it, and wakes the
others with their answers. So there is no timer, nobody waits for a batch to fill, and no request
costs more than one waking of one thread.

A request of several runs (many pictures, several models) is spread over the slots that are free.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.repository import Model

Images = NDArray[np.uint8]
Rows = NDArray[np.float32]
Task = tuple[Model, Images]


class OverloadedError(Exception):
    """The queue has no room for the request's pictures; nothing was computed."""


class DeadlineError(Exception):
    """The answer was not there in time; what had not been started is not computed."""


class Observer(Protocol):
    """Is told what the engine does, in any thread and outside the engine's mutex."""

    def ran(self, model: Model, images: int, waited: Sequence[float], seconds: float) -> None:
        """A run: its pictures, the seconds that each of its parts waited, and its own."""

    def waiting(self, engine: Engine) -> None:
        """``engine.waiting_images`` has changed."""


class _Call:
    """One request. All fields belong to the engine's mutex, but for ``wake``.

    A thread sleeps on ``wake`` only with ``asleep`` set, and is woken once, by whoever clears it:
    because its answer is there, or because it is given a slot (``leads``).
    """

    __slots__ = ("asleep", "deadline", "error", "leads", "pending", "wake")

    def __init__(self, pending: int, deadline: float) -> None:
        self.pending = pending
        self.deadline = deadline
        self.error: BaseException | None = None
        self.leads = False
        self.asleep = False
        self.wake = threading.Lock()
        self.wake.acquire()

    @property
    def over(self) -> bool:
        return self.pending == 0 or self.error is not None


class _Part:
    """What one run computes of a task; ``rows`` is its answer."""

    __slots__ = ("call", "images", "model", "rows", "since")

    def __init__(self, call: _Call, model: Model, images: Images) -> None:
        self.call = call
        self.model = model
        self.images = images
        self.rows: Rows | None = None
        self.since = time.perf_counter()


class Engine:
    """Runs pictures in greedy batches; see the module's docstring.

    ``spread`` cuts a request of many pictures into one part a slot, for slots that are CPUs.
    """

    def __init__(
        self,
        *,
        slots: int,
        max_batch: int,
        queue_images: int,
        spread: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.slots = slots
        self.max_batch = max_batch
        self.queue_images = queue_images
        self.waiting_images = 0
        self._cuts = slots if spread else 1
        self._free = slots
        self._waiting: deque[_Part] = deque()
        self._mutex = threading.Lock()
        self._observer = observer

    @property
    def full(self) -> bool:
        """Whether no picture more may wait."""
        return self.waiting_images >= self.queue_images

    def run(self, tasks: Sequence[Task], *, deadline: float) -> list[Rows]:
        """Compute every task; ``deadline`` is a moment of ``time.monotonic()``.

        Raises ``OverloadedError`` at once where the pictures must wait and the queue has no room
        (what is larger than the whole queue may wait there alone), ``DeadlineError``, and
        whatever the model raises.
        """
        if time.monotonic() > deadline:
            raise DeadlineError
        if len(tasks) == 1 and len(tasks[0][1]) == 1 and self._take_slot():
            ((model, images),) = tasks
            try:
                return [self._run_model(model, images, (0.0,))]
            finally:
                with self._mutex:
                    self._pass_on()
        return self._run_parts(tasks, deadline)

    def _run_parts(self, tasks: Sequence[Task], deadline: float) -> list[Rows]:
        sizes = [min(self.max_batch, -(-len(images) // self._cuts)) for _, images in tasks]
        starts = [
            range(0, len(images), size) for size, (_, images) in zip(sizes, tasks, strict=True)
        ]
        call = _Call(sum(map(len, starts)), deadline)
        parts = [
            [_Part(call, model, images[start : start + each.step]) for start in each]
            for each, (model, images) in zip(starts, tasks, strict=True)
        ]
        self._enqueue(call, [part for each in parts for part in each])
        while call.leads or not call.over:
            if call.leads:
                self._lead(call)
            elif not call.wake.acquire(timeout=max(0.0, deadline - time.monotonic())):
                self._abandon(call)
        if call.error is not None:
            if self._observer is not None:
                self._observer.waiting(self)
            raise call.error
        return [_joined([part.rows for part in each if part.rows is not None]) for each in parts]

    def _enqueue(self, call: _Call, parts: list[_Part]) -> None:
        """Let ``parts`` wait, and take for them as many free slots as can be used."""
        count = sum(len(part.images) for part in parts)
        with self._mutex:
            if (
                not self._free
                and self.waiting_images
                and self.waiting_images + count > self.queue_images
            ):
                raise OverloadedError
            self._waiting.extend(parts)
            self.waiting_images += count
            taken = min(self._free, len(parts))
            self._free -= taken
            call.leads = taken > 0
            call.asleep = not call.leads
        if self._observer is not None:
            self._observer.waiting(self)
        for _ in range(taken - 1):
            threading.Thread(target=self._lead, daemon=True).start()

    def _lead(self, call: _Call | None = None) -> None:
        """Use the slot that this thread holds; ``call`` is its own, None for a helper.

        Runs one batch after the other while the own call is not over, or, for a helper, while no
        other thread can be given the slot.
        """
        while True:
            with self._mutex:
                if call is None or call.over:
                    if call is not None or self._heir() is not None or not self._waiting:
                        self._pass_on()
                        break
                elif time.monotonic() > call.deadline:
                    self._fail(call, DeadlineError())
                    continue
                elif not self._waiting:  # the rest of the call runs in other threads
                    call.asleep = True
                    call.leads = False
                    self._free += 1
                    return
                batch = self._take_batch()
            self._compute(batch)
        if call is not None:
            call.leads = False

    def _take_slot(self) -> bool:
        with self._mutex:
            if not self._free:
                return False
            self._free -= 1
            return True

    def _pass_on(self) -> None:
        """Give the slot that this thread holds to the thread that has waited longest."""
        heir = self._heir()
        if heir is None:
            self._free += 1
        else:
            heir.leads = True
            self._rouse(heir)

    def _heir(self) -> _Call | None:
        return next((part.call for part in self._waiting if part.call.asleep), None)

    def _take_batch(self) -> list[_Part]:
        """Take from the queue its first part, and what fits of the same model's behind it.

        Two parts of one call stay apart: they were cut to run side by side.
        """
        model, room = self._waiting[0].model, self.max_batch
        calls: set[_Call] = set()
        batch: list[_Part] = []
        rest: deque[_Part] = deque()
        for part in self._waiting:
            if part.model is model and len(part.images) <= room and part.call not in calls:
                batch.append(part)
                calls.add(part.call)
                room -= len(part.images)
            else:
                rest.append(part)
        self._waiting = rest
        self.waiting_images -= self.max_batch - room
        return batch

    def _compute(self, batch: list[_Part]) -> None:
        """Run ``batch`` and give every part its rows, or every call the error."""
        try:
            now = time.perf_counter()
            waited = [now - part.since for part in batch]
            images = _joined([part.images for part in batch])
            rows = self._run_model(batch[0].model, images, waited)
        except BaseException as error:
            with self._mutex:
                for part in batch:
                    self._fail(part.call, error)
            return
        start = 0
        with self._mutex:
            for part in batch:
                part.rows = rows[start : start + len(part.images)]
                start += len(part.images)
                part.call.pending -= 1
                if part.call.over:
                    self._rouse(part.call)

    def _run_model(self, model: Model, images: Images, waited: Sequence[float]) -> Rows:
        """Run ``model``, and tell the observer."""
        if self._observer is None:
            return model.run(images)
        started = time.perf_counter()
        rows = model.run(images)
        self._observer.ran(model, len(images), waited, time.perf_counter() - started)
        self._observer.waiting(self)
        return rows

    def _abandon(self, call: _Call) -> None:
        """The deadline has passed, unless somebody has just woken the call."""
        with self._mutex:
            if call.asleep:
                self._fail(call, DeadlineError())
        call.wake.acquire()

    def _fail(self, call: _Call, error: BaseException) -> None:
        """End ``call`` with ``error``, and compute no more of it."""
        if call.error is None:
            call.error = error
        for part in [part for part in self._waiting if part.call is call]:
            self._waiting.remove(part)
            self.waiting_images -= len(part.images)
        self._rouse(call)

    def _rouse(self, call: _Call) -> None:
        if call.asleep:
            call.asleep = False
            call.wake.release()


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
