"""Which trials are seeds of one configuration: those here, and those that were published before."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.compare.records import (
    change,
    faster,
    frozen_by_fewer,
    held_out,
    only,
    quiet,
)
from tests.training.export.published import contents
from training.compare import compare
from training.seeds import summary
from training.table import markdown
from training.trial import TrialError


def test_seeds_come_as_mean_and_standard_deviation(runs: Path, tmp_path: Path) -> None:
    content = compare(runs, "one", tmp_path / "to", quiet)
    (row,) = only(content)["summary"]
    assert row["n"] == 2
    assert row["after"]["top1"]["mean"] == pytest.approx(0.32)
    assert row["after"]["top1"]["spread"] == pytest.approx(statistics.stdev([0.30, 0.34]))
    (line,) = [each for each in markdown(content).splitlines() if each.startswith("| `relu_with")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "`relu_with_bn`"
    assert cells[1] == "2"
    assert cells[5] == "32.00 ± 2.83 %"
    assert "Means ± standard deviations over the seeds." in markdown(content)
    assert "earlier step" not in markdown(content)


def test_a_seed_on_a_slow_machine_changes_neither_time_nor_rate_of_the_row() -> None:
    """They are medians; the gain is the mean of the seeds', in shares."""
    scores = {"top1": 0.3, "top5": 0.6, "loss": 2.0}
    trials = [
        {
            "steps": 100,
            "seconds": seconds,
            "images_per_second": rate,
            "freeze": {
                "kind": "population",
                "before": scores,
                "after": scores | {"top1": 0.3 + gain},
            },
        }
        for seconds, rate, gain in ((10.0, 90.0, 0.01), (900.0, 1.0, 0.02), (12.0, 75.0, 0.06))
    ]
    row = summary("relu_with_bn", trials)
    assert (row["n"], row["steps"]) == (3, [100])
    assert (row["seconds"], row["images_per_second"]) == (12.0, 75.0)
    assert row["gain"] == pytest.approx(0.03)
    assert row["after"]["top1"]["spread"] == pytest.approx(0.0007**0.5)  # of 1, 2 and 6 points
    assert row["before"]["top1"] == {"mean": pytest.approx(0.3), "spread": pytest.approx(0)}


def test_seeds_that_were_published_before_add_up(runs: Path, tmp_path: Path) -> None:
    """As if each had been fitted on a machine of its own, the second one first."""
    to, folder = tmp_path / "to", runs / "one/relu_with_bn"
    both = compare(runs, "one", tmp_path / "together", quiet)
    shutil.move(folder / "seed-0", tmp_path / "elsewhere")
    alone = compare(runs, "one", to, quiet)
    assert [trial["seed"] for trial in only(alone)["trials"]] == [1]
    shutil.move(folder / "seed-1", tmp_path / "gone")
    shutil.move(tmp_path / "elsewhere", folder / "seed-0")
    said: list[str] = []
    assert compare(runs, "one", to, said.append) == both
    assert said[0] == "relu_with_bn, seed 1: has no trial here, stays as it was published"
    assert contents(to) == contents(tmp_path / "together")


def lost(trial: dict[str, Any]) -> None:
    del trial["configuration"]


def of_a_newer_version(trial: dict[str, Any]) -> None:
    trial["configuration"]["recipe"]["sharpness"] = 0.05


def slower(trial: dict[str, Any]) -> None:
    trial["configuration"]["recipe"]["learning_rate"] = 5e-4


def of_fewer(trial: dict[str, Any]) -> None:
    trial["freeze"]["images"] = 80


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (slower, "recipe.learning_rate is 0.0005 there and 0.001 here"),
        (of_fewer, "freeze.images is 80 there and"),
        (lost, "does not say how it was fitted"),
        (of_a_newer_version, "does not say how it was fitted, or not as this version does"),
    ],
)
def test_a_published_trial_of_another_kind_is_no_further_seed(
    how: Callable[[dict[str, Any]], None], says: str, runs: Path, tmp_path: Path
) -> None:
    content = compare(runs, "one", tmp_path, quiet)
    how(only(content)["trials"][1])
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    shutil.rmtree(runs / "one/relu_with_bn/seed-1")
    said: list[str] = []
    (trial,) = only(compare(runs, "one", tmp_path, said.append))["trials"]
    assert trial["seed"] == 0
    assert said[0].startswith(f"relu_with_bn, seed 1: has no trial here, and {says}")
    assert said[0].endswith("; left out")


def test_a_knob_that_a_published_trial_does_not_know_has_its_default(
    runs: Path, tmp_path: Path
) -> None:
    content = compare(runs, "one", tmp_path, quiet)
    assert only(content)["trials"][1]["configuration"]["recipe"].pop("label_smoothing") == 0.0
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    shutil.rmtree(runs / "one/relu_with_bn/seed-1")
    assert only(compare(runs, "one", tmp_path, quiet))["summary"] == only(content)["summary"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (faster, r"recipe\.learning_rate is 0\.001 in .*seed-0 and 0\.5 in .*seed-1"),
        (held_out, r"hold_out is 0 in .*seed-0 and 100 in .*seed-1"),
        (frozen_by_fewer, r"freeze\.images is [0-9]+ in .*seed-0 and 80 in .*seed-1"),
    ],
)
def test_trials_of_different_configurations_are_not_averaged(
    how: Callable[[dict[str, Any]], None], says: str, runs: Path, tmp_path: Path
) -> None:
    change(runs / "one/relu_with_bn/seed-1", how)
    with pytest.raises(TrialError, match=rf"{says}: .*folders of their own"):
        compare(runs, "one", tmp_path / "to", quiet)


@pytest.mark.parametrize(
    ("copied", "to"),
    [
        ("one/relu_with_bn/seed-0", "one/relu_with_bn/seed-2"),
        ("one/relu_with_bn/seed-0", "one/relu_with_bn/seed-00"),
        ("two/relu_without_bn/seed-0", "one/relu_without_bn/seed-0"),
        ("one/relu_with_bn/seed-0", "one/sigmoid_with_bn/seed-0"),
    ],
    ids=["another seed", "the same seed", "another recipe", "another variant"],
)
def test_a_copy_under_another_name_is_no_further_trial(
    copied: str, to: str, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / copied, runs / to)
    refusal = rf"{re.escape(str(runs / to))}: its record is of {copied}, .*move it .*or remove it"
    with pytest.raises(TrialError, match=refusal):
        compare(runs, "one", tmp_path / "to", quiet)
    assert not (tmp_path / "to").exists()
