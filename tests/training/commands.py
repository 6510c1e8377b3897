"""``python -m training train`` in processes: started, watched at work on a seed, and killed."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from training.trial import read_record

ROOT = Path(__file__).parents[2]
STEPS = 100
WORDS = f"train --recipe demo --variants relu_without_bn --steps {STEPS} --batch 4 --runs runs"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # nobody else on this network may run tasks here
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "training", *shlex.split(WORDS), *words],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def record_of(folder: Path, seed: int) -> dict[str, Any]:
    record = read_record(folder / f"runs/demo/relu_without_bn/seed-{seed}")
    return record or {"status": "absent"}


def kill_when_fitting(marker: str, folders: list[Path], seed: int, seconds: float = 120) -> int:
    """Kill the process whose command line holds ``marker``, once it is at work on ``seed``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for folder in folders:
            if record_of(folder, seed)["status"] == "fitting":
                for pid in holders(folder / f"runs/demo/relu_without_bn/seed-{seed}/.lock"):
                    name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                    if marker.encode() in name:
                        os.kill(pid, signal.SIGKILL)
                        return pid
        time.sleep(0.02)
    raise AssertionError(f"no {marker} was seen at work on seed {seed}")


def holders(path: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.readlink() == path.resolve() for link in (folder / "fd").iterdir()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found
