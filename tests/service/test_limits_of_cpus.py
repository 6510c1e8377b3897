"""The real server where it may use fewer CPUs than the machine has, or is said to have more."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.service.exposition import samples, total
from tests.service.processes import cpu_seconds, workers
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import encode, make_card, make_model, write_repository

PICTURE = encode(np.zeros((32, 32, 3), np.uint8))
SERVICE = """
import os, pathlib, sys
from service import cpus
root, allowed = sys.argv.pop(1), sys.argv.pop(1)
cpus.usable_cpus.__defaults__ = (pathlib.Path(root),)
if allowed != "as they are":
    os.sched_getaffinity = lambda pid: set(range(int(allowed)))
from service.__main__ import cli
cli()
"""
"""The service, with another root for /proc and /sys, and perhaps more CPUs than there are."""


def fake_cgroup(root: Path, version: int, quota: float) -> Path:
    """A root whose control group may use ``quota`` CPUs."""
    text, period = f"{quota * 100_000:.0f}", "100000"
    if version == 2:
        files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{text} {period}\n"}
    else:
        files = {
            "proc/self/cgroup": "3:cpu,cpuacct:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": text,
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": period,
        }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def command(root: Path, allowed: str = "as they are") -> list[str]:
    return [sys.executable, "-c", SERVICE, str(root), allowed]


def settled_workers(server: Running) -> int:
    """How many there are, once there are no more to come."""
    wait_until_alive(server)
    time.sleep(1)
    assert requests.get(f"{server.url}/health/ready", timeout=DEADLINE).status_code == 200
    return len(workers(server))


@pytest.mark.skipif(shutil.which("taskset") is None, reason="there is no taskset here")
def test_on_one_cpu_there_is_one_worker(models_dir: Path) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    pinned = ["taskset", "-c", cpu, sys.executable, "-m", "service"]
    with started(models_dir, command=pinned) as server:
        assert settled_workers(server) == 1
        answer = requests.post(f"{server.url}/predict", data=PICTURE, timeout=DEADLINE)
        assert answer.status_code == 200


@pytest.mark.parametrize(("version", "threads"), [(1, 2), (2, 1)])
def test_a_quota_of_the_control_group_bounds_the_workers_and_their_threads(
    models_dir: Path, tmp_path: Path, version: int, threads: int
) -> None:
    found = {}
    for quota in (1.5, 8.0):
        root = fake_cgroup(tmp_path / str(quota), version, quota)
        with started(models_dir, command=command(root, "8"), ORT_THREADS=str(threads)) as server:
            found[quota] = settled_workers(server)
        assert 1 <= found[quota] * threads <= max(threads, quota)
    assert found[1.5] == 1 < found[8.0]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
@pytest.mark.parametrize("cpus", [1, 2])
def test_as_many_runs_go_on_at_a_time_as_there_are_cpus(tmp_path: Path, cpus: int) -> None:
    model = make_model("relu_with_bn", make_card("relu_with_bn").to_json(), laps=40)
    folder = write_repository(tmp_path / "models", {("relu_with_bn", 1): model}, "relu_with_bn")
    root = fake_cgroup(tmp_path, 2, cpus)
    with started(folder, command=command(root), DEADLINE_SECONDS="60") as server:
        settled_workers(server)
        runs, busy, share = runs_at_a_time(server)
    print(f"{cpus} CPUs: {runs:.2f} runs at a time, {busy:.2f} CPUs busy, a run is {share:.3f}")
    # A run counts whole at its end: those under way at either end of the window blur the figure.
    blur = 2 * cpus * share
    assert cpus - 0.4 - blur < runs < cpus + 0.1 + blur
    assert busy < cpus + 0.25


def runs_at_a_time(server: Running) -> tuple[float, float, float]:
    """And the CPUs' worth of time that the server takes while 16 clients want all that it has, and
    what part of the time measured an average run takes.
    """
    end = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not end.is_set():
                answer = session.post(f"{server.url}/predict", data=PICTURE, timeout=DEADLINE)
                assert answer.status_code == 200

    def measure() -> np.ndarray:
        text = requests.get(f"{server.url}/metrics", timeout=DEADLINE).text
        counted = samples(text)
        runs = [total(counted, f"batchnorm_run_seconds_{each}") for each in ("sum", "count")]
        return np.array([time.monotonic(), *runs, cpu_seconds(server)])

    askers = [threading.Thread(target=ask) for _ in range(16)]
    for each in askers:
        each.start()
    time.sleep(0.5)
    before = measure()
    time.sleep(3)
    seconds, runs, count, busy = measure() - before
    end.set()
    for each in askers:
        each.join()
    return runs / seconds, busy / seconds, runs / count / seconds
