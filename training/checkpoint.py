"""How far a trial is, and the file that holds it: every variable and the progress, in one."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from training.loop import Logs
from training.trial import write_atomically


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

    def count(self, logs: Logs, seconds: float) -> None:
        """Add steps, with the loss and accuracy of each, and how long they took together."""
        self.step += len(logs)
        self.epoch_steps += len(logs)
        self.seconds += seconds
        self.epoch_seconds += seconds
        for loss, accuracy in logs.tolist():  # one by one: the sum is the same however they came
            self.loss_sum += loss
            self.accuracy_sum += accuracy


def write_variables(path: Path, variables: list[Any], progress: Progress) -> None:
    """The variables' values and the progress, as one file, put in its place in one step."""
    arrays = {f"{index:04d}": np.array(value) for index, value in enumerate(variables)}
    said = np.array(json.dumps(asdict(progress)))

    def write(passing: Path) -> None:
        with passing.open("wb") as file:
            np.savez(file, allow_pickle=False, progress=said, **arrays)

    write_atomically(path, write)


def read_variables(path: Path, variables: list[Any]) -> Progress:
    """Assign what ``path`` holds to ``variables`` and return the progress written with it."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        if len(stored.files) != len(variables) + 1:
            raise ValueError(f"{len(stored.files) - 1} variables, not {len(variables)}")
        for index, variable in enumerate(variables):
            variable.assign(stored[f"{index:04d}"])
        return Progress(**json.loads(str(stored["progress"])))


def step_of(file: IO[bytes]) -> int:
    """How many steps the checkpoint in ``file`` had behind it."""
    with np.load(file, allow_pickle=False) as stored:
        return int(json.loads(str(stored["progress"]))["step"])
