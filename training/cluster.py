"""Many trials on the machines of a Ray cluster.

A task is a trial. It receives the trial's files from the machine that runs the command, works in
the runs folder of its own machine, and sends its files back. So the machines may share one folder,
or not. In both directions the further of two states of a trial is kept: the net that is further
along, and the checkpoint that is, from whichever side has it. Another trial is never overwritten.

A worker imports this module before a task tells it which backend is asked for, so whatever imports
Keras is imported inside the functions.
"""

from __future__ import annotations

import io
import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from training.backend import THREADS, threads_told, with_threads
from training.cifar100 import VARIABLE
from training.spread import (
    BUSY_SECONDS,
    DEATHS,
    SHARING,
    failure,
    left_to_do,
    raise_failures,
    record_if_done,
    run_in_turn,
)
from training.trial import (
    BusyError,
    Trial,
    TrialError,
    check_same,
    locked,
    read_record,
    write_own,
)

CHECKPOINT = "checkpoint.npz"
RECORD = "trial.json"
FILES = (CHECKPOINT, "history.csv", "model.keras", "frozen.keras", RECORD)
STATUSES = ("fitting", "fitted", "frozen")
CONNECT_SECONDS = 5.0


def run_on_ray(
    trials: list[Trial],
    data: Path | None,
    address: str,
    gpus: float,
    say: Callable[[str], None],
) -> None:
    """Run ``trials`` as tasks of the Ray cluster at ``address``, with ``gpus`` GPUs each.

    Each takes a CPU and computes with one thread, or as many as ``TF_NUM_INTRAOP_THREADS`` says
    here, and by this machine's Keras backend. Every machine needs this package and the data at the
    same places, where ``CIFAR100_DIR`` names them too. Ray starts the task of a worker or machine
    that died again, until ``DEATHS`` have.
    """
    try:
        import ray
    except ImportError as error:
        raise TrialError("--ray wants Ray: make setup, or pip install ray") from error
    import keras

    threads = threads_told(THREADS) or 1
    environment = {"KERAS_BACKEND": keras.backend.backend(), **with_threads(threads)}
    if data is None and os.environ.get(VARIABLE):
        data = Path(os.environ[VARIABLE])
    if data is not None and not str(data).startswith("~"):
        data = data.absolute()  # a worker stands in another folder
    left, failures = left_to_do(trials, say)
    _check_reachable(address)
    try:
        ray.init(address=address, configure_logging=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise TrialError(f"--ray {address}: {error}") from error
    try:
        # A process a trial: it gives its GPU's memory back, and takes the next one's environment.
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=DEATHS - 1, max_calls=1)(
            run_as_task
        )
        if not any(
            node["Alive"]
            and node["Resources"].get("CPU", 0) >= threads
            and node["Resources"].get("GPU", 0) >= gpus
            for node in ray.nodes()
        ):
            say(f"no machine of the cluster has {threads} CPUs and {gpus:g} GPUs; waits for one")
        tasks = {task.remote(each, data, pack(each.folder), environment): each for each in left}
        pending = list(tasks)
        while pending:
            (done,), pending = ray.wait(pending, num_returns=1)
            trial = tasks.pop(done)
            try:
                node, files = ray.get(done)
                unpack(files, trial.folder, say)
                if record_if_done(trial) is None:
                    raise TrialError(f"{trial.folder}: another process took it further meanwhile")
            except Exception as error:  # whatever the task raised, or Ray about its worker
                said = str(error).strip() or type(error).__name__
                failures.append(failure(trial, said.splitlines()[-1]))
            else:
                say(f"{trial.folder}: done on {node}")
    finally:
        ray.shutdown()
    raise_failures(failures, len(trials))


