"""A trial's checkpoint: every variable, the progress, and which trial they belong to.

All in one file, so that they are always of the same step.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from training.loop import Logs
from training.trial import TrialError, check_same, write_own

Values = NDArray[Any]

# The way out where a checkpoint is of no use; what a trial has finished lies in other files.
ANEW = "remove this file to start over; what was finished stays"

# What reading a damaged file raises.
BROKEN = (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclass
class Progress:
    """How far a trial is: what a checkpoint holds besides the variables."""

    step: int = 0
    seconds: float = 0.0  # spent in steps, validation and checkpoints apart
    epoch_steps: int = 0  # of the epoch under way, as are the three that follow
    epoch_seconds: float = 0.0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_loss: float = math.inf
    best_step: int = 0
    # Who computed the steps: {"steps": n, **tools} each (see ``training.record``), in their order.
    runs: list[dict[str, Any]] = field(default_factory=list)
    # What would be kept of the best step, where that is asked for: the net's variables. In the file
    # they are arrays of their own.
    best: list[Values] = field(default_factory=list)

    def goes_on_with(self, tools: dict[str, Any]) -> None:
        """Say with what the next steps are computed, where it is not what computed the last."""
        if not self.runs or {**self.runs[-1], **tools} != self.runs[-1]:
            self.runs.append({"steps": 0, **tools})

    def count(self, logs: Logs, seconds: float) -> None:
        """Add steps, with the loss and accuracy of each, and how long they took together."""
        self.step += len(logs)
        self.runs[-1]["steps"] += len(logs)
        self.epoch_steps += len(logs)
        self.seconds += seconds
        self.epoch_seconds += seconds
        for loss, accuracy in logs.tolist():  # one by one: the sum is the same however they came
            self.loss_sum += loss
            self.accuracy_sum += accuracy


def write_variables(
    path: Path, variables: list[Any], progress: Progress, configuration: dict[str, Any]
) -> None:
    """The variables' values, the progress, and the configuration of the trial that they are of, as
    one file, put in its place in one step.
    """
    arrays = {f"{index:04d}": np.array(value) for index, value in enumerate(variables)}
    for index, value in enumerate(progress.best):
        arrays[f"best{index:04d}"] = value
    arrays["progress"] = np.array(json.dumps(asdict(replace(progress, best=[]))))
    arrays["configuration"] = np.array(json.dumps(configuration))

    def write(passing: Path) -> None:
        with passing.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_own(path, write)


def read_variables(path: Path, variables: list[Any], configuration: dict[str, Any]) -> Progress:
    """Assign what ``path`` holds to ``variables`` and return the progress written with it.

    Raises ``TrialError`` where it is not of the trial of ``configuration``, or is broken.
    """
    try:
        if path.exists() and not zipfile.is_zipfile(path):  # NumPy would take it for a pickle
            raise ValueError("it is damaged")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            written = json.loads(str(stored["configuration"]))
            check_same(path, {"configuration": written}, configuration, ANEW)
            count = sum(name.isdecimal() for name in stored.files)
            if count != len(variables):
                raise ValueError(f"{count} variables, not {len(variables)}")
            for index, variable in enumerate(variables):
                variable.assign(stored[f"{index:04d}"])
            progress = Progress(**json.loads(str(stored["progress"])))
            names = sorted(name for name in stored.files if name.startswith("best"))
            progress.best = [stored[name] for name in names]
            return progress
    except BROKEN as error:
        raise TrialError(f"{path}: does not fit this trial ({error}); {ANEW}") from error


def step_of(file: IO[bytes]) -> int:
    """How many steps the checkpoint in ``file`` had behind it."""
    with np.load(file, allow_pickle=False) as stored:
        return int(json.loads(str(stored["progress"]))["step"])
