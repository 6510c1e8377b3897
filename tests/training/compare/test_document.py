"""The comparison: a section a recipe, means over seeds, and what is published already stays.

What it states is of frozen trials, of one configuration, on the pictures that it names.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from service.models.study import read_studies
from service.site.charts import curves
from tests.training.compare.records import (
    add_a_variant,
    change,
    faster,
    fitted_only,
    held_out,
    only,
    quiet,
)
from tests.training.export.published import contents
from tests.training.trials import history
from training.compare import ARTICLE, compare
from training.figure import draw
from training.repository import ExportError
from training.table import markdown
from training.trial import TrialError, read_record

SHIPPED = Path(__file__).parents[3] / "exported_models"


def test_another_recipe_is_added_and_the_same_one_replaced(runs: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    first = compare(runs, "one", to, quiet)
    both = compare(runs, "two", to, quiet)
    sections = {each["recipe"]: each for each in both["recipes"]}
    assert list(sections) == ["two", "one"]
    assert sections["one"] == only(first)
    assert json.loads((to / "comparison.json").read_text()) == both
    shutil.rmtree(runs / "one/relu_with_bn/seed-1")
    change(runs / "one/relu_with_bn/seed-0", faster)
    again = compare(runs, "one", to, quiet)
    one, two = again["recipes"]
    (trial,) = one["trials"]
    assert trial["configuration"]["recipe"]["learning_rate"] == 0.5
    assert two == sections["two"]
    text = (to / "comparison.md").read_text()
    assert text.count("| variant | seeds |") == 2
    assert (to / "comparison.png").stat().st_size > 10_000


def test_variants_without_a_trial_here_stay_as_they_were_published(
    runs: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    add_a_variant(runs)
    first = compare(runs, "one", to, quiet)
    assert [row["variant"] for row in only(first)["summary"]] == ["relu_without_bn", "relu_with_bn"]
    shutil.rmtree(runs / "one/relu_without_bn")
    said: list[str] = []
    assert compare(runs, "one", to, said.append) == first
    assert said[0] == "relu_without_bn, seed 0: has no trial here, stays as it was published"
    for seed in (0, 1):
        change(runs / f"one/relu_with_bn/seed-{seed}", held_out)
    (row,) = only(compare(runs, "one", to, said.append))["summary"]
    assert row["variant"] == "relu_with_bn"
    left_out = "has no trial here, and validated on other pictures; left out"
    assert f"relu_without_bn, seed 0: {left_out}" in said


def test_the_shipped_table_is_made_of_the_shipped_numbers() -> None:
    content = json.loads((SHIPPED / "comparison.json").read_text())
    assert markdown(content) == (SHIPPED / "comparison.md").read_text()
    assert len(draw(content).axes) == 4


def test_a_comparison_on_other_data_is_refused_and_stays(runs: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    content = compare(runs, "one", to, quiet)
    content["dataset"] |= {"checksum": "0" * 64, "name": "cifar100"}
    (to / "comparison.json").write_text(json.dumps(content))
    before = contents(to)
    with pytest.raises(ExportError, match=r"json: is of cifar100 .* of synthetic .*another folder"):
        compare(runs, "two", to, quiet)
    assert contents(to) == before


def test_a_published_variant_that_nobody_knows_any_more_is_refused_and_stays(
    runs: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    content = compare(runs, "two", to, quiet)
    for each in (*only(content)["summary"], *only(content)["trials"]):
        each["variant"] = "relu_with_gn"
    (to / "comparison.json").write_text(json.dumps(content))
    before = contents(to)
    with pytest.raises(ExportError, match=r"json: has trials of relu_with_gn, which training/vari"):
        compare(runs, "one", to, quiet)
    assert contents(to) == before


def test_a_comparison_beside_nets_of_other_data_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes((SHIPPED / "manifest.json").read_bytes())
    with pytest.raises(ExportError, match=r"holds nets of cifar100 .*this is of synthetic"):
        compare(runs, "one", tmp_path, quiet)


def test_trials_that_are_not_frozen_do_not_count(runs: Path, tmp_path: Path) -> None:
    change(runs / "one/relu_with_bn/seed-1", fitted_only)
    said: list[str] = []
    content = compare(runs, "one", tmp_path / "to", said.append)
    assert [row["n"] for row in only(content)["summary"]] == [1]
    assert only(content)["summary"][0]["after"]["top1"] == {"mean": 0.30, "spread": 0.0}
    assert len(only(content)["trials"]) == 1
    assert "seed-1: not frozen yet, left out" in said[0]


def test_nothing_to_compare_is_said(runs: Path, tmp_path: Path) -> None:
    change(runs / "two/relu_without_bn/seed-0", fitted_only)
    for recipe in ("two", "three"):
        with pytest.raises(TrialError, match=f"{recipe}: no frozen trial to compare; run the tra"):
            compare(runs, recipe, tmp_path / "to", quiet)


def test_variants_validated_on_different_pictures_are_not_drawn_together(
    runs: Path, tmp_path: Path
) -> None:
    add_a_variant(runs)
    change(runs / "one/relu_without_bn/seed-0", held_out)
    with pytest.raises(TrialError, match=r"held out 0 pictures and .* 100: their curves"):
        compare(runs, "one", tmp_path / "to", quiet)


def test_what_is_of_pictures_held_out_is_called_so(runs: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        change(runs / f"one/relu_with_bn/seed-{seed}", held_out)
    content = compare(runs, "one", tmp_path / "to", quiet)
    assert "100 of the training pictures were held out: the curves show these." in markdown(content)
    figure = draw(content)
    assert [each.get_ylabel() for each in figure.axes] == [
        "hold-out accuracy",
        "hold-out loss (nats)",
    ]
    assert "stars, of the test pictures" in figure.get_suptitle()
    assert not any(each.texts for each in figure.axes)  # no arrow from one to the other
    (study,) = read_studies(tmp_path / "to")
    accuracy, _ = curves(study, 100)
    assert "held out" in accuracy.pictures
    assert all(line.frozen and not line.left for line in accuracy.lines)


def test_the_star_stands_where_the_kept_weights_were(runs: Path, tmp_path: Path) -> None:
    """The best epoch was the first of three."""
    folder = runs / "one/relu_with_bn/seed-0"
    shutil.rmtree(runs / "one/relu_with_bn/seed-1")
    (row,) = history(folder)
    rows = [row | {"epoch": str(n), "step": str(60 * n)} for n in (1, 2, 3)]
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows(rows)
    change(folder, lambda record: record["outcome"].update(steps=180, images=3600, kept_step=60))
    content = compare(runs, "one", tmp_path / "to", quiet)
    curve, star = draw(content).axes[0].lines
    a_pass = content["dataset"]["train_images"]
    assert list(curve.get_xdata()) == pytest.approx([20 * step / a_pass for step in (60, 120, 180)])
    assert list(star.get_xdata()) == pytest.approx([20 * 60 / a_pass])
    assert "earlier step than the last (`relu_with_bn`, seed 0: 60 of 180)." in markdown(content)
    (study,) = read_studies(tmp_path / "to")
    (line,) = curves(study, 100)[0].lines
    assert line.frozen is not None
    assert line.frozen.passes == pytest.approx(20 * 60 / a_pass)
    assert line.left == line.marks[0]


def test_curves_are_by_passes_over_the_pictures_that_were_not_held_out(
    runs: Path, tmp_path: Path
) -> None:
    """By steps, of 20 and of 80 pictures, the two would end at the same place."""
    for seed in (0, 1):
        change(runs / f"one/relu_with_bn/seed-{seed}", held_out)
        change(
            runs / f"one/relu_with_bn/seed-{seed}",
            lambda record: record["outcome"].update(images=60 * 80),
        )
    content = compare(runs, "one", tmp_path / "to", quiet)
    passes = 60 * 80 / (content["dataset"]["train_images"] - 100)
    assert f"| 60 | {passes:.1f} |" in markdown(content)
    for panel in draw(content).axes:
        for line in panel.lines:
            assert list(line.get_xdata()) == pytest.approx([passes])
    (study,) = read_studies(tmp_path / "to")
    assert [row.passes for row in study.rows] == pytest.approx([passes])
    for curve in study.curves:
        assert [epoch.passes for epoch in curve.epochs] == pytest.approx([passes])


def test_the_article_s_nets_stand_at_their_own_passes(runs: Path, tmp_path: Path) -> None:
    content = compare(runs, "one", tmp_path / "to", quiet)
    of_cifar100 = draw(content | {"article": ARTICLE})
    ours = sum(len(panel.lines) for panel in draw(content).axes)
    theirs = [
        line for panel in of_cifar100.axes for line in panel.lines if line.get_marker() == "D"
    ]
    assert sum(len(panel.lines) for panel in of_cifar100.axes) == ours + len(theirs)
    found = [(*line.get_xdata(), *line.get_ydata()) for line in theirs]
    scores = [(64, net[key]) for key in ("top1", "loss") for net in ARTICLE["variants"].values()]
    assert found == scores


def test_a_net_that_diverged_leaves_no_nan(runs: Path, tmp_path: Path) -> None:
    """As records of before a fit ended there tell of one."""

    def diverge(folder: Path) -> None:
        record = read_record(folder)
        assert record is not None
        record["freeze"]["before"]["loss"] = record["freeze"]["after"]["loss"] = float("nan")
        (folder / "trial.json").write_text(json.dumps(record))

    for seed in (0, 1):
        folder = runs / f"one/relu_with_bn/seed-{seed}"
        diverge(folder)
        text = (folder / "history.csv").read_text()
        (folder / "history.csv").write_text(text.replace(history(folder)[0]["val_loss"], "nan"))
    content = compare(runs, "one", tmp_path / "to", quiet)
    shutil.rmtree(runs / "one/relu_with_bn/seed-1")
    assert compare(runs, "one", tmp_path / "to", quiet) == content  # read back, one of them
    text = (tmp_path / "to/comparison.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == content
    table = (tmp_path / "to/comparison.md").read_text()
    assert "| not finite |" in table
    assert "nan" not in table
    (study,) = read_studies(tmp_path / "to")  # the page shows it too
    assert study.rows[0].after is not None
    assert study.rows[0].after["loss"] is None
    assert len(curves(study, 100)) == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"trials": 1}', "\udcff"])
def test_a_broken_comparison_is_refused_by_name(text: str, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ExportError, match=r"comparison\.json: .*; mend or remove it"):
        compare(runs, "one", tmp_path, quiet)
    assert path.read_bytes() == text.encode(errors="surrogateescape")


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "is missing"), ("epoch,step\n", "no row of step 60"), ("step\nx\n", "cannot be read")],
)
def test_a_history_that_is_lost_or_broken_is_named(
    text: str | None, says: str, runs: Path, tmp_path: Path
) -> None:
    path = runs / "two/relu_without_bn/seed-0/history.csv"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
        change(path.parent, lambda record: record["outcome"].update(kept_step=60))
    with pytest.raises(TrialError, match=rf"history\.csv: .*{says}"):
        compare(runs, "two", tmp_path / "to", quiet)


def test_a_place_that_is_no_folder_is_named(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("kept")
    with pytest.raises(ExportError, match="to: is no folder"):
        compare(runs, "one", tmp_path / "to", quiet)
