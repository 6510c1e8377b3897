"""What the metrics of several worker processes share: a folder in memory, and slots.

Each worker counts in files of its own that all may read, and whichever worker is asked adds them
up. The folder is in /dev/shm, if there is one, so that nothing is written to disk. The parent makes
it before its workers start, and removes it when they have ended; if PROMETHEUS_MULTIPROC_DIR is
set, as under another pre-forking server, that folder is used and kept.

A worker's files bear the number of its slot, not of its process: the replacement of a dead worker
takes over its slot, and continues its counts. So nothing is lost, and no files pile up. A slot is
held by a lock that the kernel releases when its process ends, however it ends; so is the folder,
and one left by a killed server is removed when the next server starts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_PREFIX = "batchnorm-metrics-"
_LOCK, _HELD = "slot-{}.lock", "held.lock"


class FolderError(Exception):
    """No folder can be made; the message says what would help."""


@cache
def memory() -> Path | None:
    """Where files are memory; None where there is no such place that may be written."""
    place = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
    return place if os.access(place, os.W_OK | os.X_OK) else None


@contextmanager
def shared(workers: int) -> Iterator[None]:
    """Have what this process starts count together, if that is several ``workers``.

    A worker leaves this block too, when it ends: what it shares with others stays. Raises
    ``FolderError``.
    """
    given, maker = os.environ.get(VARIABLE), os.getpid()
    if given:
        _check(Path(given))
    if workers == 1 or given:
        yield
        return
    _sweep(memory() or Path(tempfile.gettempdir()))
    try:
        making = Path(tempfile.mkdtemp("", f".{_PREFIX}", memory()))
        held = _lock(making / _HELD)  # by the workers too, which inherit it
        # Another server's sweep sees it only now that it is held.
        folder = str(making.rename(making.with_name(making.name.removeprefix("."))))
    except OSError as error:
        raise FolderError(
            f"several workers need a folder for their metrics, and none can be made "
            f"({error.strerror}); let them write to /dev/shm, or set {VARIABLE} to a folder, or "
            "WEB_CONCURRENCY to 1"
        ) from None
    os.environ[VARIABLE] = folder
    try:
        yield
    finally:
        if os.getpid() == maker:
            os.environ.pop(VARIABLE, None)
            shutil.rmtree(folder, ignore_errors=True)
            if held is not None:
                os.close(held)


def _sweep(place: Path) -> None:
    """Remove the folders that servers of the same user have left behind in ``place``."""
    for each in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if each.lstat().st_uid != os.getuid() or not (each / _HELD).is_file():
                continue
            held = _lock(each / _HELD)
            if held is not None:
                shutil.rmtree(each, ignore_errors=True)
                os.close(held)


def _check(folder: Path) -> None:
    """Raise ``FolderError`` for one that cannot be used."""
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise FolderError(
            f"{VARIABLE} is {str(folder)!r}, which is no folder that may be written; make it so, "
            "or leave the variable out"
        )


def shared_folder() -> Path | None:
    """The folder that this process shares; None where it counts alone."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else None


def claim_slot(folder: Path) -> int:
    """The lowest slot that no living process holds; this process holds it until it ends."""
    for slot in count():
        if _lock(folder / _LOCK.format(slot)) is not None:
            return slot
    raise AssertionError("unreachable")


@contextmanager
def dead_slots(folder: Path) -> Iterator[list[int]]:
    """The slots whose process has ended; none of them is taken over while the block runs."""
    held = {}
    for path in sorted(folder.glob(_LOCK.format("*"))):
        descriptor = _lock(path)
        if descriptor is not None:
            held[int(path.stem.partition("-")[2])] = descriptor
    try:
        yield list(held)
    finally:
        for descriptor in held.values():
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    """An open descriptor that holds the lock; None where another holds it."""
    import fcntl  # not on Windows, where one worker counts alone

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None
