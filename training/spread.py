"""Many trials on this machine: one after another, or several at once in processes of their own.

A trial is one command (``command``) that can be repeated: a finished trial is skipped, a killed one
resumes from its checkpoint, and two processes never work on the same trial. So whatever runs many
trials only has to start commands, and to restart those whose process died. ``training.cluster``
does this on the machines of a Ray cluster; a Kubernetes Indexed Job does it with one trial per pod
(``train --index``): see ``deploy/kubernetes/training-indexed-job.yaml``.

If a trial fails, the others still run, and those that failed are named at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

from service.cpus import usable_cpus
from training.backend import with_threads
from training.trial import (
    BusyError,
    Trial,
    TrialError,
    check_same,
    is_fitted,
    nothing_to_fit,
    read_record,
)

DEATHS = 3  # of a trial's process, after which it is given up
BUSY_SECONDS = 1.0  # between two looks at a trial that another process works on
GRACE_SECONDS = 10.0  # that a process has to end in when it is asked to
# Several trials may share a GPU: neither framework may take all of its memory at once.
SHARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def command(trial: Trial, data: Path | None) -> list[str]:
    """The command that runs ``trial`` from wherever it stands to its end, frozen."""
    recipe = trial.recipe
    options: dict[str, Any] = {
        "--recipe": recipe.name,
        "--variants": trial.variant.name,
        "--seeds": trial.seed,
        "--runs": trial.runs,
        "--steps": recipe.steps,
        "--batch": recipe.batch,
        "--learning-rate": recipe.learning_rate,
        "--hold-out": trial.hold_out,
        "--patience": trial.patience,
        "--data": data,
    }
    given = [[name, str(value)] for name, value in options.items() if value is not None]
    words = [word for pair in given for word in pair] + ["--keep-best"] * trial.keep_best
    return [sys.executable, "-m", "training", "train", *words]


def record_if_done(trial: Trial) -> dict[str, Any] | None:
    """The record of ``trial`` if it is frozen in its folder, after as many steps as asked for or
    more; otherwise None.

    Raises ``TrialError`` where the folder holds another trial, as far as its record tells without
    the data, or a record that cannot be read.
    """
    record = read_record(trial.folder)
    if record is None:
        return None
    asked = {name: value for name, value in asdict(trial).items() if name != "runs"}
    check_same(trial.folder, record, record["configuration"] | asked)
    done = record["status"] == "frozen" and is_fitted(record, trial.recipe.steps)
    return record if done else None


def left_to_do(trials: list[Trial], say: Callable[[str], None]) -> tuple[list[Trial], list[str]]:
    """The trials that are not done, and what is wrong with those whose folders cannot take them."""
    left, failures = [], []
    for trial in trials:
        try:
            record = record_if_done(trial)
            if record is None:
                left.append(trial)
            else:
                say(nothing_to_fit(trial.folder, record))
        except Exception as error:  # whatever a record brings: the other trials have none of it
            failures.append(failure(trial, str(error)))
    return left, failures


def run_in_turn(trials: list[Trial], data: Path | None, say: Callable[[str], None]) -> None:
    """Run ``trials`` in this process, one after another.

    One that another process works on is put off until that has let go; what it left is then taken
    as it is. So two commands over the same list share it. A single trial raises what it raises.
    Where all are done, nothing is run, and the data need not be there.
    """
    done: list[str] = []
    if left_to_do(trials, done.append) == ([], []):
        for line in done:
            say(line)
        return

    from training.data import load
    from training.dataset import HoldOutError
    from training.fit import fit
    from training.freeze import freeze

    dataset = load(trials[0].recipe.dataset, data)
    failures: list[str] = []
    put_off: set[Path] = set()
    queue = deque(trials)
    while queue:
        trial = queue.popleft()
        try:
            if fit(trial, dataset, say=say)["status"] != "frozen":
                freeze(trial.folder, dataset, say=say)
        except BusyError as error:  # before the fit, or between it and the freeze
            if trial.folder not in put_off:
                say(f"{error}; comes back to it")
            put_off.add(trial.folder)
            queue.append(trial)
            time.sleep(BUSY_SECONDS)
        except HoldOutError:  # all trials have the same
            raise
        except Exception as error:
            if len(trials) == 1:
                raise
            if not isinstance(error, TrialError):
                say(traceback.format_exc())
            failures.append(failure(trial, str(error)))
    raise_failures(failures, len(trials))


def run_in_processes(
    trials: list[Trial], data: Path | None, jobs: int, say: Callable[[str], None]
) -> None:
    """Run ``trials`` in ``jobs`` processes at a time, which share this machine's cores.

    A process that is killed is started again, until ``DEATHS`` of a trial's have been. Where this
    process is interrupted, or asked to end by SIGTERM, it ends them all and starts no other.
    """
    environment = {**with_threads(max(1, usable_cpus() // jobs)), **SHARING, **os.environ}
    environment.pop("JOB_COMPLETION_INDEX", None)  # it has been heeded
    processes = _Processes(environment)
    said: SimpleQueue[str | None] = SimpleQueue()

    def run(trial: Trial) -> str | None:
        for death in range(1, DEATHS + 1):
            try:
                process = processes.start(command(trial, data))
            except OSError as error:  # this machine has no more memory or processes to give
                return failure(trial, str(error))
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            last = ""
            with process.stdout as lines:
                for line in lines:
                    last = line.strip() or last
                    said.put(last)
            if process.wait() == 0:
                return None
            if process.returncode > 0:
                return failure(trial, last.removeprefix("Error: "))
            then = "goes on" if death < DEATHS else "given up"
            said.put(f"{trial.folder}: killed by signal {-process.returncode}, {then}")
        return failure(trial, f"killed {DEATHS} times")

    left, failures = left_to_do(trials, say)
    with _ended_by_sigterm(), ThreadPoolExecutor(jobs) as pool:
        try:
            futures = [pool.submit(run, trial) for trial in left]
            for future in futures:
                future.add_done_callback(lambda _: said.put(None))
            running = len(futures)
            while running:
                line = said.get()
                running -= line is None
                if line is not None:
                    say(line)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise
    failures += [said_last for future in futures if (said_last := future.result())]
    raise_failures(failures, len(trials))


class _Processes:
    """Processes that can be ended all at once, and after which no other is started then."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.started: list[subprocess.Popen[str]] = []
        self.ended = False
        self.lock = Lock()

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        with self.lock:
            if self.ended:
                raise CancelledError
            process = subprocess.Popen(  # noqa: S603 - this very program
                words,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.started.append(process)
            return process

    def end(self) -> None:
        """End them, and return when they have let go of their trials."""
        with self.lock:
            self.ended = True
        for process in self.started:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self.started:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise here, as Ctrl-C does, with the exit status that a shell gives it."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def failure(trial: Trial, message: str) -> str:
    """What went wrong with ``trial``, in a line that names it."""
    return message if str(trial.folder) in message else f"{trial.folder}: {message}"


def raise_failures(failures: list[str], count: int) -> None:
    """Raise ``TrialError`` with what went wrong, of ``count`` trials, if anything did."""
    if failures:
        listed = "\n".join(failures)
        raise TrialError(
            f"{len(failures)} of {count} trials failed; the others are done, and a repeat tries "
            f"these again:\n{listed}"
        )
