"""The study's figure and table, for whatever frozen trials exist.

In: the records and histories under ``runs/<recipe>/``, and the comparison that is there already.
Out, beside the models: ``comparison.json`` (everything below, for machines), ``comparison.md`` (the
tables) and ``comparison.png``/``.svg`` (the curves). A recipe is a section of its own; what the
file says of other recipes on the same data stays. So do the recipe's trials that are not here, as
further seeds of their variant or of variants that have no trial here: seeds that were fitted on
several machines, or one after another, add up. The article's own figures stand beside ours;
nothing is selected by any of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from service.models.study import SCHEMA_VERSION, StudyError, read_studies
from training.figure import draw
from training.files import write_atomically, write_text
from training.recipes import RECIPES
from training.repository import ExportError, held, refuse_other_data
from training.seeds import entry_of, refuse_mixtures, summary, that_stay
from training.table import markdown
from training.trial import TrialError, find_trials, read_named
from training.variants import VARIANTS

# Harrison Jansma's four checkpoints of 2018, evaluated on the 10,000 test pictures with the moving
# averages they were published with; minutes as his notebook shows them.
ARTICLE = {
    "steps": 40_000,
    "passes": 64,  # over 50,000 pictures, 80 a step
    "variants": {
        "relu_with_bn": {"top1": 0.5677, "top5": 0.8509, "loss": 1.560, "minutes": 20.0},
        "sigmoid_with_bn": {"top1": 0.5126, "top5": 0.8118, "loss": 1.806, "minutes": 21.1},
        "relu_without_bn": {"top1": 0.2832, "top5": 0.5882, "loss": 2.853, "minutes": 17.9},
        "sigmoid_without_bn": {"top1": 0.0100, "top5": 0.0500, "loss": 4.605, "minutes": 18.2},
    },
}


def compare(
    runs: Path, recipe: str, to: Path, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Compare the frozen trials of ``recipe`` under ``runs``, write the four files into ``to``.

    Returns what ``comparison.json`` holds. Trials that are not frozen yet are left out and named.
    Raises ``TrialError`` where none is left, or where they cannot stand in one table;
    ``ExportError`` where ``to`` is of other data, broken or cannot be written.
    """
    trials: dict[Path, dict[str, Any]] = {}
    for folder in find_trials(runs, recipe):
        record = read_named(folder)
        if record is None or record["status"] != "frozen":
            say(f"{folder}: not frozen yet, left out")
            continue
        trials[folder] = entry_of(folder, record)
    if not trials:
        raise TrialError(
            f"{runs}/{recipe}: no frozen trial to compare; run the training and the freeze first"
        )
    refuse_mixtures(trials)
    with held(to, say):
        here = list(trials.values())
        published = _published(to, here[0]["dataset"])
        there = [each for each in published if each["recipe"] == recipe]
        stay = that_stay([trial for each in there for trial in each["trials"]], here, say)
        content = _content(_section(recipe, here + stay), published)
        _write(to, content)
    say(f"{to}: comparison.json, comparison.md, comparison.png, comparison.svg")
    return content


def _section(recipe: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """What the document says of ``recipe``: its trials by variant and seed, a row each variant."""
    order = list(VARIANTS)
    trials = sorted(trials, key=lambda trial: (order.index(trial["variant"]), trial["seed"]))
    return {
        "recipe": recipe,
        "summary": [
            summary(name, list(seeds))
            for name, seeds in groupby(trials, key=lambda trial: str(trial["variant"]))
        ],
        "trials": trials,
    }


def _content(section: dict[str, Any], published: list[dict[str, Any]]) -> dict[str, Any]:
    """The document: ``section`` in place of the published one of its recipe, in their order."""
    order = list(RECIPES)
    sections = sorted(
        [section, *(each for each in published if each["recipe"] != section["recipe"])],
        key=lambda each: order.index(each["recipe"]) if each["recipe"] in order else len(order),
    )
    dataset = section["trials"][0]["dataset"]
    content: dict[str, Any] = _finite(
        {
            "schema_version": SCHEMA_VERSION,
            "dataset": dataset,
            "article": ARTICLE if dataset["name"] == "cifar100" else None,
            "recipes": sections,
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
    """The sections that stand in ``to``.

    Raises ``ExportError`` where they are of other data, or of a variant that nobody knows any more.
    """
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
        found: list[dict[str, Any]] = published["recipes"]
        variants = {trial["variant"] for section in found for trial in section["trials"]}
    except (StudyError, KeyError, TypeError) as error:
        raise ExportError(f"{path}: {error}; mend or remove it") from error
    if strangers := sorted(variants - set(VARIANTS)):
        raise ExportError(
            f"{path}: has trials of {', '.join(strangers)}, which training/variants.py does not "
            "know; add it there again, or give another folder (--to; with make, MODELS=)"
        )
    return found


def _finite(value: Any) -> Any:
    """``value`` as JSON can hold it: null in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
