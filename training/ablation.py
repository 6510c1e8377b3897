"""Where the freeze's gain comes from: the same weights, normalized with five kinds of statistics.

In: fitted trials (``model.keras`` and their records). Out: ``ablation.json`` and ``ablation.md``.
From the fit's moving averages, one step at a time, to the population statistics of the freeze:
first statistics of the final weights on augmented pictures with dropout on, as the moving averages
saw them (the gain is then due to lag and noise alone); then without augmentation, without dropout,
and without both. Scores are of the test pictures; nothing is chosen by them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras

from training.augment import augment
from training.dataset import Dataset, Images
from training.environment import hardware, versions
from training.evaluate import evaluate
from training.files import write_text
from training.freeze import (
    batches_to_freeze_by,
    fitted_net,
    fitted_record,
    frozen,
    population_statistics,
)
from training.nets import running_statistics
from training.recipes import Recipe
from training.repository import ExportError, make_folder
from training.trial import TrialError, check_data, recipe_of

MOVING = "moving averages, as trained"
KINDS = {  # name: (augmented, dropout)
    "population, augmented pictures, dropout on": (True, True),
    "population, augmented pictures, dropout off": (True, False),
    "population, plain pictures, dropout on": (False, True),
    "population, plain pictures, dropout off": (False, False),
}


def ablate(
    folders: list[Path],
    dataset: Dataset,
    to: Path,
    images: int,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Score the fitted trials in ``folders`` with every kind of statistics, write the two files.

    ``images`` training pictures make each kind, the same ones, in batches of the recipe's size;
    fewer where there are not as many or the last batch would not be whole: the files say how many.
    Nets without running statistics are left out and named. Returns what ``ablation.json`` holds.
    Raises ``TrialError`` where a trial is not fitted, is of other data, or none is left, and
    ``ExportError`` where ``to`` cannot be written.
    """
    make_folder(to)
    records = {folder: fitted_record(folder) for folder in folders}  # before any is worked on
    for folder, record in records.items():
        check_data(folder, record, dataset)
    trials = []
    for folder, record in records.items():
        configuration = record["configuration"]
        net = fitted_net(folder)
        if not running_statistics(net):
            say(f"{folder}: keeps no running statistics, left out")
            continue
        recipe = recipe_of(record)
        plain = batches_to_freeze_by(folder, record, dataset, images, recipe.batch)
        scores = {MOVING: asdict(evaluate(net, dataset.test_images, dataset.test_labels))}
        seed = configuration["seed"]
        for kind, (augmented, dropout) in KINDS.items():
            batches = _augmented(plain, recipe, seed) if augmented else plain
            statistics = population_statistics(net, batches, seed if dropout else None)
            scored = evaluate(frozen(net, statistics), dataset.test_images, dataset.test_labels)
            scores[kind] = asdict(scored)
        trials.append(
            {
                "variant": configuration["variant"]["name"],
                "recipe": configuration["recipe"]["name"],
                "seed": seed,
                "steps": record["outcome"]["steps"],
                "hold_out": configuration["hold_out"],
                "images": sum(map(len, plain)),
                "scores": scores,
            }
        )
        say(f"{folder}: done")
    if not trials:
        raise TrialError("none of these nets keeps running statistics; choose a variant with BN")
    content = {
        "schema_version": 1,
        "dataset": dataset.name,
        "test_images": len(dataset.test_images),
        "hardware": hardware(),
        "versions": versions(),
        "trials": trials,
    }
    text = json.dumps(content, indent=1) + "\n"
    table = markdown(content)
    try:
        write_text(to / "ablation.json", text)
        write_text(to / "ablation.md", table)
    except OSError as error:
        raise ExportError(
            f"{to}: cannot be written ({error.strerror or error}); make room, or give another "
            "folder (--to)"
        ) from error
    return content


def markdown(content: dict[str, Any]) -> str:
    """The table: a row a kind of statistics, a column a trial; test top-1 and loss."""
    trials = content["trials"]
    heads = [f"`{t['variant']}`, {t['recipe']}, {t['steps']:,} steps" for t in trials]
    if len({trial["seed"] for trial in trials}) > 1:
        heads = [f"{head}, seed {t['seed']}" for head, t in zip(heads, trials, strict=True)]
    rows = ["| statistics | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(trials)]
    for kind in trials[0]["scores"]:
        scores = [trial["scores"][kind] for trial in trials]
        cells = [f"{100 * score['top1']:.2f} % / {score['loss']:.3f}" for score in scores]
        rows.append(f"| {kind} | " + " | ".join(cells) + " |")
    used = " or ".join(f"{count:,}" for count in sorted({trial["images"] for trial in trials}))
    # Seed and hold-out decide which pictures are taken: those of one column, or of them all.
    several = len({(each["seed"], each["hold_out"], each["images"]) for each in trials}) > 1
    whose, others = (" of a column", "; another column's may be others") if several else ("", "")
    note = (
        f"Top-1 accuracy and loss on {content['test_images']:,} test pictures of "
        f"{content['dataset']}; every population{whose} is of the same {used} training "
        f"pictures{others}.\n"
    )
    return "\n".join([*rows, "", note])


def _augmented(batches: list[Images], recipe: Recipe, seed: int) -> Iterator[Images]:
    generator = keras.random.SeedGenerator(seed)
    for batch in batches:
        yield keras.ops.convert_to_numpy(augment(batch, recipe.augmentation, generator))
