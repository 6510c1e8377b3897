"""The study's figure and table, for whatever trials exist.

In: the records and histories under ``runs/<recipe>/``. Out, beside the models: ``comparison.json``
(everything below, for machines), ``comparison.md`` (the table) and ``comparison.png``/``.svg`` (the
curves). The article's own figures stand beside ours; nothing is selected by any of them.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

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


def compare(
    runs: Path, recipe: str, to: Path, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Compare the trials of ``recipe`` under ``runs``, write the four files into ``to``.

    Returns what ``comparison.json`` holds. Trials that are not fitted yet are left out and named.
    Raises ``TrialError`` where none is left.
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
    content = {
        "schema_version": 1,
        "recipe": recipe,
        "dataset": trials[0]["dataset"],
        "article": ARTICLE if trials[0]["dataset"]["name"] == "cifar100" else None,
        "article_reference": {"steps": ARTICLE_STEPS},
        "summary": [
            _summary(name, [trial for trial in trials if trial["variant"] == name])
            for name in VARIANTS
            if any(trial["variant"] == name for trial in trials)
        ],
        "trials": trials,
    }
    to.mkdir(parents=True, exist_ok=True)

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


def markdown(content: dict[str, Any]) -> str:
    """The table of the comparison, with what its numbers are of."""
    data = content["dataset"]
    rows = [
        "| variant | n | steps | top-1, moving averages | top-1, population | gain, points "
        "| top-5 | loss | img/s | minutes |" + (" article 2018 |" if content["article"] else ""),
        "| --- |" + " ---: |" * (10 if content["article"] else 9),
    ]
    for row in content["summary"]:
        before, after = row["before"], row["after"]
        cells = [
            f"`{row['variant']}`",
            str(row["n"]),
            _span(row["steps"], "{:,}"),
            _spread(before["top1"], row["n"]),
            _spread(after["top1"], row["n"]) if after else "not frozen",
            f"{100 * row['gain']:+.2f}" if row["gain"] is not None else "no statistics",
            f"{100 * (after or before)['top5']['mean']:.2f} %",
            f"{(after or before)['loss']['mean']:.3f}",
            f"{row['images_per_second']:.0f}",
            f"{row['seconds'] / 60:.1f}",
        ]
        if content["article"]:
            cells.append(f"{100 * content['article'][row['variant']]['top1']:.2f} %")
        rows.append("| " + " | ".join(cells) + " |")
    hardware = "; ".join(sorted({trial["hardware"] for trial in content["trials"]}))
    keras = "; ".join(sorted({trial["versions"]["keras"] for trial in content["trials"]}))
    backends = "; ".join(sorted({trial["backend"] for trial in content["trials"]}))
    note = (
        f"Recipe `{content['recipe']}` on {data['name']}: {data['train_images']:,} training and "
        f"{data['test_images']:,} test pictures. Accuracy and loss are of the test pictures; top-5 "
        f"and loss with the statistics that ship. {hardware}; Keras {keras} on {backends}.\n"
    )
    if content["article"]:
        note += (
            f"The last column is {ARTICLE_CHECKPOINT}, with its moving averages on the same "
            "10,000 pictures.\n"
        )
    return "\n".join([*rows, "", note])


def draw(content: dict[str, Any]) -> Any:
    """The figure: accuracy and loss on the validation pictures by epoch, a line a variant.

    Colour is the activation; a solid line has batch normalization. A star is the frozen net.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "comparison"

    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    colours = {"sigmoid": "#d95f02", "relu": "#1b6ca8"}
    for panel, (key, score, label) in zip(
        panels,
        (("val_accuracy", "top1", "test accuracy"), ("val_loss", "loss", "test loss (nats)")),
        strict=True,
    ):
        for trial in content["trials"]:
            variant = VARIANTS[trial["variant"]]
            steps = [row["step"] for row in trial["history"]]
            values = [row[key] for row in trial["history"]]
            first = trial is next(
                each for each in content["trials"] if each["variant"] == variant.name
            )
            panel.plot(
                steps,
                values,
                color=colours[variant.activation],
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
                    color=colours[variant.activation],
                    markeredgecolor="white",
                    linestyle="none",
                )
                panel.annotate(
                    "",
                    xy=(steps[-1], frozen),
                    xytext=(steps[-1], values[-1]),
                    arrowprops={"arrowstyle": "->", "color": colours[variant.activation]},
                )
        panel.set_xlabel("step")
        panel.set_ylabel(label)
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0, top=1.05 * panel.get_ylim()[1])
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, loc="upper left")
    data = content["dataset"]
    figure.suptitle(
        f"{data['name']}, recipe {content['recipe']}: moving averages as fitted (dots), "
        "population statistics as frozen (stars)",
        fontsize=11,
    )
    return figure


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


def _span(values: list[int], form: str) -> str:
    ends = [form.format(value) for value in (values[0], values[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
