"""The journal: what has happened is told soon, in its order, once, and to whom it concerns."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from service.journal import DELAY, Journal
from tests.service.test_server import DEADLINE


def test_entries_are_told_in_their_order_to_whom_they_are_for_and_once() -> None:
    journal, told = Journal(), {"a": list[int](), "b": list[int]()}
    a, b = told["a"].extend, told["b"].extend
    for number in range(10):
        journal.add(b if number % 3 == 0 else a, number)
    journal.flush()
    journal.flush()
    assert told == {"a": [1, 2, 4, 5, 7, 8], "b": [0, 3, 6, 9]}


def test_what_is_added_is_told_without_being_asked_for() -> None:
    journal, told = Journal(), threading.Event()
    journal.add(lambda _: told.set(), 1)
    assert told.wait(DEADLINE)


def test_many_are_told_at_once() -> None:
    journal, calls = Journal(), list[int]()

    def read(entries: list[int]) -> None:
        calls.append(len(entries))

    end = time.monotonic() + 5 * DELAY
    while time.monotonic() < end:
        journal.add(read, 0)
        time.sleep(DELAY / 100)
    journal.flush()
    assert len(calls) <= 10
    assert sum(calls) > 10 * len(calls)


def test_a_reader_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    journal, told = Journal(), list[int]()

    def fail(_: list[int]) -> None:
        raise OSError("the disk is full")

    journal.add(fail, 1)
    journal.add(told.extend, 2)
    journal.flush()
    assert told == [2]
    assert "the disk is full" in caplog.text
    again = threading.Event()
    journal.add(fail, 3)
    journal.add(lambda _: again.set(), 4)
    assert again.wait(DEADLINE)


def test_while_it_is_at_rest_nothing_is_told() -> None:
    journal, told = Journal(), list[int]()
    journal.add(told.extend, 1)
    with journal.at_rest():
        assert told == [1]
        journal.add(told.extend, 2)
        time.sleep(4 * DELAY)
        assert told == [1]
    journal.flush()
    assert told == [1, 2]


def test_nothing_is_lost_at_a_processs_end() -> None:
    program = "from service.journal import Journal; Journal().add(print, 7)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[7]")
