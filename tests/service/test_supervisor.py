"""The supervisor and its workers: signals that are not meant for them, ends, and a log halted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from service.journal import DELAY
from tests.service.processes import workers
from tests.service.test_operations import wait_for_workers
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import encode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def two_workers(models_dir: Path) -> Iterator[Running]:
    with started(models_dir, WEB_CONCURRENCY="2", PROMETHEUS_MULTIPROC_DIR="") as server:
        wait_until_alive(server)
        wait_for_workers(server, 2)
        yield server


def counted(server: Running) -> float:
    """The pictures that all workers together say they have computed, once they agree."""
    seen: list[float] = []
    while len(seen) < 5 or len(set(seen[-5:])) > 1:
        text = requests.get(f"{server.url}/metrics", timeout=DEADLINE).text
        found = [line for line in text.splitlines() if line.startswith("batchnorm_images_total{")]
        seen.append(sum(float(line.split()[-1]) for line in found))
        time.sleep(DELAY)
    return seen[-1]


def ask(server: Running, pixels: np.ndarray, times: int) -> None:
    for _ in range(times):
        answer = requests.post(f"{server.url}/predict", data=encode(pixels[0]), timeout=DEADLINE)
        assert answer.status_code == 200


def test_a_worker_that_is_ended_is_replaced_and_what_it_counted_stays(
    two_workers: Running, pixels: np.ndarray
) -> None:
    server = two_workers
    for each in (1, 2):
        ask(server, pixels, 10)
        (ended, _) = workers(server)
        os.kill(ended, signal.SIGTERM)
        wait_for_workers(server, 2, without=ended)
        assert server.process.poll() is None
        assert counted(server) == 10 * each
    server.process.terminate()
    server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode == 0


def test_signals_that_mean_nothing_here_change_nothing(
    two_workers: Running, pixels: np.ndarray
) -> None:
    server = two_workers
    before = workers(server)
    for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2):
        server.process.send_signal(number)
        time.sleep(0.1)
    ask(server, pixels, 10)
    assert counted(server) == 10
    assert workers(server) == before
    said = [line for line in server.lines() if line["level"] == "warning"]
    assert len(said) == 5
    assert "no meaning" in said[0]["message"]


@contextlib.contextmanager
def halted(models_dir: Path, **variables: str) -> Iterator[Running]:
    """A server whose log nobody reads: a pipe, which is full from the first byte on."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 4096)
    os.set_blocking(writer, True)
    try:
        with started(models_dir, stdout=writer, **variables) as server:
            wait_until_alive(server)
            yield server
    finally:
        os.close(reader)
        os.close(writer)


def test_a_log_that_nobody_reads_holds_up_no_answer_and_no_end(
    models_dir: Path, pixels: np.ndarray
) -> None:
    with halted(models_dir, WEB_CONCURRENCY="1", DRAIN_SECONDS="0") as server:
        begun = time.monotonic()
        for _ in range(100):
            ask(server, pixels, 1)
            assert requests.get(f"{server.url}/nowhere", timeout=DEADLINE).status_code == 404
        assert counted(server) == 100
        assert time.monotonic() - begun < DEADLINE
        server.process.terminate()
        server.process.communicate(timeout=DEADLINE)
        assert server.process.returncode == 0


def test_a_reader_who_is_back_gets_the_lines_that_waited(
    models_dir: Path, pixels: np.ndarray
) -> None:
    reader, writer = os.pipe()
    with started(models_dir, stdout=writer, WEB_CONCURRENCY="1") as server:
        os.close(writer)
        wait_until_alive(server)
        asked = 400  # lines of some 250 bytes each; a pipe holds 64 kB
        ask(server, pixels, asked)
        server.process.terminate()
        with os.fdopen(reader) as log:
            told = [json.loads(line) for line in log]
        server.process.communicate(timeout=DEADLINE)
    assert sum(line.get("path") == "/predict" for line in told) == asked


def test_an_empty_number_of_workers_is_the_default(models_dir: Path) -> None:
    with started(models_dir, WEB_CONCURRENCY="") as server:
        wait_until_alive(server)


def test_a_folder_for_metrics_that_is_not_there_is_named(tmp_path: Path, models_dir: Path) -> None:
    missing = tmp_path / "nowhere"
    environment = {
        **os.environ,
        "MODELS_DIR": str(models_dir),
        "PROMETHEUS_MULTIPROC_DIR": str(missing),
    }
    done = subprocess.run(
        [sys.executable, "-m", "service"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: PROMETHEUS_MULTIPROC_DIR is '{missing}'")