def run_as_task(
    trial: Trial, data: Path | None, files: dict[str, bytes], environment: dict[str, str]
) -> tuple[str, dict[str, bytes]]:
    """Run ``trial`` in this process, from ``files`` on where they are further than its folder.

    Returns the machine's name and what it left in the folder. Keras is not imported before
    ``environment`` holds.
    """
    os.environ.update({**SHARING, **os.environ, **environment})
    node = platform.node()
    try:
        unpack(files, trial.folder, print)
        run_in_turn([trial], data, print)
    except TrialError as error:
        raise TrialError(f"{error} (on {node})") from error
    return node, pack(trial.folder)


def pack(folder: Path) -> dict[str, bytes]:
    """The files of the trial in ``folder``; none where it has no record.

    The record is read first and was written last: what goes with it is as new, or newer.
    """
    if not (folder / RECORD).exists():
        return {}
    paths = [folder / name for name in reversed(FILES)]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def unpack(files: dict[str, bytes], folder: Path, say: Callable[[str], None]) -> None:
    """Bring ``folder`` to where ``pack``'s files are, in whatever they are further than it.

    Raises ``TrialError`` where it holds another trial.
    """
    if not files:
        return
    with _held(folder, say):
        record = read_record(folder)
        here: dict[str, bytes] = {}  # what lies there without a record is of nobody
        if record is not None:
            check_same(folder, record, json.loads(files[RECORD])["configuration"])
            here = pack(folder)
            files = _furthest(here, files)
        new = [name for name in FILES if not here or files.get(name) != here.get(name)]
        if RECORD in new:  # it vouches for no mixture of old and new
            (folder / RECORD).unlink(missing_ok=True)
        for name in new:
            if name in files:
                write_own(folder / name, partial(Path.write_bytes, data=files[name]))
            else:
                (folder / name).unlink(missing_ok=True)


def _furthest(here: dict[str, bytes], there: dict[str, bytes]) -> dict[str, bytes]:
    """Of two states of a trial the further one; ``here`` where they are as far.

    What is finished outweighs any checkpoint, and a checkpoint beyond it is not lost for that: the
    two together are what a longer run leaves that was killed beside a finished one.
    """
    finished = max((here, there), key=_finished)
    longer = max((finished, here, there), key=_step)
    if not any(_finished(finished)):
        return longer
    if longer is finished:
        return finished
    return finished | {CHECKPOINT: longer[CHECKPOINT]}


def _finished(files: dict[str, bytes]) -> tuple[int, int]:
    """How many steps the finished fit had, and whether it is fitted or frozen; zeros for none."""
    record = json.loads(files[RECORD])
    return record.get("outcome", {}).get("steps", 0), STATUSES.index(record["status"])


def _step(files: dict[str, bytes]) -> int:
    """How many steps the checkpoint has behind it; none where it is not there or is damaged."""
    from training.checkpoint import BROKEN, step_of

    try:
        return step_of(io.BytesIO(files[CHECKPOINT]))
    except BROKEN:
        return 0


@contextmanager
def _held(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold ``folder`` for this process, after whoever works on its trial has let go."""
    with ExitStack() as stack:
        told = False
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except BusyError as error:
                if not told:
                    say(f"{error}; waits for it")
                told = True
                time.sleep(BUSY_SECONDS)
        yield


def _check_reachable(address: str) -> None:
    """Raise ``TrialError`` unless something listens at ``address``.

    Ray itself would try for a quarter of an hour. Where it looks, and in which order, is as
    ``ray.init`` documents it.
    """
    said = f"--ray {address}"
    if address == "auto" and os.environ.get("RAY_ADDRESS"):
        address = os.environ["RAY_ADDRESS"]
        said += f", which RAY_ADDRESS says is {address}"
    if address == "auto":
        temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
        latest = Path(temporary) / "ray" / "ray_current_cluster"
        if not latest.exists():
            return  # Ray looks among this machine's processes, which takes no time
        address = latest.read_text().strip()
        said += f", which is the cluster that this machine joined last, {address}"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise TrialError(f"{said}: neither auto nor host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise TrialError(
            f"{said}: no Ray cluster answers there ({error}); give the host:port of its head"
        ) from error
