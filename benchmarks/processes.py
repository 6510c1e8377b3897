"""Servers as processes: started, asked until they answer, measured and stopped by their id."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_LIMIT = 30
"""Seconds until a server must have answered."""


@dataclass(frozen=True)
class Server:
    """A running server; ``start_seconds`` is the time until its first right answer."""

    pid: int
    port: int
    start_seconds: float

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def serving(
    command: list[str], variables: Mapping[str, str], picture: bytes, right: str
) -> Iterator[Server]:
    """Start ``command``, whose {port} is filled in, and stop it at the end.

    It has started when it answers ``picture`` with a body that contains ``right``. Raises
    ``RuntimeError`` where that takes longer than ``START_LIMIT``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.perf_counter()
    process = subprocess.Popen(
        [each.format(port=port) for each in command],
        env={**os.environ, **variables, "PORT": str(port)},
        stdout=subprocess.DEVNULL,
    )
    try:
        while not _ask(port, picture, right):
            if process.poll() is not None or time.perf_counter() - started > START_LIMIT:
                raise RuntimeError(f"{' '.join(command)} gives no right answer")
            time.sleep(0.005)
        yield Server(process.pid, port, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait(START_LIMIT)


def load(server: Server, body: Path, right: str, **options: object) -> dict[str, Any]:
    """What ``benchmarks.load`` reports, run as a process of its own with these options.

    Adds ``cpu_ms``: the processor time of one answer, the server's and the load generator's.
    """
    command = [sys.executable, "-m", "benchmarks.load", server.address]
    command += ["--body", str(body), "--expect", right]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    before = cpu_seconds(server.pid)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    used = cpu_seconds(server.pid) - before + report["cpu_seconds"]
    return report | {"cpu_ms": 1000 * used / report["answered"]}


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and all below it have used."""
    ticks = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process and all below it, in 10^6 bytes; shared pages count in each."""
    return sum(_field(each, "status", "VmRSS:") for each in family(pid)) * 1024 / 1e6


def proportional_megabytes(pid: int) -> float:
    """The same, but a page that n processes share counts 1/n in each."""
    return sum(_field(each, "smaps_rollup", "Pss:") for each in family(pid)) * 1024 / 1e6


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def _field(pid: int, file: str, name: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def _ask(port: int, picture: bytes, right: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_LIMIT)
    try:
        connection.request("POST", "/predict", picture)
        answer = connection.getresponse()
        return answer.status == 200 and right in answer.read().decode()
    except OSError:
        return False
    finally:
        connection.close()
