"""GET /metrics of several processes: they count as one, whoever of them answers or is killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.service.counted import assert_adds_up, send_mixed
from tests.service.exposition import Samples, samples, settled, total
from tests.service.processes import peers, workers
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive


def mapped_files(server: Running) -> dict[int, set[Path]]:
    """The server's workers: the files of metrics that each has mapped."""
    found = {}
    for pid in workers(server):
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        found[pid] = {Path(line.split()[-1]) for line in lines if line.endswith(".db")}
    return found


def wait_for_workers(server: Running, gone: int = 0) -> dict[int, set[Path]]:
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        try:
            found = mapped_files(server)
        except OSError:  # one has just ended
            found = {}
        if len(found) == 2 and gone not in found and all(found.values()):
            return found
        time.sleep(0.05)
    raise AssertionError("there are no two workers")


@pytest.fixture
def two_workers(models_dir: Path) -> Iterator[Running]:
    with started(models_dir, WEB_CONCURRENCY="2", PROMETHEUS_MULTIPROC_DIR="") as server:
        wait_until_alive(server)
        wait_for_workers(server)
        yield server


@contextlib.contextmanager
def clients_of_all(server: Running) -> Iterator[Iterator[requests.Session]]:
    """Clients that take turns, whose connections are with one worker and with the other."""
    with contextlib.ExitStack() as stack:
        clients: list[requests.Session] = []
        until = time.monotonic() + DEADLINE
        while not clients or not all(peers(pid) for pid in workers(server)):
            assert time.monotonic() < until, "one worker has taken every connection"
            clients.append(stack.enter_context(requests.Session()))
            clients[-1].get(f"{server.url}/health/live", timeout=DEADLINE)
        yield itertools.cycle(clients)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_workers_count_as_one_even_if_one_is_killed(two_workers: Running) -> None:
    server = two_workers

    def post(url: str, data: bytes, content_type: str | None = None) -> requests.Response:
        headers = {"Content-Type": content_type} if content_type else {}
        return next(clients).post(server.url + url, data=data, headers=headers, timeout=DEADLINE)

    def get(url: str) -> requests.Response:
        return next(clients).get(server.url + url, timeout=DEADLINE)

    def scraped() -> Samples:
        return samples(get("/metrics").text)

    files = set().union(*mapped_files(server).values())
    (folder,) = {path.parent for path in files}
    slots = {path.stem.rpartition("_")[2] for path in files}
    assert slots == {"0", "1"}
    if Path("/dev/shm").is_dir():
        assert folder.parent == Path("/dev/shm")
    assert folder.stat().st_mode & 0o777 == 0o700

    expected: Counter[tuple[str, ...]] = Counter()
    with clients_of_all(server) as clients:
        for _ in range(3):
            expected += send_mixed(post, get)
        settled(scraped)
        for _ in range(8):  # whichever worker answers
            found = scraped()
            assert_adds_up(found, expected, rounds=3)
            assert total(found, "batchnorm_model_info") == 3
    asked = {
        path.name: total(samples_of(path), "images") for path in files if "counter" in path.name
    }
    assert min(asked.values()) > 0, "one worker has answered everything"

    (killed, _) = workers(server)
    os.kill(killed, signal.SIGKILL)
    files = set().union(*wait_for_workers(server, gone=killed).values())
    assert {path.stem.rpartition("_")[2] for path in files} == slots
    with clients_of_all(server) as clients:
        expected += send_mixed(post, get)
        settled(scraped)
        for _ in range(4):
            assert_adds_up(scraped(), expected, rounds=4)

    server.process.terminate()
    server.process.communicate(timeout=DEADLINE)
    assert not folder.exists()


def samples_of(path: Path) -> Samples:
    """How many pictures one worker's own file has counted."""
    from prometheus_client.mmap_dict import MmapedDict

    values = MmapedDict.read_all_values_from_file(str(path))
    return {("images", ()): sum(value for key, value, *_ in values if "_images_total" in key)}
