"""The comparison as text: one table per recipe, with a note on what its numbers mean.

In: what ``comparison.json`` holds. Out: Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown(content: dict[str, Any]) -> str:
    """The tables of the comparison, one a recipe, with what their numbers are of."""
    return "\n".join(_table(each, content) for each in content["recipes"])


def _table(section: dict[str, Any], content: dict[str, Any]) -> str:
    data, article = content["dataset"], content["article"]
    rows = [
        "| variant | seeds | steps | passes | top-1, moving averages | top-1, population "
        "| gain, points | top-5 | loss |" + (" article 2018 |" if article else ""),
        "| --- |" + " ---: |" * (9 if article else 8),
    ]
    for row in section["summary"]:
        before, after, n = row["before"], row["after"], row["n"]
        passes = sorted(
            trial["passes"] for trial in section["trials"] if trial["variant"] == row["variant"]
        )
        cells = [
            f"`{row['variant']}`",
            str(n),
            _span(row["steps"], "{:,}"),
            _span(passes, "{:.1f}"),
            _spread(before["top1"], n),
            _spread(after["top1"], n),
            f"{100 * row['gain']:+.2f}" if row["gain"] is not None else "no statistics",
            _spread(after["top5"], n),
            _loss(after["loss"], n),
        ]
        if article:
            own = article["variants"].get(row["variant"])  # it had four
            cells.append(f"{100 * own['top1']:.2f} %" if own else "—")
        rows.append("| " + " | ".join(cells) + " |")
    trials = section["trials"]
    hardware = "; ".join(sorted({trial["hardware"] for trial in trials}))
    keras = "; ".join(sorted({trial["versions"]["keras"] for trial in trials}))
    backends = "; ".join(sorted({trial["backend"] for trial in trials}))
    precisions = "; ".join(sorted({trial["precision"] for trial in trials}))
    note = (
        f"Recipe `{section['recipe']}` on {data['name']}: {data['train_images']:,} training and "
        f"{data['test_images']:,} test pictures. Accuracy and loss are of the test pictures; top-5 "
        f"and loss with the statistics that ship. Fitted in {precisions}. {hardware}; Keras "
        f"{keras} on {backends}.\n"
    )
    held_out = max(trial["hold_out"] for trial in trials)
    if held_out:
        note += f"{held_out:,} of the training pictures were held out: the curves show these.\n"
    kept = [
        f"`{trial['variant']}`, seed {trial['seed']}: {trial['kept_step']:,} of {trial['steps']:,}"
        for trial in trials
        if trial["kept_step"] != trial["steps"]
    ]
    if kept:
        note += f"Kept are the weights of an earlier step than the last ({'; '.join(kept)}).\n"
    if any(row["n"] > 1 for row in section["summary"]):
        note += "Means ± standard deviations over the seeds.\n"
    if article:
        note += (
            "The last column is the article's checkpoint, "
            f"{article['steps']:,} steps, with its moving averages on the "
            f"same {data['test_images']:,} pictures.\n"
        )
    return "\n".join([*rows, "", note])


def _spread(figure: dict[str, Any], n: int) -> str:
    spread = f" ± {100 * figure['spread']:.2f}" if n > 1 else ""
    return f"{100 * figure['mean']:.2f}{spread} %"


def _loss(figure: dict[str, Any], n: int) -> str:
    if figure["mean"] is None:
        return "not finite"
    return f"{figure['mean']:.3f}" + (f" ± {figure['spread']:.3f}" if n > 1 else "")


def _span(values: Sequence[float], form: str) -> str:
    ends = [form.format(value) for value in (values[0], values[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
