"""What others notice of clients that are slow, idle, rude or hasty: next to nothing.

Their p99 is compared with what it was on the same server a moment before.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.service.clients import ask_politely
from tests.service.test_server import Running, started, wait_until_alive
from tests.service.trouble import (
    eight_at_a_time,
    hang_ups,
    idle_connections,
    one_byte_a_second,
    pipelines,
    stalled_uploads,
)

Trouble = Callable[[Running], AbstractContextManager[None]]

ROUNDS = 5
MOST_ROUNDS = 15
"""Where the machine is too noisy for a verdict after ``ROUNDS``."""

QUESTIONS = 150
"""Of each asker in each round."""


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Running]:
    with started(models_dir, WEB_CONCURRENCY="2", LOG_LEVEL="error") as running:
        wait_until_alive(running)
        yield running


def p99(server: Running) -> float:
    """Of well-behaved clients, in milliseconds, once what has just begun or ended is over."""
    ask_politely(server, QUESTIONS // 3)
    taken = ask_politely(server, QUESTIONS)
    return sorted(taken)[-len(taken) // 100] * 1e3


@pytest.mark.parametrize(
    ("trouble", "instead"),
    [
        (one_byte_a_second, None),
        (stalled_uploads, None),
        (idle_connections, None),
        (hang_ups, None),
        # Its requests are to be answered, and as many take their time from anybody else.
        (pipelines, eight_at_a_time),
    ],
)
def test_others_hardly_notice(server: Running, trouble: Trouble, instead: Trouble | None) -> None:
    quiet: list[float] = []
    troubled: list[float] = []
    while len(quiet) < MOST_ROUNDS:
        with instead(server) if instead else contextlib.nullcontext():
            quiet.append(p99(server))
        with trouble(server):
            troubled.append(p99(server))
        before, meanwhile = statistics.median(quiet), statistics.median(troubled)
        if len(quiet) >= ROUNDS and meanwhile <= 2 * before:
            break
    print(f"{trouble.__name__}: p99 {before:.1f} ms before, {meanwhile:.1f} ms meanwhile")
    assert meanwhile <= 2 * before, (quiet, troubled)
