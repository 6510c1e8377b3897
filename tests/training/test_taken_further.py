"""What a trial keeps, and what its record says, when it is taken further and killed on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

import training.fit
import training.record
import training.trial
from tests.training.resumed import Killed, assert_same_outcome, make_trial
from tests.training.trials import history
from training.fit import fit
from training.freeze import freeze, read_frozen
from training.trial import Trial, TrialError, read_record


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, small_dataset: Any) -> Path:
    """The folder of a trial that was fitted in one go."""
    trial = make_trial(tmp_path_factory.mktemp("straight"))
    fit(trial, small_dataset)
    return trial.folder


@pytest.mark.parametrize("step", [3, 6], ids=["in the first epoch", "in the second"])
def test_a_killed_trial_may_be_ended_where_it_stands(
    step: int,
    tmp_path: Path,
    small_dataset: Any,
    killed_at: Callable[[Trial, Any, int], None],
) -> None:
    """As if no more steps had ever been asked for."""
    short, reference = make_trial(tmp_path, step), make_trial(tmp_path / "reference", step)
    killed_at(make_trial(tmp_path), small_dataset, step)
    fit(short, small_dataset)
    fit(reference, small_dataset)
    rows, wanted = history(short.folder), history(reference.folder)
    assert rows[-1]["step"] == str(step)
    for row in (*rows, *wanted):
        del row["images_per_second"]
    assert rows == wanted
    one, two = (
        keras.saving.load_model(each.folder / "model.keras", compile=False).get_weights()
        for each in (short, reference)
    )
    assert [w.tobytes() for w in one] == [w.tobytes() for w in two]


def test_what_was_finished_stays_until_the_longer_run_is_done(
    straight: Path,
    tmp_path: Path,
    small_dataset: Any,
    killed_at: Callable[[Trial, Any, int], None],
) -> None:
    short = make_trial(tmp_path, steps=8)
    fit(short, small_dataset)
    record = freeze(short.folder, small_dataset, images=80)
    kept = ("trial.json", "history.csv", "model.keras", "frozen.keras")
    files = {name: (short.folder / name).read_bytes() for name in kept}
    killed_at(make_trial(tmp_path), small_dataset, 12)
    assert {name: (short.folder / name).read_bytes() for name in kept} == files
    said: list[str] = []
    assert fit(short, small_dataset, say=said.append) == record
    assert "done already (8 steps)" in said[0]
    assert read_frozen(short.folder)[0] == record
    assert freeze(short.folder, small_dataset, images=80)["outcome"] == record["outcome"]
    fit(make_trial(tmp_path), small_dataset, say=said.append)
    assert "goes on from step 12 of 14" in said[1]
    assert_same_outcome(short.folder, straight)


def test_without_a_damaged_checkpoint_what_was_finished_stays_and_the_longer_run_starts_over(
    straight: Path,
    tmp_path: Path,
    small_dataset: Any,
    killed_at: Callable[[Trial, Any, int], None],
) -> None:
    """The message names the one file to remove."""
    record = fit(make_trial(tmp_path, steps=8), small_dataset)
    killed_at(make_trial(tmp_path), small_dataset, 12)
    checkpoint = make_trial(tmp_path).folder / "checkpoint.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(
        TrialError, match=r"checkpoint\.npz: .*remove this file to start over; what"
    ):
        fit(make_trial(tmp_path), small_dataset)
    checkpoint.unlink()
    assert fit(make_trial(tmp_path, steps=8), small_dataset) == record
    said: list[str] = []
    fit(make_trial(tmp_path), small_dataset, say=said.append)
    assert not any("goes on from" in each for each in said)
    assert_same_outcome(checkpoint.parent, straight)


@pytest.mark.parametrize("written", range(3))
def test_a_longer_run_that_is_killed_as_it_takes_the_place_is_ended_by_the_next(
    written: int,
    straight: Path,
    tmp_path: Path,
    small_dataset: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After so many of its files: no record ever speaks of the other run's net."""
    fit(make_trial(tmp_path, steps=8), small_dataset)
    folder, files = make_trial(tmp_path).folder, itertools.count()
    finish, write_atomically = training.fit._finish, training.trial.write_atomically

    def dying(path: Path, write: Callable[[Path], Any]) -> None:
        if next(files) == written:
            raise Killed
        write_atomically(path, write)

    def finish_dying(*arguments: Any) -> Any:
        patch.setattr(training.trial, "write_atomically", dying)
        return finish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.fit, "_finish", finish_dying)
        with pytest.raises(Killed):
            fit(make_trial(tmp_path), small_dataset)
    record = read_record(folder)
    assert record is not None
    assert ("outcome" in record) == (written == 0)
    fit(make_trial(tmp_path), small_dataset)
    assert_same_outcome(folder, straight)


def test_the_record_names_all_that_computed_a_trial(
    tmp_path: Path,
    small_dataset: Any,
    killed_at: Callable[[Trial, Any, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tools = training.record.tools("float32")
    other = {
        "versions": {**tools["versions"], "keras": "3.99"},
        "backend": "jax",
        "hardware": "NVIDIA L4",
        "precision": "bfloat16",
    }
    trial = make_trial(tmp_path)
    killed_at(trial, small_dataset, 3)
    killed_at(trial, small_dataset, 5)  # on the same machine: still one run
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(training.fit, "tools", lambda precision: other)
        record = fit(trial, small_dataset, say=said.append)
    assert record == read_record(trial.folder)
    assert record["runs"] == [{"steps": 5, **tools}, {"steps": 9, **other}]
    assert record["backend"] == "tensorflow; jax"
    assert record["hardware"] == f"{tools['hardware']}; NVIDIA L4"
    assert record["versions"]["keras"] == f"{tools['versions']['keras']}; 3.99"
    assert record["versions"]["numpy"] == tools["versions"]["numpy"]
    assert record["precision"] == "float32; bfloat16"
    assert "tensorflow computed it so far, jax goes on; the record names both" in said[0]
    assert "float32 computed it so far, bfloat16 goes on; the record names both" in said[1]
