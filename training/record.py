"""What a trial's record says of its fit, and the history beside it.

A record (``trial.json``) is ``"fitting"`` from the first step on, ``"fitted"`` once ``model.keras``
exists, ``"frozen"`` once ``frozen.keras`` does. Before one of the two nets is replaced, the record
goes back to the status before it, so that it never describes a net that is not there.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np

from training.checkpoint import Progress
from training.environment import hardware, versions
from training.trial import Trial, write_own

HISTORY = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "images_per_second")


def tools(precision: str) -> dict[str, Any]:
    """With what this process computes, and in what: the versions, Keras' backend, the hardware."""
    return {
        "versions": versions(),
        "backend": keras.backend.backend(),
        "hardware": hardware(),
        "precision": precision,
    }


def begun(configuration: dict[str, Any], net: keras.Model, progress: Progress) -> dict[str, Any]:
    """The record of a trial under way."""
    return {
        "schema_version": 1,
        "status": "fitting",
        "configuration": configuration,
        **_together(progress.runs),
        "parameters": {"trainable": _count(net.trainable_variables), "total": _count(net.weights)},
    }


def fitted(
    record: dict[str, Any], trial: Trial, progress: Progress, kept_step: int
) -> dict[str, Any]:
    """``record``, with what came of the fit: the net of step ``kept_step`` is the one kept."""
    row = next(row for row in progress.history if row["step"] == kept_step)
    outcome = {
        "steps": progress.step,
        "epochs": len(progress.history),
        "images": progress.step * trial.recipe.batch,
        "seconds": progress.seconds,
        "images_per_second": progress.step * trial.recipe.batch / progress.seconds,
        "stopped_early": progress.step < trial.recipe.steps,
        "kept_step": kept_step,
        "validation_set": "hold-out" if trial.hold_out else "test",
        "validation_loss": row["val_loss"],
        "validation_accuracy": row["val_accuracy"],
    }
    return record | {"status": "fitted", "runs": progress.runs, "outcome": outcome}


def write_history(folder: Path, rows: list[dict[str, float]]) -> None:
    """Replace ``history.csv`` in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_own(folder / "history.csv", lambda passing: passing.write_text(text.getvalue()))


def _together(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The tools of all ``runs``; where they differ, one after another: ``tensorflow; jax``."""

    def all_of(values: list[str]) -> str:
        return "; ".join(dict.fromkeys(values))

    names = dict.fromkeys(name for run in runs for name in run["versions"])
    return {
        "versions": {
            name: all_of([run["versions"][name] for run in runs if name in run["versions"]])
            for name in names
        },
        "backend": all_of([run["backend"] for run in runs]),
        "hardware": all_of([run["hardware"] for run in runs]),
        "precision": all_of([run["precision"] for run in runs]),
    }


def _count(variables: list[Any]) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)
