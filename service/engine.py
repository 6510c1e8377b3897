"""The engine: which pictures are computed together, and when.

    engine = Engine(max_batch=16, queue_images=64)
    call = engine.submit([(model, images)], deadline=time.monotonic() + 10)
    (rows,) = wait(call)                 # service.http.waiting; or call.add_done_callback
    engine.full                          # whether another picture would be refused

In: pairs of a model and its pictures, uint8 [N, 32, 32, 3]. Out, in the same order: probabilities,
float32 [N, classes]. One engine serves every model of a process, in the thread of its event loop.

Batching is greedy: whenever a run ends, the next one takes everything that waits for the same
model as the picture that has waited longest, up to ``max_batch`` pictures. There is no timer. On a
CPU the loop itself runs the model: every request that has come in by then is decoded and waits, so
that a batch forms under load and a lone request pays for no hand-over. Between two runs the loop
answers and reads. On a GPU ``threads`` run at a time, while the loop prepares the next batch.

A request has at most ``max_batch`` pictures in the queue at a time; the rest of a larger request
follow as these are taken, behind requests that came in the meantime.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.models.model import Model

Images = NDArray[np.uint8]
Rows = NDArray[np.float32]
Task = tuple[Model, Images]

SWEEP_SECONDS = 0.25
"""How often deadlines are looked at while runs go on in threads."""


class OverloadedError(Exception):
    """The queue has no room for the request's pictures; nothing was computed."""


class DeadlineError(Exception):
    """The answer was not there in time; what had not been started is not computed."""


class GoneError(Exception):
    """Whoever asked has hung up; what had not been started is not computed."""


class Observer(Protocol):
    """Is told what the engine does."""

    def ran(self, model: Model, images: int, waited: Sequence[float], seconds: float) -> None:
        """A run: its pictures, the seconds that each of its parts waited, and its own."""

    def waiting(self, engine: Engine) -> None:
        """``engine.waiting_images`` may have changed."""


