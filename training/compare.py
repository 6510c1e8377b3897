"""The study's figure and table, for whatever trials exist.

In: the records and histories under ``runs/<recipe>/``, and the comparison that is there already.
Out, beside the models: ``comparison.json`` (everything below, for machines), ``comparison.md`` (the
tables) and ``comparison.png``/``.svg`` (the curves). A recipe is a section of its own; what the
file says of other recipes on the same data stays. The article's own figures stand beside ours;
nothing is selected by any of them.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from training.recipes import RECIPES
from training.trial import TrialError, find_trials, read_record, write_atomically
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
ARTICLE_CHECKPOINT = f"the article's checkpoint, {ARTICLE_STEPS:,} steps"
COLOURS = {"sigmoid": "#d95f02", "relu": "#1b6ca8"}
PANELS = (  # of the history, of the scores, and in words
    ("val_accuracy", "top1", "test accuracy"),
    ("val_loss", "loss", "test loss (nats)"),
)


def compare(
    runs: Path, recipe: str, to: Path, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Compare the trials of ``recipe`` under ``runs``, write the four files into ``to``.

    Returns what ``comparison.json`` holds: the first recipe in the fields of the document itself,
    the others, each with the same fields, in ``also``. Trials that are not fitted yet are left out
    and named. Raises ``TrialError`` where none is left.
    """
    trials = []
    for folder in find_trials(runs, recipe):
        record = read_record(folder)
        if record is None or record["status"] == "fitting":
            say(f"{folder}: not fitted to the end yet, left out")
            continue
        trials.append(_trial(folder, record))
    if not trials:
        raise TrialError(f"{runs}/{recipe}: no fitted trial to compare; run the training first")
    data = {record["dataset"]["checksum"] for record in trials}
    if len(data) > 1:
        raise TrialError(f"{runs}/{recipe}: trials on {len(data)} different data sets; compare one")
    section = {
        "recipe": recipe,
        "summary": [
            _summary(name, [trial for trial in trials if trial["variant"] == name])
            for name in VARIANTS
            if any(trial["variant"] == name for trial in trials)
        ],
        "trials": trials,
    }
    to.mkdir(parents=True, exist_ok=True)
    first, *others = _with_the_published(section, to / "comparison.json")
    content = {
        "schema_version": 1,
        "recipe": first["recipe"],
        "dataset": trials[0]["dataset"],
        "article": ARTICLE if trials[0]["dataset"]["name"] == "cifar100" else None,
        "article_reference": {"steps": ARTICLE_STEPS},
        "summary": first["summary"],
        "trials": first["trials"],
        "also": others,
    }

    def put(name: str, text: str) -> None:
        write_atomically(to / name, lambda path: path.write_text(text))

    put("comparison.json", json.dumps(content, indent=1) + "\n")
    put("comparison.md", markdown(content))
    figure = draw(content)
    # No dates in the files: the same trials draw the same bytes.
    write_atomically(
        to / "comparison.png",
        lambda path: figure.savefig(path, dpi=120, metadata={"Software": None}),
    )
    write_atomically(
        to / "comparison.svg", lambda path: figure.savefig(path, metadata={"Date": None})
    )
    say(f"{to}: comparison.json, comparison.md, comparison.png, comparison.svg")
    return content


def sections(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The recipes of a comparison, each with ``recipe``, ``summary`` and ``trials``."""
    own = {key: content[key] for key in ("recipe", "summary", "trials")}
    return [own, *content.get("also", [])]


def _with_the_published(section: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """``section`` among those that ``path`` holds of other recipes on the same data, in order."""
    kept = []
    if path.exists():
        published = json.loads(path.read_text())
        checksums = {published["dataset"]["checksum"], section["trials"][0]["dataset"]["checksum"]}
        if len(checksums) == 1:
            kept = [each for each in sections(published) if each["recipe"] != section["recipe"]]
    order = list(RECIPES)
    return sorted(
        [section, *kept],
        key=lambda each: order.index(each["recipe"]) if each["recipe"] in order else len(order),
    )


def markdown(content: dict[str, Any]) -> str:
    """The tables of the comparison, one a recipe, with what their numbers are of."""
    article = content["article"]
    return "\n".join(_table(each, content["dataset"], article) for each in sections(content))


def _table(section: dict[str, Any], data: dict[str, Any], article: dict[str, Any] | None) -> str:
    rows = [
        "| variant | n | steps | passes | top-1, moving averages | top-1, population "
        "| gain, points | top-5 | loss | img/s | minutes |"
        + (" article 2018 |" if article else ""),
        "| --- |" + " ---: |" * (11 if article else 10),
    ]
    for row in section["summary"]:
        before, after, n = row["before"], row["after"], row["n"]
        passes = sorted(
            trial["images"] / data["train_images"]
            for trial in section["trials"]
            if trial["variant"] == row["variant"]
        )
        kept = after or before
        cells = [
            f"`{row['variant']}`",
            str(n),
            _span(row["steps"], "{:,}"),
            _span(passes, "{:.1f}"),
            _spread(before["top1"], n),
            _spread(after["top1"], n) if after else "not frozen",
            f"{100 * row['gain']:+.2f}" if row["gain"] is not None else "no statistics",
            _spread(kept["top5"], n),
            f"{kept['loss']['mean']:.3f}" + (f" ± {kept['loss']['spread']:.3f}" if n > 1 else ""),
            f"{row['images_per_second']:.0f}",
            f"{row['seconds'] / 60:.1f}",
        ]
        if article:
            cells.append(f"{100 * article[row['variant']]['top1']:.2f} %")
        rows.append("| " + " | ".join(cells) + " |")
    trials = section["trials"]
    hardware = "; ".join(sorted({trial["hardware"] for trial in trials}))
    keras = "; ".join(sorted({trial["versions"]["keras"] for trial in trials}))
    backends = "; ".join(sorted({trial["backend"] for trial in trials}))
    precisions = "; ".join(sorted({trial.get("precision", "float32") for trial in trials}))
    note = (
        f"Recipe `{section['recipe']}` on {data['name']}: {data['train_images']:,} training and "
        f"{data['test_images']:,} test pictures. Accuracy and loss are of the test pictures; top-5 "
        f"and loss with the statistics that ship. Fitted in {precisions}. {hardware}; Keras "
        f"{keras} on {backends}.\n"
    )
    if any(row["n"] > 1 for row in section["summary"]):
        note += "Means ± standard deviations over the seeds.\n"
    if article:
        note += (
            f"The last column is {ARTICLE_CHECKPOINT}, with its moving averages on the same "
            "10,000 pictures.\n"
        )
    return "\n".join([*rows, "", note])


def draw(content: dict[str, Any]) -> Any:
    """The figure: accuracy and loss on the validation pictures by step, a row a recipe.

    Colour is the activation; a solid line has batch normalization. A star is the frozen net.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "comparison"

    drawn = sections(content)
    figure = Figure(figsize=(10.5, 4.6 * len(drawn)), layout="constrained")
    rows = figure.subplots(len(drawn), 2, squeeze=False)
    for panels, section in zip(rows, drawn, strict=True):
        for panel, (key, score, label) in zip(panels, PANELS, strict=True):
            _curves(panel, section["trials"], key, score)
            panel.set_title(f"recipe {section['recipe']}", fontsize=10)
            panel.set_xlabel("step")
            panel.set_ylabel(label)
            panel.set_xlim(left=0)
            panel.set_ylim(bottom=0, top=1.05 * panel.get_ylim()[1])
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].legend(frameon=False, loc="upper left")
    figure.suptitle(
        f"{content['dataset']['name']}: moving averages as fitted (dots), "
        "population statistics as frozen (stars)",
        fontsize=11,
    )
    return figure


