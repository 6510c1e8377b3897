"""The study's figure and table, for whatever frozen trials exist.

In: the records and histories under ``runs/<recipe>/``, and the comparison that is there already.
Out, beside the models: ``comparison.json`` (everything below, for machines), ``comparison.md`` (the
tables) and ``comparison.png``/``.svg`` (the curves). A recipe is a section of its own; what the
file says of other recipes on the same data stays, and of the recipe's variants that have no trial
here. The article's own figures stand beside ours; nothing is selected by any of them.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.study import StudyError, read_studies
from training.figure import draw
from training.recipes import RECIPES
from training.repository import ExportError, held, refuse_other_data, write_text
from training.table import markdown, sections
from training.trial import TrialError, find_trials, read_record, recipe_of, write_atomically
from training.variants import VARIANTS

# Harrison Jansma's four checkpoints of 2018, evaluated on the 10,000 test pictures with the moving
# averages they were published with; minutes as his notebook shows them.
ARTICLE = {
    "relu_with_bn": {"top1": 0.5677, "top5": 0.8509, "loss": 1.560, "minutes": 20.0},
    "sigmoid_with_bn": {"top1": 0.5126, "top5": 0.8118, "loss": 1.806, "minutes": 21.1},
    "relu_without_bn": {"top1": 0.2832, "top5": 0.5882, "loss": 2.853, "minutes": 17.9},
    "sigmoid_without_bn": {"top1": 0.0100, "top5": 0.0500, "loss": 4.605, "minutes": 18.2},
}
ARTICLE_STEPS = 40_000


def compare(
    runs: Path, recipe: str, to: Path, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Compare the frozen trials of ``recipe`` under ``runs``, write the four files into ``to``.

    Returns what ``comparison.json`` holds: the first recipe in the fields of the document itself,
    the others, each with the same fields, in ``also``. Trials that are not frozen yet are left out
    and named. Raises ``TrialError`` where none is left, or where they cannot stand in one table;
    ``ExportError`` where ``to`` is of other data, broken or cannot be written.
    """
    trials, configurations = [], {}
    for folder in find_trials(runs, recipe):
        record = read_record(folder)
        if record is None or record["status"] != "frozen":
            say(f"{folder}: not frozen yet, left out")
            continue
        trials.append(_trial(folder, record))
        configurations[folder] = record["configuration"] | {
            "recipe": asdict(recipe_of(record)),
            "freeze": {name: record["freeze"][name] for name in ("kind", "images", "batches")},
        }
    if not trials:
        raise TrialError(
            f"{runs}/{recipe}: no frozen trial to compare; run the training and the freeze first"
        )
    _refuse_mixtures(configurations)
    section = {
        "recipe": recipe,
        "summary": [
            _summary(name, [trial for trial in trials if trial["variant"] == name])
            for name in VARIANTS
            if any(trial["variant"] == name for trial in trials)
        ],
        "trials": trials,
    }
    with held(to, say):
        published = _published(to, trials[0]["dataset"])
        content = _content(_with_the_others(section, published, say), published)
        _write(to, content)
    say(f"{to}: comparison.json, comparison.md, comparison.png, comparison.svg")
    return content


def _with_the_others(
    section: dict[str, Any], published: list[dict[str, Any]], say: Callable[[str], None]
) -> dict[str, Any]:
    """``section``, and what is published of its recipe's variants that have no trial here."""
    here = {row["variant"] for row in section["summary"]}
    held_out = section["trials"][0]["hold_out"]
    before = next((each for each in published if each["recipe"] == section["recipe"]), section)
    rows, trials = list(section["summary"]), list(section["trials"])
    for row in before["summary"]:
        name = row["variant"]
        own = [trial for trial in before["trials"] if trial["variant"] == name]
        if name in here:
            continue
        if any(trial.get("hold_out", 0) != held_out for trial in own):
            say(f"{name}: has no trial here, and validated on other pictures; left out")
            continue
        say(f"{name}: has no trial here, stays as it was published")
        rows.append(row)
        trials += own
    order = list(VARIANTS)
    rows.sort(key=lambda row: order.index(row["variant"]))
    trials.sort(key=lambda trial: order.index(trial["variant"]))
    return {**section, "summary": rows, "trials": trials}


