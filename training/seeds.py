"""Trials of one variant, combined: they are seeds if they agree in everything else.

In: trials as ``comparison.json`` holds them. They come from the records of this machine
(``entry_of``) or were published before (``that_stay``); what they have in common is a row of the
table (``summary``).
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.trial import TrialError, differences, precision_of, recipe_of, variant_of

BESIDE = ("seed", "dataset")  # of a configuration: these stand in the entry itself


def entry_of(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A frozen trial as the comparison holds it. Raises ``TrialError`` without its history."""
    configuration, outcome = record["configuration"], record["outcome"]
    dataset, hold_out = configuration["dataset"], configuration["hold_out"]
    return {
        "variant": configuration["variant"]["name"],
        "seed": configuration["seed"],
        "dataset": dataset,
        "steps": outcome["steps"],
        "kept_step": outcome["kept_step"],
        "images": outcome["images"],
        "passes": outcome["images"] / (dataset["train_images"] - hold_out),
        "seconds": outcome["seconds"],
        "images_per_second": outcome["images_per_second"],
        "validation_set": outcome["validation_set"],
        "hold_out": hold_out,
        "configuration": {key: value for key, value in configuration.items() if key not in BESIDE},
        "hardware": record["hardware"],
        "backend": record["backend"],
        "precision": precision_of(record),
        "versions": record["versions"],
        "history": _history(folder / "history.csv", outcome["kept_step"]),
        "freeze": record["freeze"],
    }


def _history(path: Path, kept_step: int) -> list[dict[str, Any]]:
    """A row an epoch. Raises ``TrialError`` where the file does not tell of the kept step."""
    try:
        with path.open(newline="") as file:
            history: list[dict[str, Any]] = [
                {
                    key: int(value) if key in ("epoch", "step") else float(value)
                    for key, value in row.items()
                }
                for row in csv.DictReader(file)
            ]
        if kept_step not in [row["step"] for row in history]:
            raise ValueError(f"no row of step {kept_step:,}")
    except FileNotFoundError:
        raise TrialError(f"{path}: is missing; put it back, or remove the folder") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrialError(f"{path}: cannot be read ({error}); remove the folder") from error
    return history


def refuse_mixtures(trials: dict[Path, dict[str, Any]]) -> None:
    """Raise ``TrialError`` unless the trials can be averaged and drawn together.

    Of a variant they differ by the seed alone; all have validated on as many pictures held out.
    """
    firsts: dict[str, Path] = {}
    for folder, trial in trials.items():
        first = firsts.setdefault(trial["variant"], folder)
        differing = [
            f"{name} is {one!r} in {first} and {two!r} in {folder}"
            for name, one, two in _differences(trials[first], trial)
        ]
        if differing:
            raise TrialError(
                f"{'; '.join(differing)}: these are no seeds of one configuration; "
                "compare them from --runs folders of their own"
            )
    held_out = {trial["hold_out"]: folder for folder, trial in trials.items()}
    if len(held_out) > 1:
        (few, one), (many, other) = sorted(held_out.items())[:2]
        raise TrialError(
            f"{one} held out {few:,} pictures and {other} {many:,}: their curves are of different "
            "pictures; compare them from --runs folders of their own"
        )


def _differences(one: dict[str, Any], two: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """At what two trials are no seeds of one configuration.

    Where one does not know a knob of the recipe or the variant, that has its default. Raises
    ``KeyError`` and the like where one does not say it all.
    """

    def knobs(trial: dict[str, Any]) -> dict[str, Any]:
        freeze = {name: trial["freeze"][name] for name in ("kind", "images", "batches")}
        return {
            **trial["configuration"],
            "recipe": asdict(recipe_of(trial)),
            "variant": asdict(variant_of(trial)),
            "dataset": trial["dataset"],
            "freeze": freeze,
        }

    return differences(knobs(one), knobs(two))


def that_stay(
    published: list[dict[str, Any]], here: list[dict[str, Any]], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The ``published`` trials that are not ``here``, and can stand in one table with those."""
    own = {(trial["variant"], trial["seed"]) for trial in here}
    stay = []
    for trial in published:
        name = f"{trial['variant']}, seed {trial['seed']}"
        if (trial["variant"], trial["seed"]) in own:
            continue
        reason = _conflict(trial, here)
        if reason:
            say(f"{name}: has no trial here, and {reason}; left out")
            continue
        say(f"{name}: has no trial here, stays as it was published")
        stay.append(trial)
    return stay


def _conflict(published: dict[str, Any], here: list[dict[str, Any]]) -> str | None:
    """Why a published trial cannot stand in one table with those ``here``; None: it can."""
    if published["hold_out"] != here[0]["hold_out"]:
        return "validated on other pictures"
    seeds = [trial for trial in here if trial["variant"] == published["variant"]]
    if not seeds:
        return None
    try:
        differing = [
            f"{name} is {one!r} there and {two!r} here"
            for name, one, two in _differences(published, seeds[0])
        ]
    except (KeyError, TypeError, ValueError):  # an older version's, or a newer one's
        return "does not say how it was fitted, or not as this version does"
    return "; ".join(differing) or None


def summary(name: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """What the table says of a variant: means over its trials, of the test pictures."""
    freezes = [trial["freeze"] for trial in trials]
    gains = [
        each["after"]["top1"] - each["before"]["top1"]
        for each in freezes
        if each["kind"] == "population"
    ]
    return {
        "variant": name,
        "n": len(trials),
        "steps": sorted({trial["steps"] for trial in trials}),
        **{
            stage: {
                key: _mean([e[stage][key] for e in freezes]) for key in ("top1", "top5", "loss")
            }
            for stage in ("before", "after")
        },
        "gain": statistics.fmean(gains) if gains else None,
        "images_per_second": statistics.median(trial["images_per_second"] for trial in trials),
        "seconds": statistics.median(trial["seconds"] for trial in trials),
    }


def _mean(values: list[float | None]) -> dict[str, float | None]:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < len(values):  # a net that diverged
        return {"mean": None, "spread": None}
    return {
        "mean": statistics.fmean(finite),
        "spread": statistics.stdev(finite) if len(finite) > 1 else 0.0,
    }
