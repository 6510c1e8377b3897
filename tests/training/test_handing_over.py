"""What a machine is handed of a trial, and hands back: nothing that either has is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.trials import make_recipe
from training.cluster import FILES, pack, unpack
from training.fit import fit
from training.freeze import freeze
from training.trial import Trial, read_record
from training.variants import VARIANTS

LONGER = 6


def make_trial(runs: Path, steps: int) -> Trial:
    recipe = replace(make_recipe(steps, 5), freeze_images=100, freeze_batch=50)
    return Trial(recipe, VARIANTS["relu_without_bn"], 0, runs)


@pytest.fixture
def left_at(
    small_dataset: Any, killed_at: Callable[[Trial, Any, int], None]
) -> Callable[[Path, int, int], Path]:
    """A folder where so many steps are finished, for 0 none, and a longer run died."""

    def leave(runs: Path, finished: int, killed: int) -> Path:
        if finished:
            fit(make_trial(runs, finished), small_dataset)
            freeze(make_trial(runs, finished).folder, small_dataset)
        if killed:
            killed_at(make_trial(runs, LONGER), small_dataset, killed)
        return make_trial(runs, LONGER).folder

    return leave


@pytest.mark.parametrize(
    ("one", "two", "finished", "step"),
    [
        ((2, 4), (2, 0), 2, 4),  # the same is finished in both, and one was taken further
        ((2, 5), (3, 0), 3, 5),  # more is finished here, and more is under way there
        ((0, 5), (3, 0), 3, 5),
        ((2, 4), (5, 0), 5, 5),
        ((0, 2), (0, 4), None, 4),
    ],
)
def test_what_is_finished_and_what_is_under_way_are_both_handed_over(
    one: tuple[int, int],
    two: tuple[int, int],
    finished: int | None,
    step: int,
    left_at: Callable[[Path, int, int], Path],
    tmp_path: Path,
    small_dataset: Any,
) -> None:
    folders = [left_at(tmp_path / "1", *one), left_at(tmp_path / "2", *two)]
    files = [pack(folder) for folder in folders]
    nets = [
        {name: each.get(name) for name in FILES if name != "checkpoint.npz"}
        for each, (steps, _) in zip(files, (one, two), strict=True)
        if steps == finished
    ]
    unpack(files[1], folders[0], print)
    unpack(files[0], folders[1], print)
    for folder in folders:
        record, files_now = read_record(folder), pack(folder)
        assert record is not None
        assert record.get("outcome", {}).get("steps") == finished
        if finished:  # and no file is of another run than the record speaks of
            del files_now["checkpoint.npz"]
            assert files_now in nets
        said: list[str] = []
        fit(make_trial(folder.parents[2], LONGER), small_dataset, say=said.append)
        assert f"goes on from step {step} of {LONGER}" in said[0]


def test_a_damaged_checkpoint_here_gives_way_to_a_whole_one(
    left_at: Callable[[Path, int, int], Path], tmp_path: Path, small_dataset: Any
) -> None:
    here, there = left_at(tmp_path / "1", 2, 0), left_at(tmp_path / "2", 2, 4)
    (here / "checkpoint.npz").write_bytes(b"no checkpoint")
    record = read_record(here)
    unpack(pack(there), here, print)
    assert (here / "checkpoint.npz").read_bytes() == (there / "checkpoint.npz").read_bytes()
    assert read_record(here) == record


def test_a_damaged_checkpoint_there_is_not_taken(
    left_at: Callable[[Path, int, int], Path], tmp_path: Path
) -> None:
    here, there = left_at(tmp_path / "1", 2, 4), left_at(tmp_path / "2", 3, 0)
    whole = (here / "checkpoint.npz").read_bytes()
    (there / "checkpoint.npz").write_bytes(whole[: len(whole) // 2])
    unpack(pack(there), here, print)
    assert (here / "checkpoint.npz").read_bytes() == whole
    record = read_record(here)
    assert record is not None
    assert record["outcome"]["steps"] == 3
