"""``ray start`` on a machine that may be too busy for the time that it gives itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.training.commands import ENVIRONMENT

READY = "To terminate the Ray runtime"
# Seconds for the port of the head; Ray's own default is 30. That its node has another 30 to come
# up in cannot be set, so a start that ended is tried again.
PATIENCE = {"RAY_gcs_server_port_wait_time_s": "120"}
ATTEMPTS = 3


def start_node(command: list[str], folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The process of ``command``, which stays once it has said ``READY``, and what it said so far.

    One that ends instead takes its node with it, and is started again; after ``ATTEMPTS`` it is no
    matter of time, and the assertion shows what each of them said.
    """
    tried = []
    for _ in range(ATTEMPTS):
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=ENVIRONMENT | PATIENCE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if READY in line:
                return process, said
        process.communicate(timeout=60)
        tried.append(f"exit status {process.returncode}:\n{said}")
    raise AssertionError(f"{' '.join(command)}: no node in {ATTEMPTS} starts\n" + "\n".join(tried))
