"""The comparison as a figure: accuracy and loss by passes over the pictures, a row a recipe.

In: what ``comparison.json`` holds. Out: a matplotlib figure.
"""

from __future__ import annotations

import math
from typing import Any

from training.variants import VARIANTS

COLOURS = {"sigmoid": "#d95f02", "relu": "#1b6ca8"}
OTHERS = "#5c5c5c"  # any other activation
DASHES = {"batch": "-", None: "--"}
DOTS = ":"  # any other normalization
LEAST_JUMP = 0.02  # of the curve's height, of which an arrow is drawn: less hides behind its star
PANELS = (  # of the history, of the scores, and in words
    ("val_accuracy", "top1", "accuracy"),
    ("val_loss", "loss", "loss (nats)"),
)


def draw(content: dict[str, Any]) -> Any:
    """The figure: accuracy and loss on the validation pictures by passes, a row a recipe.

    Colour is the activation; a solid line has batch normalization, a dashed one none, a dotted one
    another. A star is the frozen net, a diamond the article's.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "comparison"

    drawn = content["recipes"]
    figure = Figure(figsize=(10.5, 4.6 * len(drawn)), layout="constrained")
    rows = figure.subplots(len(drawn), 2, squeeze=False)
    for panels, section in zip(rows, drawn, strict=True):
        held_out = _held_out(section)
        for panel, (key, score, label) in zip(panels, PANELS, strict=True):
            _curves(panel, section["trials"], key, score, jump=not held_out)
            _article(panel, content["article"], score)
            panel.set_title(f"recipe {section['recipe']}", fontsize=10)
            panel.set_xlabel("passes over the training pictures")
            panel.set_ylabel(f"{'hold-out' if held_out else 'test'} {label}")
            panel.set_xlim(left=0)
            panel.set_ylim(bottom=0, top=1.05 * panel.get_ylim()[1])
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{content['dataset']['name']}: moving averages as fitted (dots), "
        "population statistics as frozen (stars"
        f"{', of the test pictures' if any(map(_held_out, drawn)) else ''})"
        f"{', article 2018 (diamonds)' if content['article'] else ''}",
        fontsize=11,
    )
    known: dict[str, Any] = {}
    for panel in figure.axes:
        known |= {name: line for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _held_out(section: dict[str, Any]) -> bool:
    """Whether the curves are of pictures held out of training; the stars are of test pictures."""
    return bool(section["trials"][0]["validation_set"] == "hold-out")


def _article(panel: Any, article: dict[str, Any] | None, score: str) -> None:
    """A diamond for each of the article's nets; without batch normalization it is hollow."""
    if article is None:
        return
    for name, scores in article["variants"].items():
        variant = VARIANTS[name]
        colour = COLOURS[variant.activation]
        panel.plot(
            article["passes"],
            scores[score],
            marker="D",
            markersize=6,
            color=colour,
            markerfacecolor=colour if variant.normalization else "white",
            linestyle="none",
        )


def _curves(
    panel: Any,
    trials: list[dict[str, Any]],
    key: str,
    score: str,
    *,
    jump: bool,
) -> None:
    """A line a trial, and where its freeze took it from the step whose weights were kept.

    ``jump`` joins the two; they are of the same pictures then.
    """
    for trial in trials:
        variant = VARIANTS[trial["variant"]]
        colour = COLOURS.get(variant.activation, OTHERS)
        steps = [row["step"] for row in trial["history"]]
        a_step = trial["passes"] / trial["steps"]
        values = [_number(row[key]) for row in trial["history"]]
        first = trial is next(each for each in trials if each["variant"] == variant.name)
        panel.plot(
            [step * a_step for step in steps],
            values,
            color=colour,
            linestyle=DASHES.get(variant.normalization, DOTS),
            marker="o",
            markersize=3.5,
            label=variant.name.replace("_", " ") if first else None,
        )
        if trial["freeze"]["kind"] == "population":
            frozen = _number(trial["freeze"]["after"][score])
            kept = trial["kept_step"]
            panel.plot(
                kept * a_step,
                frozen,
                marker="*",
                markersize=12,
                color=colour,
                markeredgecolor="white",
                linestyle="none",
            )
            before = values[steps.index(kept)]
            if jump and abs(frozen - before) > LEAST_JUMP * max(
                filter(math.isfinite, values), default=0
            ):
                panel.annotate(
                    "",
                    xy=(kept * a_step, frozen),
                    xytext=(kept * a_step, before),
                    arrowprops={"arrowstyle": "->", "color": colour},
                )


def _number(value: float | None) -> float:
    """JSON has no NaN: what was none is null there."""
    return math.nan if value is None else value