def _content(section: dict[str, Any], published: list[dict[str, Any]]) -> dict[str, Any]:
    """The document: ``section`` in place of the published one of its recipe, in their order."""
    order = list(RECIPES)
    first, *others = sorted(
        [section, *(each for each in published if each["recipe"] != section["recipe"])],
        key=lambda each: order.index(each["recipe"]) if each["recipe"] in order else len(order),
    )
    dataset = section["trials"][0]["dataset"]
    content: dict[str, Any] = _finite(
        {
            "schema_version": 1,
            "recipe": first["recipe"],
            "dataset": dataset,
            "article": ARTICLE if dataset["name"] == "cifar100" else None,
            "article_reference": {"steps": ARTICLE_STEPS},
            "summary": first["summary"],
            "trials": first["trials"],
            "also": others,
        }
    )
    return content


def _write(to: Path, content: dict[str, Any]) -> None:
    figure = draw(content)
    write_text(to / "comparison.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(to / "comparison.md", markdown(content))
    # No dates in the files: the same trials draw the same bytes.
    write_atomically(
        to / "comparison.png",
        lambda path: figure.savefig(path, dpi=120, metadata={"Software": None}),
    )
    write_atomically(
        to / "comparison.svg", lambda path: figure.savefig(path, metadata={"Date": None})
    )


def _published(to: Path, dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections that stand in ``to``. Raises ``ExportError`` where they are of other data."""
    refuse_other_data(to, dataset["name"])
    path = to / "comparison.json"
    if not path.exists():
        return []
    try:
        read_studies(to)  # the page's reader knows best what may be wrong with it
        published = json.loads(path.read_text())
        there = published["dataset"]
        if there["checksum"] != dataset["checksum"]:
            raise ExportError(
                f"{path}: is of {there['name']} (checksum {there['checksum'][:12]}…), and these "
                f"trials are of {dataset['name']} ({dataset['checksum'][:12]}…); give another "
                "folder (--to; with make, MODELS=)"
            )
    except (StudyError, KeyError, TypeError) as error:
        raise ExportError(f"{path}: {error}; mend or remove it") from error
    return sections(published)


def _refuse_mixtures(configurations: dict[Path, dict[str, Any]]) -> None:
    """Raise ``TrialError`` unless the trials can be averaged and drawn together.

    Of a variant they differ by the seed alone; all have validated on as many pictures held out.
    """
    firsts: dict[str, Path] = {}
    for folder, own in configurations.items():
        first = firsts.setdefault(folder.parent.name, folder)
        differing = [
            f"{name} is {one!r} in {first} and {two!r} in {folder}"
            for name, one, two in _pairs(configurations[first], own)
            if one != two and name != "seed"
        ]
        if differing:
            raise TrialError(
                f"{'; '.join(differing)}: these are no seeds of one configuration; "
                "compare them from --runs folders of their own"
            )
    held_out = {own["hold_out"]: folder for folder, own in configurations.items()}
    if len(held_out) > 1:
        (few, one), (many, other) = sorted(held_out.items())[:2]
        raise TrialError(
            f"{one} held out {few:,} pictures and {other} {many:,}: their curves are of different "
            "pictures; compare them from --runs folders of their own"
        )


def _pairs(one: dict[str, Any], two: dict[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    """Every value of two configurations, those of the recipe and of the freeze one by one."""
    for key, value in one.items():
        if key in ("recipe", "freeze"):
            yield from ((f"{key}.{name}", value[name], two[key][name]) for name in value)
        else:
            yield key, value, two.get(key)


def _trial(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    configuration, outcome = record["configuration"], record["outcome"]
    return {
        "variant": configuration["variant"]["name"],
        "seed": configuration["seed"],
        "dataset": configuration["dataset"],
        "steps": outcome["steps"],
        "kept_step": outcome["kept_step"],
        "images": outcome["images"],
        "seconds": outcome["seconds"],
        "images_per_second": outcome["images_per_second"],
        "validation_set": outcome["validation_set"],
        "hold_out": configuration["hold_out"],
        "hardware": record["hardware"],
        "backend": record["backend"],
        "precision": configuration["recipe"].get("precision", "float32"),
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


def _summary(name: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
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


def _mean(values: list[float]) -> dict[str, float | None]:
    if not all(map(math.isfinite, values)):  # a net that diverged
        return {"mean": None, "spread": None}
    return {
        "mean": statistics.fmean(values),
        "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
    }


def _finite(value: Any) -> Any:
    """``value`` as JSON can hold it: null in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
