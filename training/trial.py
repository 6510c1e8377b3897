"""One trial = (recipe, variant, seed) = one folder, and the record it keeps of itself.

    runs/<recipe>/<variant>/seed-<n>/
        trial.json       what was asked for, on which data, with which tools, and the outcome
        history.csv      one row per epoch
        checkpoint.npz   every variable at the last checkpoint, and the trial it belongs to; a
                         killed trial, or one given more steps, resumes from here
        model.keras      the net as fitted: moving averages in its normalization layers
        frozen.keras     the net as frozen: population statistics (see ``training.freeze``)

Every file is written atomically (``training.files``).
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.dataset import Dataset
from training.files import sweep, write_atomically
from training.recipes import LEARNING_RATES, RECIPES, Augmentation, Recipe
from training.variants import VARIANTS, Variant

# What a trial's folder may hold otherwise than asked: it can be fitted on, and frozen again.
NOT_OF_THE_FIT = ("recipe.steps", "recipe.freeze_images", "recipe.freeze_batch")


class TrialError(Exception):
    """A trial cannot be run or read as asked; the message names the folder and the way out."""


class BusyError(TrialError):
    """Another process works on the trial: there is nothing to mend, only to wait for."""


@dataclass(frozen=True)
class Trial:
    """What to fit, and where. ``hold_out`` pictures leave the training set and serve selection."""

    recipe: Recipe
    variant: Variant
    seed: int
    runs: Path = Path("runs")
    hold_out: int = 0  # pictures; 0: none, and validation shows the test set, as the article did
    keep_best: bool = False  # keep the weights of the epoch that is best on the hold-out
    patience: int = 0  # epochs without a new best before stopping; 0: never stop early

    def __post_init__(self) -> None:
        if (self.keep_best or self.patience) and not self.hold_out:
            raise TrialError(
                "keeping the best epoch and stopping early are selections, and nothing is selected "
                "on the test set: give --hold-out N as well (5000, say)"
            )

    @property
    def folder(self) -> Path:
        """Where the trial lives."""
        return self.runs / self.recipe.name / self.variant.name / f"seed-{self.seed}"

    def configuration(self, dataset: Dataset, training_mean: float) -> dict[str, Any]:
        """What decides the weights: two records that differ here are two different trials."""
        return {
            "recipe": asdict(self.recipe),
            "variant": asdict(self.variant),
            "seed": self.seed,
            "hold_out": self.hold_out,
            "keep_best": self.keep_best,
            "patience": self.patience,
            "dataset": {
                "name": dataset.name,
                "checksum": dataset.checksum,
                "train_images": len(dataset.train_images),
                "test_images": len(dataset.test_images),
            },
            "training_mean": training_mean,
        }


def read_record(folder: Path) -> dict[str, Any] | None:
    """The folder's ``trial.json``, or None where there is none. Raises ``TrialError``."""
    path = folder / "trial.json"
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise TrialError(
            f"{path}: cannot be read ({error.strerror}); mend that, or give another --runs folder"
        ) from error
    except ValueError as error:
        raise TrialError(f"{path}: not JSON ({error}); remove the folder to start over") from error
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("status"), str)
        or not isinstance(record.get("configuration"), dict)
        or not {"recipe", "variant", "seed"} <= record["configuration"].keys()
    ):
        raise TrialError(f"{path}: not a trial's record; remove the folder to start over")
    for part, read in (("recipe", recipe_of), ("variant", variant_of)):
        try:
            read(record)
        except (TypeError, ValueError, KeyError) as error:
            raise TrialError(
                f"{path}: this version has no such {part} ({error}); use the version that wrote "
                "it, or give another --runs folder"
            ) from error
    return record


def read_named(folder: Path) -> dict[str, Any] | None:
    """The folder's record, as ``read_record`` has it, of the trial that the folder is named after.

    Raises ``TrialError`` where it is of another one: a copy is no further seed or recipe.
    """
    record = read_record(folder)
    if record is None:
        return None
    own = record["configuration"]
    names = own["recipe"]["name"], own["variant"]["name"], f"seed-{own['seed']}"
    if folder.absolute().parts[-3:] != names:
        raise TrialError(
            f"{folder}: its record is of {'/'.join(names)}, another trial than the folder is named "
            "after; move it to that place, in this --runs folder or another, or remove it"
        )
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace ``trial.json`` in one step. Raises ``ValueError`` for what JSON has not: NaN."""
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_own(folder / "trial.json", lambda path: path.write_text(text))


def write_own(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a trial's file as ``write_atomically`` does. Raises ``TrialError`` where it cannot be,
    as on a full disk; the file that was there before stays.
    """
    try:
        write_atomically(path, write)
    except OSError as error:
        raise TrialError(
            f"{path.parent}: cannot be written ({error.strerror or error}); make room and repeat "
            "the command, it goes on"
        ) from error