class Call:
    """One request's pictures on their way."""

    __slots__ = ("_callback", "_error", "behind", "deadline", "gone", "parts", "pending", "waiting")

    def __init__(self, deadline: float, gone: Callable[[], bool]) -> None:
        self.deadline = deadline
        self.gone = gone
        self.parts: list[list[_Part]] = []
        self.pending = 0
        self.waiting = 0  # of its pictures, in the queue
        self.behind: deque[_Part] = deque()  # those that come into the queue after them
        self._error: BaseException | None = None
        self._callback: Callable[[Any], Any] | None = None

    def done(self) -> bool:
        """Whether ``result`` has something to say."""
        return self.pending == 0 or self._error is not None

    def add_done_callback(self, callback: Callable[[Any], Any], /) -> None:
        """Have ``callback`` called when the call is done; there is room for one."""
        self._callback = callback

    def result(self) -> list[Rows]:
        """The rows of every task. Raises what the call failed with."""
        if self._error is not None:
            raise self._error
        return [_joined([part.rows for part in each]) for each in self.parts]

    def end(self) -> None:
        """Wake whoever waits."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(self)

    def fail(self, error: BaseException) -> None:
        """End with ``error``, unless it is over already."""
        if not self.done():
            self._error = error
            while self.behind:
                self.behind.popleft().leave()
            self.end()


class _Part:
    """What one run computes of a task; ``rows`` is its answer."""

    __slots__ = ("call", "images", "model", "rows", "since")

    def __init__(self, call: Call, model: Model, images: Images) -> None:
        self.call = call
        self.model = model
        self.images = images
        self.rows: Rows
        self.since: float  # in the queue

    def leave(self) -> Call:
        """The call, which this part then no longer knows: together they would be garbage."""
        call = self.call
        del self.call
        return call


def never() -> bool:
    """Whether a client has hung up of whom nothing is known: it counts as still there."""
    return False


class Engine:
    """Runs pictures in greedy batches; see the module's docstring.

    ``threads`` is how many runs go on beside the event loop, 0 where the loop runs them itself.
    ``failed`` is told of every run that raises, with its model.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        queue_images: int,
        threads: int = 0,
        observer: Observer | None = None,
        failed: Callable[[Model, Exception], None] = lambda *_: None,
    ) -> None:
        self.max_batch = max_batch
        self.queue_images = queue_images
        self.waiting_images = 0
        self._waiting: deque[_Part] = deque()
        self._running: list[list[_Part]] = []
        self._slots = threads or 1
        self._pool = ThreadPoolExecutor(threads, "run") if threads else None
        self._pumping = self._sweeping = False
        self._observer = observer
        self._failed = failed

    @property
    def full(self) -> bool:
        """Whether no picture more may wait."""
        return self.waiting_images >= self.queue_images

    def submit(
        self, tasks: Sequence[Task], *, deadline: float, gone: Callable[[], bool] = never
    ) -> Call:
        """Have every task computed by ``deadline``, a moment of ``time.monotonic()``.

        ``gone`` is asked before each run whether the answer is of use to nobody any more. Raises
        ``OverloadedError`` where the queue has no room for what of the call waits there at first,
        and ``DeadlineError``; the call fails with ``DeadlineError``, ``GoneError`` or whatever the
        model raises. Call it in the event loop's thread.
        """
        self._admit(tasks, deadline)
        call = Call(deadline, gone)
        for model, images in tasks:
            starts = range(0, len(images), self.max_batch)
            parts = [_Part(call, model, images[i : i + self.max_batch]) for i in starts]
            call.parts.append(parts)
            call.pending += len(parts)
            call.behind.extend(parts)
        self._enqueue(call)
        self._pump_soon()
        if not self._pumping:  # every thread is busy: these will wait for a while
            self._observe_queue()
        return call

    def run(self, tasks: Sequence[Task], *, deadline: float) -> list[Rows]:
        """Compute every task here and now, in any thread; for callers without an event loop.

        Raises as ``submit`` does.
        """
        self._admit(tasks, deadline)
        answers = []
        for model, images in tasks:
            starts = range(0, len(images), self.max_batch)
            rows = []
            for start in starts:
                if time.monotonic() > deadline:
                    raise DeadlineError
                part = images[start : start + self.max_batch]
                begun = time.perf_counter()
                try:
                    rows.append(model.run(part))
                except Exception as error:
                    self._failed(model, error)
                    raise
                self._observe(model, len(part), (0.0,), time.perf_counter() - begun)
            answers.append(_joined(rows))
        return answers

    def _admit(self, tasks: Sequence[Task], deadline: float) -> None:
        """Raise where ``tasks`` may not wait. Where nothing waits, anything may."""
        if time.monotonic() > deadline:
            raise DeadlineError
        count = min(sum(len(images) for _, images in tasks), self.max_batch)
        if self.waiting_images and self.waiting_images + count > self.queue_images:
            raise OverloadedError

    def _enqueue(self, call: Call) -> None:
        """Have as much of the call wait as may at a time: ``max_batch`` pictures.

        What comes behind them comes behind all others' too, so that a large request slows the small
        ones by no more than their share, and does not fill the queue.
        """
        while call.behind and call.waiting + len(call.behind[0].images) <= self.max_batch:
            part = call.behind.popleft()
            part.since = time.perf_counter()
            self._waiting.append(part)
            call.waiting += len(part.images)
            self.waiting_images += len(part.images)

    def _pump_soon(self) -> None:
        """Take a batch once the loop has seen to all that has come in by now."""
        if not self._pumping and self._waiting and len(self._running) < self._slots:
            self._pumping = True
            # Two turns, and so one look at the sockets between them: who was answered by the last
            # run may have asked again.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        self._drop_the_dead()
        if not self._waiting:
            return
        batch = self._take_batch()
        self._observe_queue()
        self._running.append(batch)
        begun = time.perf_counter()
        waited = [begun - part.since for part in batch]
        model, images = batch[0].model, _joined([part.images for part in batch])
        if self._pool is None:
            self._ended(batch, waited, *_run(model, images))
            return
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, _run, model, images)
        future.add_done_callback(lambda done: self._ended(batch, waited, *done.result()))
        self._sweep_later(loop)
        self._pump_soon()

    def _take_batch(self) -> list[_Part]:
        """Take from the queue its first part, and what fits of the same model's behind it."""
        model, room = self._waiting[0].model, self.max_batch
        batch: list[_Part] = []
        rest: deque[_Part] = deque()
        for part in self._waiting:
            if part.model is model and len(part.images) <= room:
                batch.append(part)
                room -= len(part.images)
            else:
                rest.append(part)
        self._waiting = rest
        self.waiting_images -= self.max_batch - room
        for part in batch:
            part.call.waiting -= len(part.images)
            self._enqueue(part.call)
        return batch

    def _ended(
        self, batch: list[_Part], waited: list[float], outcome: Rows | Exception, seconds: float
    ) -> None:
        """Give every part its rows, or every call the error, and go on."""
        self._running.remove(batch)
        self._pump_soon()
        if isinstance(outcome, Exception):
            for part in batch:
                part.leave().fail(outcome)
            self._failed(batch[0].model, outcome)
            return
        self._observe(batch[0].model, len(outcome), waited, seconds)
        start = 0
        for part in batch:
            part.rows = outcome[start : start + len(part.images)]
            start += len(part.images)
            call = part.leave()
            call.pending -= 1
            if call.pending == 0:
                call.end()

    def _observe(self, model: Model, images: int, waited: Sequence[float], seconds: float) -> None:
        if self._observer is not None:
            self._observer.ran(model, images, waited, seconds)

    def _observe_queue(self) -> None:
        if self._observer is not None:
            self._observer.waiting(self)

    def _drop_the_dead(self) -> None:
        """Fail what is late or of no use, and take it out of the queue."""
        now = time.monotonic()
        for part in list(self._waiting):
            call = part.call
            if call.gone():
                call.fail(GoneError())
            elif now > call.deadline:
                call.fail(DeadlineError())
        dead = [part for part in self._waiting if part.call.done()]
        if dead:
            self._waiting = deque(part for part in self._waiting if not part.call.done())
            self.waiting_images = sum(len(part.images) for part in self._waiting)
            for part in dead:
                part.leave()
            self._observe_queue()

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        """A run that hangs in its thread must not keep anybody waiting beyond the deadline."""
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        self._drop_the_dead()
        now = time.monotonic()
        for part in [part for batch in self._running for part in batch]:
            if now > part.call.deadline:
                part.call.fail(GoneError() if part.call.gone() else DeadlineError())
        if self._running:
            self._sweep_later(asyncio.get_running_loop())


def _run(model: Model, images: Images) -> tuple[Rows | Exception, float]:
    """The rows, or what the model raised, and the seconds that it took."""
    begun = time.perf_counter()
    try:
        outcome: Rows | Exception = model.run(images)
    except Exception as error:
        outcome = error
    return outcome, time.perf_counter() - begun


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
