"""The folder in which workers share their metrics, and the slots that they claim in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.metric_files import FolderError, claim_slot, dead_slots, shared, shared_folder


def test_one_worker_needs_no_folder_and_an_operators_own_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    with shared(1):
        assert shared_folder() is None
    with shared(2):
        made = shared_folder()
        assert made is not None
        assert made.is_dir()
    assert not made.exists()
    assert shared_folder() is None
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with shared(2):
        assert shared_folder() == tmp_path
    assert tmp_path.is_dir()


def test_a_folder_that_a_killed_server_has_left_goes_and_no_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr("service.metric_files.memory", lambda: tmp_path)
    program = """
import os, sys, time, pathlib
from service import metric_files
metric_files.memory = lambda: pathlib.Path(sys.argv[1])
with metric_files.shared(2):
    if os.fork() == 0:  # a worker, which outlives it
        print(os.getpid(), metric_files.shared_folder(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""
    others = tmp_path / "batchnorm-metrics-being-made", tmp_path / "another"
    for each in others:
        each.mkdir()
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        worker, _, left = server.stdout.readline().decode().strip().partition(" ")
        server.kill()
        server.wait()
        try:
            with shared(2):
                assert Path(left).is_dir()  # its worker still counts there
        finally:
            os.kill(int(worker), signal.SIGKILL)
        assert server.stdout.read() == b""  # the worker is gone
    with shared(2):
        made = shared_folder()
        assert made is not None
        assert sorted(tmp_path.iterdir()) == sorted([made, *others])


def test_where_no_folder_can_be_made_the_message_says_what_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr("service.metric_files.tempfile.mkdtemp", refuse)
    with pytest.raises(FolderError, match=r"\(Read-only file system\).*WEB_CONCURRENCY to 1"):
        shared(2).__enter__()


def test_a_dead_workers_slot_is_taken_over(tmp_path: Path) -> None:
    assert claim_slot(tmp_path) == 0
    program = """
import sys, time, pathlib
from service.metric_files import claim_slot
print(claim_slot(pathlib.Path(sys.argv[1])), flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        with dead_slots(tmp_path) as slots:
            assert slots == []
        other.kill()
    with dead_slots(tmp_path) as slots:
        assert slots == [1]
        assert claim_slot(tmp_path) == 2
    assert claim_slot(tmp_path) == 1
