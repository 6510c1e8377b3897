"""Collects what has happened, and hands it in batches, a little later, to those who write it down.

    journal.add(reader, entry)           # costs next to nothing
    journal.flush()                      # now: reader([entry, ...])

Between two runs of a model its weights have pushed all else out of the caches, and whatever a
request does there takes more than twice as long as in a tight loop. So what is not needed for the
answer (its log line, its counts) is done by a thread, for ``DELAY`` seconds' requests together. At
worst, a process that is killed loses the entries since the last batch.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

DELAY = 0.05
"""Seconds from an entry to its reading: what comes in them is read together."""

MOST_ENTRIES = 100_000
"""So many entries wait at most, where readers stand still; further ones are forgotten."""

LAST_SECONDS = 5
"""A process that ends waits so long for a reader that stands still."""

log = logging.getLogger(__name__)

Reader = Callable[[list[Any]], None]


class Answered(NamedTuple):
    """A request that has had its answer; ``route`` is the URL rule, None where none matched.

    ``created`` is the moment, as ``time.time()``; ``seconds`` is how long it took. What was never
    a whole request may have neither method nor path.
    """

    created: float
    request_id: str
    trace_id: str | None
    method: str | None
    path: str | None
    route: str | None
    variant: str | None
    status: int
    bytes_in: int
    bytes_out: int | None
    seconds: float


class Journal:
    """Entries, each with who is to read it; every method may be called in any thread."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Reader, Any]] = deque()
        self._some = threading.Event()
        self._reading = threading.Lock()
        self._started = False

    def add(self, reader: Reader, entry: Any) -> None:
        """Have ``reader`` called with a list that holds ``entry``, and others that are its.

        Where readers have stood still for very long, it is forgotten.
        """
        if len(self._entries) >= MOST_ENTRIES:
            return
        self._entries.append((reader, entry))
        if not self._some.is_set():
            self._some.set()
            if not self._started:
                self._started = True
                threading.Thread(target=self._read_on, name="journal", daemon=True).start()
                atexit.register(self.flush, LAST_SECONDS)

    def flush(self, timeout: float = -1) -> None:
        """Have everything read that has been added; wait for a reader at work, or ``timeout``."""
        if not self._reading.acquire(timeout=timeout):
            return
        try:
            self._read()
        finally:
            self._reading.release()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Have everything read that has been added, and no more as long as the block runs.

        So what readers write holds still, and holds together.
        """
        with self._reading:
            self._read()
            yield

    def _read(self) -> None:
        entries: dict[Reader, list[Any]] = {}
        while self._entries:
            reader, entry = self._entries.popleft()
            entries.setdefault(reader, []).append(entry)
        for reader, read in entries.items():
            try:
                reader(read)
            except Exception:
                log.exception("what requests did is not all written down")

    def _read_on(self) -> None:
        while True:
            self._some.wait()
            time.sleep(DELAY)
            self._some.clear()
            self.flush()
