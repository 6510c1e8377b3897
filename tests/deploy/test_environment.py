"""The environment that make makes for itself, made here for real, of no packages but pip."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.container import LIMIT, ROOT


@pytest.mark.usefixtures("interruptible")
def test_make_goes_on_with_an_environment_in_whose_making_it_was_interrupted(
    tmp_path: Path,
) -> None:
    """Python is in it first, and pip seconds later."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/service.txt").touch()
    command = ["make", ".venv/.service", f"PYTHON={sys.executable}"]
    python = tmp_path / ".venv/bin/python"
    interrupted = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + LIMIT
    while not python.exists():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)
    os.killpg(interrupted.pid, signal.SIGINT)  # as Ctrl-C does
    assert interrupted.wait(LIMIT) != 0
    assert not (tmp_path / ".venv/.service").exists()

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
