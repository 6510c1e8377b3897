"""``--jobs``: processes that die, that fail, and that end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.training.commands import (
    ENVIRONMENT,
    STEPS,
    kill_when_fitting,
    record_of,
    start,
)
from training import spread
from training.spread import DEATHS, run_in_processes
from training.trial import Trial, TrialError, locked, override
from training.variants import VARIANTS

# Runs six trials in two processes, which say when they begin and end by Ctrl-C as click's do.
SLEEPERS = """
import sys
from pathlib import Path
from training import spread
from training.trial import Trial, override
from training.variants import VARIANTS
trials = [Trial(override("demo"), VARIANTS["relu_with_bn"], n, Path("runs")) for n in range(6)]
sleep = (
    "import os, sys, time; from pathlib import Path; Path('began-' + str(os.getpid())).touch()\\n"
    "try: time.sleep(60)\\nexcept KeyboardInterrupt: sys.exit(1)"
)
spread.command = lambda trial, data: [sys.executable, "-c", sleep]
spread.run_in_processes(trials, None, 2, print)
"""


def trials_in(runs: Path, seeds: int) -> list[Trial]:
    return [Trial(override("demo"), VARIANTS["relu_with_bn"], n, runs) for n in range(seeds)]


def test_a_killed_process_loses_no_finished_trial_and_no_seed_runs_twice(tmp_path: Path) -> None:
    with start(tmp_path, "--seeds", "0", "--jobs", "2") as first:
        output, _ = first.communicate(timeout=240)
        assert first.returncode == 0, output
    before = record_of(tmp_path, 0)
    with start(tmp_path, "--seeds", "0-2", "--jobs", "2") as second:
        kill_when_fitting("--seeds 1 ", [tmp_path], seed=1)
        output, _ = second.communicate(timeout=240)
        assert second.returncode == 0, output
    assert "seed-0: done already" in output
    assert "seed-1: killed by signal 9, goes on" in output
    assert record_of(tmp_path, 0) == before  # to the second that it took: it did not run again
    for seed in range(3):
        record = record_of(tmp_path, seed)
        assert (record["status"], record["outcome"]["steps"]) == ("frozen", STEPS)
    assert output.count(f"step {STEPS}, ") == 2  # seeds 1 and 2, once each


def test_a_failure_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    spoilt = tmp_path / "runs/demo/relu_without_bn/seed-0"
    spoilt.mkdir(parents=True)
    (spoilt / "checkpoint.npz").write_bytes(b"no checkpoint")
    with start(tmp_path, "--seeds", "0-1", "--jobs", "2") as run:
        output, _ = run.communicate(timeout=240)
    assert run.returncode == 1
    assert "1 of 2 trials failed" in output
    assert "checkpoint.npz: does not fit this trial" in output.splitlines()[-1]
    assert record_of(tmp_path, 1)["status"] == "frozen"


def test_a_record_that_cannot_be_read_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = trials_in(tmp_path, 3)
    trials[1].folder.mkdir(parents=True)
    (trials[1].folder / "trial.json").write_text("{")
    ran: list[int] = []

    def command(trial: Trial, _: Any) -> list[str]:
        ran.append(trial.seed)
        return [sys.executable, "-c", ""]

    monkeypatch.setattr(spread, "command", command)
    with pytest.raises(TrialError, match=r"1 of 3 trials failed(?s:.*)seed-1/trial.json: not JSON"):
        run_in_processes(trials, None, 2, print)
    assert sorted(ran) == [0, 2]


def test_a_trial_whose_processes_die_is_given_up_after_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def command(trial: Trial, _: Any) -> list[str]:
        ran.append(trial.seed)
        return [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]

    monkeypatch.setattr(spread, "command", command)
    said: list[str] = []
    with pytest.raises(TrialError, match=r"seed-0: killed 3 times"):
        run_in_processes(trials_in(tmp_path, 1), None, 2, said.append)
    assert len(ran) == DEATHS == 3
    assert [line.rpartition(", ")[2] for line in said] == ["goes on", "goes on", "given up"]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_the_queue_ends_with_the_command(way: signal.Signals, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SLEEPERS],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a terminal sends Ctrl-C to the whole group
    )
    with parent:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("began-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        if way == signal.SIGINT:
            os.killpg(parent.pid, way)
        else:
            parent.send_signal(way)
        assert parent.wait(timeout=30) != 0
    began = [int(path.name.removeprefix("began-")) for path in tmp_path.glob("began-*")]
    assert len(began) == 2  # and none of the four that waited
    assert not [pid for pid in began if Path(f"/proc/{pid}").exists()]


def test_a_command_that_was_ended_lets_go_of_its_trials(tmp_path: Path) -> None:
    with start(tmp_path, "--seeds", "0-1", "--steps", "100000", "--jobs", "2") as run:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if all(record_of(tmp_path, seed)["status"] == "fitting" for seed in (0, 1)):
                break
            time.sleep(0.05)
        run.terminate()
        run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    for seed in (0, 1):
        with locked(tmp_path / f"runs/demo/relu_without_bn/seed-{seed}"):
            pass