def _curves(panel: Any, trials: list[dict[str, Any]], key: str, score: str) -> None:
    """A line a trial, and where its freeze took it."""
    for trial in trials:
        variant = VARIANTS[trial["variant"]]
        colour = COLOURS[variant.activation]
        steps = [row["step"] for row in trial["history"]]
        values = [row[key] for row in trial["history"]]
        first = trial is next(each for each in trials if each["variant"] == variant.name)
        panel.plot(
            steps,
            values,
            color=colour,
            linestyle="-" if variant.normalization else "--",
            marker="o",
            markersize=3.5,
            label=variant.name.replace("_", " ") if first else None,
        )
        if trial["freeze"] and trial["freeze"]["kind"] == "population":
            frozen = trial["freeze"]["after"][score]
            panel.plot(
                steps[-1],
                frozen,
                marker="*",
                markersize=12,
                color=colour,
                markeredgecolor="white",
                linestyle="none",
            )
            panel.annotate(
                "",
                xy=(steps[-1], frozen),
                xytext=(steps[-1], values[-1]),
                arrowprops={"arrowstyle": "->", "color": colour},
            )


def _trial(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    configuration, outcome = record["configuration"], record["outcome"]
    with (folder / "history.csv").open(newline="") as file:
        history = [
            {
                key: int(value) if key in ("epoch", "step") else float(value)
                for key, value in row.items()
            }
            for row in csv.DictReader(file)
        ]
    return {
        "variant": configuration["variant"]["name"],
        "seed": configuration["seed"],
        "dataset": configuration["dataset"],
        "steps": outcome["steps"],
        "images": outcome["images"],
        "seconds": outcome["seconds"],
        "images_per_second": outcome["images_per_second"],
        "validation_set": outcome["validation_set"],
        "hardware": record["hardware"],
        "backend": record["backend"],
        "precision": configuration["recipe"].get("precision", "float32"),
        "versions": record["versions"],
        "history": history,
        "freeze": record.get("freeze"),
    }


def _summary(name: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
    frozen = [trial["freeze"] for trial in trials if trial["freeze"]]
    normalized = [each for each in frozen if each["kind"] == "population"]
    last = [trial["history"][-1] for trial in trials]
    before = {
        "top1": [each["before"]["top1"] for each in frozen]
        or [row["val_accuracy"] for row in last],
        "top5": [each["before"]["top5"] for each in frozen],
        "loss": [each["before"]["loss"] for each in frozen] or [row["val_loss"] for row in last],
    }
    after = {key: [each["after"][key] for each in frozen] for key in ("top1", "top5", "loss")}
    gains = [each["after"]["top1"] - each["before"]["top1"] for each in normalized]
    return {
        "variant": name,
        "n": len(trials),
        "steps": sorted({trial["steps"] for trial in trials}),
        "before": {key: _mean(values) for key, values in before.items()},
        "after": {key: _mean(values) for key, values in after.items()} if frozen else None,
        "gain": statistics.fmean(gains) if gains else None,
        "images_per_second": statistics.median(trial["images_per_second"] for trial in trials),
        "seconds": statistics.median(trial["seconds"] for trial in trials),
    }


def _mean(values: Iterable[float]) -> dict[str, float]:
    listed = list(values) or [float("nan")]
    return {
        "mean": statistics.fmean(listed),
        "spread": statistics.stdev(listed) if len(listed) > 1 else 0.0,
    }


def _spread(figure: dict[str, float], n: int) -> str:
    spread = f" ± {100 * figure['spread']:.2f}" if n > 1 else ""
    return f"{100 * figure['mean']:.2f}{spread} %"


def _span(values: Sequence[float], form: str) -> str:
    ends = [form.format(value) for value in (values[0], values[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
