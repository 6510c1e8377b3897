"""The comparison: a section a recipe, means over seeds, and what is published already stays."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from training.compare import compare, markdown
from training.trial import TrialError, read_record, write_record


@pytest.fixture
def runs(relu_with_bn: Any, relu_without_bn: Any, tmp_path: Path) -> Path:
    """Recipe ``one``: a variant with two seeds of different outcomes; ``two``: another variant."""
    runs = tmp_path / "runs"
    checksum = relu_with_bn.record["configuration"]["dataset"]["checksum"]
    for recipe, fitted, seed, top1 in (
        ("one", relu_with_bn, 0, 0.30),
        ("one", relu_with_bn, 1, 0.34),
        ("two", relu_without_bn, 0, 0.25),
    ):
        folder = runs / recipe / fitted.folder.parent.name / f"seed-{seed}"
        shutil.copytree(fitted.folder, folder)
        record = read_record(folder)
        assert record is not None
        record["configuration"]["seed"] = seed
        record["configuration"]["recipe"]["name"] = recipe
        record["configuration"]["dataset"]["checksum"] = checksum
        record["freeze"]["after"]["top1"] = top1
        write_record(folder, record)
    return runs


def quiet(_: str) -> None:
    pass


def test_seeds_come_as_mean_and_standard_deviation(runs: Path, tmp_path: Path) -> None:
    content = compare(runs, "one", tmp_path / "to", quiet)
    (row,) = content["summary"]
    assert row["n"] == 2
    assert row["after"]["top1"]["mean"] == pytest.approx(0.32)
    assert row["after"]["top1"]["spread"] == pytest.approx(statistics.stdev([0.30, 0.34]))
    (line,) = [each for each in markdown(content).splitlines() if each.startswith("| `relu_with")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "`relu_with_bn`"
    assert cells[1] == "2"
    assert cells[5] == "32.00 ± 2.83 %"
    assert "Means ± standard deviations" in markdown(content)


def test_another_recipe_is_added_and_the_same_one_replaced(runs: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    first = compare(runs, "one", to, quiet)
    both = compare(runs, "two", to, quiet)
    assert both["also"] == [{key: first[key] for key in ("recipe", "summary", "trials")}]
    assert both["recipe"] == "two"
    assert json.loads((to / "comparison.json").read_text()) == both
    shutil.rmtree(runs / "one/relu_with_bn/seed-1")
    again = compare(runs, "one", to, quiet)
    sections = {each["recipe"]: each for each in (again, *again["also"])}
    assert set(sections) == {"one", "two"}
    assert len(sections["one"]["trials"]) == 1
    assert sections["two"]["trials"] == both["trials"]
    text = (to / "comparison.md").read_text()
    assert text.count("| variant | n |") == 2
    assert (to / "comparison.png").stat().st_size > 10_000


def test_a_comparison_on_other_data_does_not_stay(runs: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    content = compare(runs, "one", to, quiet)
    content["dataset"]["checksum"] = "0" * 64
    (to / "comparison.json").write_text(json.dumps(content))
    assert compare(runs, "two", to, quiet)["also"] == []


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="no fitted trial to compare"):
        compare(tmp_path, "one", tmp_path / "to", quiet)
