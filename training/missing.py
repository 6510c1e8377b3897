"""Trials that a command needs and that are missing, or not far enough.

Checked before the data is loaded or downloaded: the message names all such trials together, each
with the command that makes it.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Literal

from training.spread import command
from training.trial import Trial, TrialError, read_named, recipe_of
from training.variants import VARIANTS


def refuse_missing(
    folders: list[Path], wanted: Literal["fitted", "frozen"], data: Path | None
) -> None:
    """Raise ``TrialError`` unless the trials in ``folders`` are all ``wanted``; frozen is fitted.

    The folders are ``runs/<recipe>/<variant>/seed-<n>`` and need not exist. ``data`` is where the
    user has the pictures.
    """
    missing = []
    for folder in folders:
        record = read_named(folder)
        if record is None:
            missing.append(
                f"{folder}: no trial there; make it with: {_named('train', folder, data)}"
            )
        elif record["status"] in (wanted, "frozen"):
            continue
        elif record["status"] == "fitted":
            missing.append(
                f"{folder}: not frozen yet; go on with: {_named('freeze', folder, data)}"
            )
        else:
            way_out = _as_begun(folder, record, data)
            missing.append(f"{folder}: not fitted to its end; go on with: {way_out}")
    if len(missing) == 1:
        raise TrialError(f"{missing[0]} (or choose others by --variants)")
    if missing:
        listed = "\n".join(missing)
        raise TrialError(
            f"{len(missing)} of {len(folders)} trials are missing; make them, or choose others by "
            f"--variants:\n{listed}"
        )


def _named(name: str, folder: Path, data: Path | None) -> str:
    """The command ``name`` for the trial in ``folder``, by the recipe as it is."""
    runs, recipe, variant = folder.parents[2], folder.parents[1].name, folder.parent.name
    seed = folder.name.removeprefix("seed-")
    options = ["--recipe", recipe, "--variants", variant, "--seeds", seed, "--runs", str(runs)]
    if data is not None:
        options += ["--data", str(data)]
    return shlex.join([sys.executable, "-m", "training", name, *options])


def _as_begun(folder: Path, record: dict[str, Any], data: Path | None) -> str:
    """The command that takes a trial to its end, with the steps and all else it was begun with."""
    own = record["configuration"]
    trial = Trial(
        recipe=recipe_of(record),
        variant=VARIANTS[folder.parent.name],
        seed=own["seed"],
        runs=folder.parents[2],
        hold_out=own["hold_out"],
        keep_best=own["keep_best"],
        patience=own["patience"],
    )
    return shlex.join(command(trial, data))
