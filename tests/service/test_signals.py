"""Signals that come early, and those that come to every process at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.service.processes import workers
from tests.service.test_operations import traffic, wait_for_answers, wait_for_workers
from tests.service.test_server import DEADLINE, started, wait_until_alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SERVE = (sys.executable, "-m", "service")
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")
"""What it starts is process 1, as in a container."""


def may_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode
    )


def until(told: Callable[[], int | None]) -> int:
    """What ``told`` says, once it does."""
    limit = time.monotonic() + DEADLINE
    while time.monotonic() < limit:
        found = told()
        if found is not None:
            return found
        time.sleep(0.01)
    raise AssertionError("it does not come to that")


@pytest.mark.parametrize("first", [False, True], ids=["any process", "process 1"])
def test_sigterm_while_the_service_starts_ends_it_with_status_0(
    tmp_path: Path, first: bool
) -> None:
    if first and not may_unshare():
        pytest.skip("unshare cannot make a process the first here")
    manifest = tmp_path / "manifest.json"
    os.mkfifo(manifest)  # reading it waits, for as long as somebody might write

    def opened() -> int | None:
        try:
            return os.open(manifest, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            return None

    def service() -> int | None:
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    with started(tmp_path, command=(*UNSHARE, *SERVE) if first else SERVE) as server:
        pid = until(service) if first else server.process.pid
        writer = until(opened)
        os.kill(pid, signal.SIGTERM)
        os.close(writer)
        _, err = server.process.communicate(timeout=DEADLINE)
    assert (server.process.returncode, err) == (0, b"")


def test_signals_to_the_whole_group_lose_no_request(models_dir: Path, pixels: np.ndarray) -> None:
    """As a terminal sends them: SIGHUP when it is closed, SIGQUIT by Ctrl-\\, which drains."""
    meaningless = (
        *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
        *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH),
    )
    session = ("setsid", *SERVE)  # a group of its own, or the tests would get the signals too
    with started(models_dir, command=session, WEB_CONCURRENCY="2", DRAIN_SECONDS="2") as server:
        wait_until_alive(server)
        wait_for_workers(server, 2)
        group = server.process.pid
        with traffic(server, pixels) as seen:
            wait_for_answers(seen, 100)
            before = workers(server)
            for number in meaningless:
                os.killpg(group, number)
                wait_for_answers(seen, seen.answered + 20)
            assert workers(server) == before
            os.killpg(group, signal.SIGQUIT)
            _, err = server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode == 0
    assert (seen.lost, seen.wrong, err) == ([], [], b"")
