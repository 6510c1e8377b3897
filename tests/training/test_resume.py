"""A trial survives being killed, byte for byte; where it cannot go on, the message says why."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.fit
import training.record
import training.trial
from tests.training.resumed import STEPS, assert_same_outcome, make_trial
from tests.training.trials import history
from training import synthetic
from training.fit import fit
from training.freeze import freeze
from training.recipes import Augmentation
from training.trial import TrialError, locked, read_record, write_record


def run_to_be_killed(runs: str, fatal_write: str) -> None:
    """In a process of its own: fit, with a checkpoint a step; the ``fatal_write``-th file (from 1)
    that holds variables is half written when the process kills itself; 0 is none.
    """
    writes = itertools.count(1)
    savez = np.savez

    def write(file: Any, **arrays: Any) -> None:
        if next(writes) == int(fatal_write):
            file.write(b"half of a")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        savez(file, **arrays)

    np.savez = write
    training.fit.CHECKPOINT_SECONDS = 0
    fit(make_trial(Path(runs)), synthetic.load(seed=6, train=200, test=100))


def start(runs: Path, fatal_write: int = 0) -> subprocess.Popen[str]:
    code = f"from {__name__} import run_to_be_killed as run; import sys; run(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(runs), str(fatal_write)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, small_dataset: Any) -> Path:
    """The folder of a trial that was fitted in one go."""
    trial = make_trial(tmp_path_factory.mktemp("straight"))
    fit(trial, small_dataset)
    return trial.folder


def test_a_trial_killed_at_any_moment_ends_as_one_that_never_was(
    straight: Path, tmp_path: Path, small_dataset: Any
) -> None:
    trial = make_trial(tmp_path)
    checkpoint = trial.folder / "checkpoint.npz"

    first = start(tmp_path)
    while not checkpoint.exists():
        assert first.poll() is None, "ended before its first checkpoint"
        time.sleep(0.005)
    first.kill()  # wherever it is now
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    record = read_record(trial.folder)
    assert record is not None
    assert (record["status"], "outcome" in record) == ("fitting", False)

    second = start(tmp_path, fatal_write=4)  # within a checkpoint or within the best net so far
    output, _ = second.communicate()
    assert second.returncode == -signal.SIGKILL
    assert re.search(r"goes on from step \d+ of 14", output)
    half = list(trial.folder.glob(".partial-*"))
    assert [path.read_bytes() for path in half] == [b"half of a"]

    said: list[str] = []
    fit(trial, small_dataset, say=said.append)
    assert (found := re.search(r"goes on from step (\d+) of 14", said[0]))
    assert int(found[1]) >= 3
    assert_same_outcome(trial.folder, straight)
    assert not list(trial.folder.glob(".partial-*"))


def test_a_trial_of_fewer_steps_is_taken_further_as_if_it_had_been_one_run(
    straight: Path, tmp_path: Path, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it stopped inside an epoch, which was the best so far, and was killed after its last
    checkpoint besides. The longer run never had that epoch, and keeps another.
    """

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    short = make_trial(tmp_path, steps=6)
    with monkeypatch.context() as patch:
        patch.setattr(training.fit, "_finish", die)
        with pytest.raises(KeyboardInterrupt):
            fit(short, small_dataset)
    record = fit(short, small_dataset)
    assert (record["outcome"]["steps"], record["outcome"]["kept_step"]) == (6, 6)
    assert [row["step"] for row in history(short.folder)] == ["4", "6"]
    record = fit(make_trial(tmp_path), small_dataset)
    assert record["outcome"]["kept_step"] in (4, 8, 12, 14)
    assert_same_outcome(short.folder, straight)


def test_a_trial_that_is_done_is_left_as_it_is(straight: Path, small_dataset: Any) -> None:
    files = {path: path.read_bytes() for path in straight.iterdir()}
    for steps in (STEPS, 5):
        said: list[str] = []
        record = fit(make_trial(straight.parents[2], steps), small_dataset, say=said.append)
        assert record == read_record(straight)
        assert said == [f"{straight}: done already (14 steps), nothing to fit"]
    assert {path: path.read_bytes() for path in straight.iterdir()} == files


def test_a_folder_with_another_trial_is_refused_by_what_differs(
    straight: Path, small_dataset: Any
) -> None:
    trial = make_trial(straight.parents[2])
    recipe = replace(trial.recipe, learning_rate=0.5, augmentation=Augmentation(flip=False))
    with pytest.raises(TrialError, match=re.escape(str(straight))) as error:
        fit(replace(trial, recipe=recipe), small_dataset)
    message = str(error.value)
    assert "recipe.learning_rate is 0.001 there and 0.5 here" in message
    assert "recipe.augmentation.flip is True there and False here" in message
    assert "seed" not in message.replace(str(straight), "")
    with pytest.raises(TrialError, match=r"dataset\.checksum is '\w+' there and '0+' here"):
        fit(trial, replace(small_dataset, checksum="0" * 64))


def test_a_folder_that_another_works_on_is_refused(straight: Path, small_dataset: Any) -> None:
    with locked(straight):
        with pytest.raises(TrialError, match="another process is working on this trial"):
            fit(make_trial(straight.parents[2]), small_dataset)
        with pytest.raises(TrialError, match="another process is working on this trial"):
            freeze(straight, small_dataset)


def cut(folder: Path) -> None:
    whole = (folder / "checkpoint.npz").read_bytes()
    (folder / "checkpoint.npz").write_bytes(whole[: len(whole) // 2])


def of_nobody(folder: Path) -> None:
    with np.load(folder / "checkpoint.npz") as stored:
        arrays = {name: stored[name] for name in stored.files if name != "configuration"}
    np.savez(folder / "checkpoint.npz", **arrays)


@pytest.mark.parametrize(
    ("damage", "steps", "refusal"),
    [
        (cut, STEPS, "does not fit this trial"),
        (of_nobody, STEPS, "does not fit this trial"),
        (lambda folder: None, 5, "is at step 14 already, beyond the 5 asked for"),
    ],
    ids=["cut short", "of no trial", "beyond what is asked for"],
)
def test_a_checkpoint_that_cannot_be_gone_on_from_is_refused_by_name(
    damage: Callable[[Path], None],
    steps: int,
    refusal: str,
    straight: Path,
    tmp_path: Path,
    small_dataset: Any,
) -> None:
    trial = make_trial(tmp_path, steps)
    shutil.copytree(straight, trial.folder)
    record = json.loads((straight / "trial.json").read_text())
    del record["outcome"]
    write_record(trial.folder, {**record, "status": "fitting"})
    damage(trial.folder)
    with pytest.raises(TrialError, match=rf"checkpoint\.npz: {refusal}.*remove this file to start"):
        fit(trial, small_dataset)
    (trial.folder / "checkpoint.npz").unlink()
    assert fit(trial, small_dataset)["outcome"]["steps"] == steps


def test_a_checkpoint_of_another_trial_is_refused_by_what_differs(
    straight: Path, tmp_path: Path, small_dataset: Any
) -> None:
    """Its variables would fit: nothing but their file says whose they are."""
    trial = replace(make_trial(tmp_path), seed=3)
    trial.folder.mkdir(parents=True)
    shutil.copy(straight / "checkpoint.npz", trial.folder)
    with pytest.raises(TrialError, match=r"npz: .*seed is 7 there and 3 here.* this file to"):
        fit(trial, small_dataset)
    assert read_record(trial.folder) is None
