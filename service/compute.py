"""Computes a view's pictures: calls the engine, and turns its refusals into problems."""

from __future__ import annotations

from http import HTTPStatus

from service.engine import DeadlineError, GoneError, OverloadedError, Rows, Task
from service.gate import FULL, QUEUE_FULL, RETRY_AFTER
from service.http.bodies import HungUpError
from service.http.waiting import may_wait, wait
from service.http.wsgi import GONE
from service.messages import current
from service.problems import Problem, Refusals
from service.state import engine, settings

NOT_COMPUTED: Refusals = {
    **QUEUE_FULL,
    HTTPStatus.GATEWAY_TIMEOUT: "no answer within {deadline_seconds} seconds",
}

NOT_DONE = (OverloadedError, DeadlineError, GoneError)
"""What the engine refuses with, and the decoding of large pictures."""


def compute(*tasks: Task) -> list[Rows]:
    """Probabilities, float32 [N, classes], of each task: a model and uint8 [N, 32, 32, 3].

    Raises ``Problem`` 503 where the queue is full and 504 where the deadline has passed, counted
    from the request's arrival (``Request.started``), and ``HungUpError``.
    """
    seconds, request = settings().deadline_seconds, current()
    deadline = request.started + seconds
    try:
        if not may_wait():
            return engine().run(tasks, deadline=deadline)
        gone = request.environ[GONE]
        return wait(engine().submit(tasks, deadline=deadline, gone=gone))
    except NOT_DONE as error:
        raise refusal(error, seconds) from None


def refusal(error: Exception, seconds: int) -> Problem | HungUpError:
    """What one of ``NOT_DONE`` is to a view, within a deadline of ``seconds``."""
    if isinstance(error, OverloadedError):
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, FULL, headers={"Retry-After": RETRY_AFTER})
    if isinstance(error, DeadlineError):
        return Problem(
            HTTPStatus.GATEWAY_TIMEOUT, f"no answer within the {seconds} seconds allowed"
        )
    return HungUpError()
