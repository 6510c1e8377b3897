"""Many trials at once: in processes of this machine, or on the machines of a Ray cluster.

A trial is one command (``command``) that can be repeated: what is done is not done again, what was
killed goes on from its checkpoint, and two processes never work on the same trial. So an engine has
only to start commands, to start those again whose process died, and to gather what they left. A
Kubernetes Indexed Job is such an engine too, without anything of this file: see
``deploy/kubernetes/training-indexed-job.yaml``.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from training.trial import Trial, TrialError, read_record, recipe_of, write_atomically

DEATHS = 3  # of a trial's process, after which it is given up
GATHERED = ("history.csv", "model.keras", "frozen.keras", "trial.json")  # the record comes last
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


def left_to_do(trials: list[Trial], say: Callable[[str], None]) -> list[Trial]:
    """The trials that are not frozen yet in their folders, just as asked."""
    left = []
    for trial in trials:
        record = read_record(trial.folder)
        if record and record["status"] == "frozen" and recipe_of(record) == trial.recipe:
            say(f"{trial.folder}: done already")
        else:
            left.append(trial)
    return left


def run_in_processes(
    trials: list[Trial], data: Path | None, jobs: int, say: Callable[[str], None]
) -> None:
    """Run ``trials`` in ``jobs`` processes at a time, which share this machine's cores.

    A process that is killed is started again, ``DEATHS`` times at most. The others go on where one
    fails; ``TrialError`` at the end names those that did.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {
        "TF_NUM_INTRAOP_THREADS": str(max(1, (cores or 1) // jobs)),
        **SHARING,
        **os.environ,
    }
    environment.pop("JOB_COMPLETION_INDEX", None)  # it has been heeded
    said: SimpleQueue[str | None] = SimpleQueue()

    def run(trial: Trial) -> str | None:
        for _ in range(DEATHS):
            process = subprocess.Popen(  # noqa: S603 - this very program
                command(trial, data),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            last = ""
            for line in process.stdout:
                last = line.strip() or last
                said.put(last)
            if process.wait() == 0:
                return None
            if process.returncode > 0:
                return f"{trial.folder}: {last.removeprefix('Error: ')}"
            said.put(f"{trial.folder}: killed by signal {-process.returncode}, goes on")
        return f"{trial.folder}: killed {DEATHS} times"

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, trial) for trial in left_to_do(trials, say)]
        for future in futures:
            future.add_done_callback(lambda _: said.put(None))
        running = len(futures)
        while running:
            line = said.get()
            running -= line is None
            if line is not None:
                say(line)
    _raise_failures([failure for future in futures if (failure := future.result())], len(futures))


def run_on_ray(
    trials: list[Trial],
    data: Path | None,
    address: str,
    gpus: float,
    say: Callable[[str], None],
) -> None:
    """Run ``trials`` as tasks of the Ray cluster at ``address``, each on a CPU and ``gpus`` GPUs.

    Every machine needs this package and the data at the same places. A task works in the runs
    folder of its own machine and what it leaves is gathered into this one's, so the folders may be
    one shared folder or not. Ray starts the task of a worker or machine that died again. The others
    go on where one fails; ``TrialError`` at the end names those that did.
    """
    try:
        import ray
    except ImportError as error:
        raise TrialError("--ray wants Ray: pip install 'batchnorm-service[ray]'") from error

    ray.init(address=address, configure_logging=False, log_to_driver=False)
    try:
        # A process a trial: it gives its GPU's memory back, and takes the next one's environment.
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=DEATHS, max_calls=1)(run_as_task)
        tasks = {task.remote(trial, data): trial for trial in left_to_do(trials, say)}
        pending, failures = list(tasks), []
        while pending:
            (done,), pending = ray.wait(pending, num_returns=1)
            trial = tasks[done]
            try:
                node, files = ray.get(done)
            except Exception as error:  # whatever the task raised, or Ray about its worker
                failures.append(f"{trial.folder}: {str(error).strip().splitlines()[-1]}")
                continue
            unpack(files, trial.folder)
            say(f"{trial.folder}: done on {node}")
    finally:
        ray.shutdown()
    _raise_failures(failures, len(tasks))


def run_as_task(trial: Trial, data: Path | None) -> tuple[str, dict[str, bytes]]:
    """Run ``trial`` in this process; the machine's name, and what it left in its folder."""
    import platform

    os.environ.update({**SHARING, **os.environ})
    from training.data import load
    from training.fit import fit
    from training.freeze import freeze

    dataset = load(trial.recipe.dataset, data)
    if fit(trial, dataset, say=print)["status"] != "frozen":
        freeze(trial.folder, dataset, say=print)
    return platform.node(), pack(trial.folder)


def pack(folder: Path) -> dict[str, bytes]:
    """A finished trial's files."""
    return {name: (folder / name).read_bytes() for name in GATHERED}


def unpack(files: dict[str, bytes], folder: Path) -> None:
    """Put ``pack``'s files into ``folder``, each in one step, the record last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in GATHERED:
        path = folder / name
        if not path.exists() or path.read_bytes() != files[name]:
            write = functools.partial(Path.write_bytes, data=files[name])
            write_atomically(path, write)


def _raise_failures(failures: list[str], count: int) -> None:
    if failures:
        listed = "\n".join(failures)
        raise TrialError(f"{len(failures)} of {count} trials failed; repeat to go on:\n{listed}")
