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

import keras
import numpy as np
import pytest

import training.fit
import training.record
import training.trial
from tests.training.trials import history, make_recipe
from training import synthetic
from training.dataset import hold_out
from training.fit import fit
from training.freeze import freeze, read_frozen
from training.recipes import Augmentation
from training.trial import Trial, TrialError, locked, read_record, write_record
from training.variants import VARIANTS

STEPS = 14  # three epochs of 4 steps, and a shorter one


def make_trial(runs: Path, steps: int = STEPS) -> Trial:
    recipe = make_recipe(steps, steps_per_epoch=4)
    return Trial(recipe, VARIANTS["relu_with_bn"], seed=7, runs=runs, hold_out=100, keep_best=True)


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


def assert_same_outcome(folder: Path, expected: Path) -> None:
    """The same net, optimizer, history and record, but for how long it took."""
    one, two = (
        keras.saving.load_model(each / "model.keras", compile=False).get_weights()
        for each in (folder, expected)
    )
    assert len(one) == 62  # 11 kernels and biases, 10 normalizations of 4
    assert [w.tobytes() for w in one] == [w.tobytes() for w in two]
    with np.load(folder / "checkpoint.npz") as ours, np.load(expected / "checkpoint.npz") as theirs:
        names = set(ours.files) - {"progress"}
        assert names == set(theirs.files) - {"progress"}
        assert len(names) > 62 + 42  # the optimizer's squares too
        for name in names:
            assert ours[name].tobytes() == theirs[name].tobytes()
    rows, wanted = history(folder), history(expected)
    for row in (*rows, *wanted):
        assert float(row.pop("images_per_second")) > 0
    assert rows == wanted
    record, reference = read_record(folder), read_record(expected)
    assert record is not None
    assert reference is not None
    for each in (record, reference):
        assert each["outcome"].pop("seconds") > 0
        assert each["outcome"].pop("images_per_second") > 0
    assert record == reference


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


@pytest.mark.parametrize(
    ("damage", "steps", "refusal"),
    [
        (cut, STEPS, "does not fit this trial"),
        (lambda folder: None, 5, "is at step 14 already, beyond the 5 asked for"),
    ],
    ids=["cut short", "beyond what is asked for"],
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
    with pytest.raises(TrialError, match=rf"checkpoint\.npz: {refusal}.*remove the folder"):
        fit(trial, small_dataset)


def test_a_checkpoint_of_another_trial_is_refused_by_what_differs(
    straight: Path, tmp_path: Path, small_dataset: Any
) -> None:
    """Its variables would fit: nothing but their file says whose they are."""
    trial = replace(make_trial(tmp_path), seed=3)
    trial.folder.mkdir(parents=True)
    shutil.copy(straight / "checkpoint.npz", trial.folder)
    with pytest.raises(TrialError, match=r"checkpoint\.npz: .*seed is 7 there and 3 here"):
        fit(trial, small_dataset)
    assert read_record(trial.folder) is None


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Trial, Any, int], None]:
    """Fit a trial and die once the checkpoint of that step is written."""

    def run(trial: Trial, dataset: Any, step: int) -> None:
        save = training.fit._Run.save

        def dying(run: Any) -> None:
            save(run)
            if run.progress.step == step:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(training.fit, "CHECKPOINT_SECONDS", 0)
            patch.setattr(training.fit, "EXECUTION_SECONDS", 0)
            patch.setattr(training.fit._Run, "save", dying)
            with pytest.raises(Killed):
                fit(trial, dataset)

    return run


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
        for module in (training.trial, training.record, training.fit):
            patch.setattr(module, "write_atomically", dying)
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
    tools = training.record.tools()
    other = {
        "versions": {**tools["versions"], "keras": "3.99"},
        "backend": "jax",
        "hardware": "NVIDIA L4",
    }
    trial = make_trial(tmp_path)
    killed_at(trial, small_dataset, 3)
    killed_at(trial, small_dataset, 5)  # on the same machine: still one run
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(training.fit, "tools", lambda: other)
        record = fit(trial, small_dataset, say=said.append)
    assert record == read_record(trial.folder)
    assert record["runs"] == [{"steps": 5, **tools}, {"steps": 9, **other}]
    assert record["backend"] == "tensorflow; jax"
    assert record["hardware"] == f"{tools['hardware']}; NVIDIA L4"
    assert record["versions"]["keras"] == f"{tools['versions']['keras']}; 3.99"
    assert record["versions"]["numpy"] == tools["versions"]["numpy"]
    assert "tensorflow computed it so far, jax goes on; the record names both" in said[0]


def made_old(folder: Path) -> None:
    """Leave of a trial's files what they held before checkpoints named their trial and runs."""
    with np.load(folder / "checkpoint.npz") as stored:
        arrays = {name: stored[name] for name in stored.files if name != "configuration"}
    progress = json.loads(str(arrays["progress"]))
    del progress["runs"]
    arrays["progress"] = np.array(json.dumps(progress))
    np.savez(folder / "checkpoint.npz", **arrays)
    record = json.loads((folder / "trial.json").read_text())
    record.pop("runs", None)
    record["hardware"] = "an older machine"
    write_record(folder, record)


def test_trials_from_before_are_gone_on_with_frozen_and_taken_further(
    straight: Path,
    tmp_path: Path,
    small_dataset: Any,
    killed_at: Callable[[Trial, Any, int], None],
) -> None:
    trial = make_trial(tmp_path)
    killed_at(trial, small_dataset, 5)
    made_old(trial.folder)
    record = fit(make_trial(tmp_path, steps=8), small_dataset)
    now = training.record.tools()
    older = {**now, "hardware": "an older machine"}
    assert record["runs"] == [{"steps": 5, **older}, {"steps": 3, **now}]
    made_old(trial.folder)
    assert freeze(trial.folder, small_dataset, images=80)["status"] == "frozen"
    record = fit(trial, small_dataset)
    assert record["runs"] == [{"steps": 8, **older}, {"steps": 6, **now}]
    ours, theirs = (
        keras.saving.load_model(each / "model.keras", compile=False).get_weights()
        for each in (trial.folder, straight)
    )
    assert [w.tobytes() for w in ours] == [w.tobytes() for w in theirs]


def test_a_trial_begun_with_the_mean_of_all_pictures_goes_on_with_it(
    tmp_path: Path, small_dataset: Any
) -> None:
    """As earlier versions took it with a hold-out; a new one leaves out what is held out."""
    trial = make_trial(tmp_path, steps=2)
    record = fit(trial, small_dataset)
    rest, _, _ = hold_out(small_dataset, 100, training.fit.HOLD_OUT_SEED)
    assert record["configuration"]["training_mean"] == rest.training_mean
    assert rest.training_mean != small_dataset.training_mean
    made_old(trial.folder)
    record["configuration"]["training_mean"] = small_dataset.training_mean
    write_record(trial.folder, record)
    longer = fit(make_trial(tmp_path, steps=4), small_dataset)
    assert longer["configuration"]["training_mean"] == small_dataset.training_mean
    assert longer["outcome"]["steps"] == 4
