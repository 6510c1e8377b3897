"""What Linux says of a running server: its processes, their memory, time and connections."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from tests.service.test_server import Running


def workers(server: Running) -> list[int]:
    """The processes that the server's own has started, itself excluded."""
    pid = server.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory(server: Running) -> int:
    """Bytes of memory of all the server's processes, what they share counted once.

    Files that are mapped do not count: of a library, each process on the machine bears a share.
    """
    total = 0
    for pid in (server.process.pid, *workers(server)):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found = re.search(r"^Pss_Anon: +(\d+) kB$", text, re.MULTILINE)
            assert found is not None
            total += int(found[1]) << 10
    return total


def peers(pid: int) -> set[int]:
    """The ports of the clients that a process is connected with over IPv4."""
    sockets = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            sockets.add(str(each.readlink()))
    ports = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *fields = line.split()
        if state == "01" and f"socket:[{fields[5]}]" in sockets:  # established
            ports.add(int(remote.partition(":")[2], 16))
    return ports


def descriptors(server: Running) -> int:
    """Open files and sockets of all the server's workers."""
    return sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in workers(server))


def cpu_seconds(server: Running) -> float:
    """Seconds of CPU time that the server's workers have taken."""
    ticks = 0
    for pid in workers(server):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in the program, and in the kernel
    return ticks / os.sysconf("SC_CLK_TCK")