def find_trials(runs: Path, recipe: str) -> list[Path]:
    """Folders of ``recipe`` that hold a trial's record, in the variants' order, then by seed.

    Folders of another name (``seed-1-backup``) are passed over.
    """
    order = list(VARIANTS)
    found = [path.parent for path in runs.glob(f"{recipe}/*/seed-*/trial.json")]
    return sorted(
        (
            folder
            for folder in found
            if folder.parent.name in VARIANTS and re.fullmatch(r"seed-[0-9]+", folder.name)
        ),
        key=lambda folder: (
            order.index(folder.parent.name),
            int(folder.name.removeprefix("seed-")),
        ),
    )


def check_data(folder: Path, record: dict[str, Any], dataset: Dataset) -> None:
    """Raises ``TrialError`` where the trial was fitted on other data than ``dataset``."""
    fitted_on = record["configuration"]["dataset"]
    if fitted_on["checksum"] != dataset.checksum:
        raise TrialError(
            f"{folder}: fitted on {fitted_on['name']} with checksum {fitted_on['checksum'][:12]}…, "
            f"but this data's is {dataset.checksum[:12]}…; give the data it was fitted on"
        )


def recipe_of(record: Mapping[str, Any]) -> Recipe:
    """The recipe as it was run, overrides included."""
    fields = dict(record["configuration"]["recipe"])
    return Recipe(**{**fields, "augmentation": Augmentation(**fields["augmentation"])})


def precision_of(record: Mapping[str, Any]) -> str:
    """In what the steps were computed: that of the recipe, or what the machine has in its place."""
    return str(record.get("precision", recipe_of(record).precision))


def variant_of(record: dict[str, Any]) -> Variant:
    """The variant as it was fitted."""
    return Variant(**record["configuration"]["variant"])


def is_fitted(record: dict[str, Any], steps: int) -> bool:
    """Whether ``record`` is of a fit that ended, after ``steps`` or more or by its patience."""
    outcome = record.get("outcome")
    return bool(outcome and (outcome["stopped_early"] or recipe_of(record).steps >= steps))


def nothing_to_fit(folder: Path, record: dict[str, Any]) -> str:
    """What to say of a trial that is ``is_fitted`` as far as it was asked for."""
    return f"{folder}: done already ({record['outcome']['steps']:,} steps), nothing to fit"


def check_same(
    there: Path,
    record: dict[str, Any],
    asked: dict[str, Any],
    way_out: str = "remove this one to start over",
) -> None:
    """Raise ``TrialError`` unless the configurations of ``record``, which ``there`` holds, and
    ``asked`` make the same weights, up to the number of steps; with a schedule that is part of
    them. A knob of the recipe or the variant that a record does not know has its default there.
    """
    stored = record["configuration"] | {
        "recipe": asdict(recipe_of(record)),
        "variant": asdict(variant_of(record)),
    }
    free = set(NOT_OF_THE_FIT)
    if asked["recipe"]["schedule"] != "constant":
        free.discard("recipe.steps")

    differing = [
        f"{name} is {old!r} there and {new!r} here"
        for name, old, new in differences(stored, asked)
        if name not in free
    ]
    if differing:
        raise TrialError(
            f"{there}: holds another trial ({'; '.join(differing)}); "
            f"give another --runs folder, or {way_out}"
        )


def differences(
    one: dict[str, Any], two: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Where two configurations differ: the dotted name and both values, by name; None: has none."""
    for key in sorted(one.keys() | two.keys()):
        old, new = one.get(key), two.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new


def override(name: str, variant: str | None = None, **changes: Any) -> Recipe:
    """The named recipe, as ``variant`` stands it, with every change that is not None.

    ``steps`` and ``epochs`` exclude one another; an epoch is ``steps_per_epoch`` of the recipe.
    """
    recipe = RECIPES[name]
    if variant is not None and (name, variant) in LEARNING_RATES:
        recipe = replace(recipe, learning_rate=LEARNING_RATES[name, variant])
    epochs = changes.pop("epochs", None)
    if epochs is not None:
        if changes.get("steps") is not None:
            raise TrialError("give --steps or --epochs, not both")
        changes["steps"] = epochs * recipe.steps_per_epoch
    return replace(recipe, **{key: value for key, value in changes.items() if value is not None})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, made where there is none, for this process; the lock goes with the process,
    however it ends. Raises ``BusyError``, and ``TrialError`` where there is no folder to be had.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise TrialError(
            f"{folder}: cannot be written ({error.strerror}); give another --runs"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"{folder}: another process is working on this trial") from error
        except OSError as error:  # a file system without locks, which no waiting helps
            raise TrialError(
                f"{folder}: cannot be locked ({error}); give another --runs"
            ) from error
        sweep(folder)
        yield
