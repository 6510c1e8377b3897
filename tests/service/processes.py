"""What Linux says of a running server: its processes, their memory, their threads."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from tests.service.test_server import Running


def workers(server: Running) -> list[int]:
    """The processes that the server's own has started, itself excluded."""
    pid = server.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory(server: Running) -> int:
    """Bytes of memory of all the server's processes, what they share counted once."""
    total = 0
    for pid in (server.process.pid, *workers(server)):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found = re.search(r"^Pss: +(\d+) kB$", text, re.MULTILINE)
            assert found is not None
            total += int(found[1]) << 10
    return total
