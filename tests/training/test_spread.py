"""Many trials: the command of one, the list of many, an Indexed Job; and one after another."""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import training.data
import training.fit
import training.freeze
from tests.training.commands import ROOT
from tests.training.trials import make_recipe
from training import spread
from training.cifar100 import DataError
from training.cli import main
from training.spread import command, left_to_do, run_in_turn
from training.trial import Trial, TrialError, locked, override, read_record, recipe_of, write_record
from training.variants import VARIANTS


def test_a_trials_command_asks_for_that_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Trial] = []

    def fit(trial: Trial, dataset: Any, say: Any) -> dict[str, str]:
        asked.append(trial)
        return {"status": "frozen"}

    monkeypatch.setattr(training.fit, "fit", fit)
    monkeypatch.setattr(training.data, "load", lambda *_: None)
    recipe = override("demo", steps=70, batch=7, learning_rate=0.00123)
    trial = Trial(recipe, VARIANTS["sigmoid_with_bn"], 11, tmp_path, 200, True, 3)
    words = command(trial, data=None)
    assert words[:3] == [sys.executable, "-m", "training"]
    done = CliRunner().invoke(main, words[3:], catch_exceptions=False)
    assert done.exit_code == 0
    assert asked == [trial]


def test_an_index_picks_one_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kubernetes sets it in every pod of an Indexed Job."""
    asked: list[tuple[str, int]] = []

    def fit(trial: Trial, dataset: Any, say: Any) -> dict[str, str]:
        asked.append((trial.variant.name, trial.seed))
        return {"status": "frozen"}

    monkeypatch.setattr(training.fit, "fit", fit)
    monkeypatch.setattr(training.data, "load", lambda *_: None)
    arguments = ["train", "--recipe", "demo", "--seeds", "0-2", "--runs", str(tmp_path)]
    for index in range(12):
        environment = {"JOB_COMPLETION_INDEX": str(index)}
        done = CliRunner().invoke(main, arguments, env=environment, catch_exceptions=False)
        assert done.exit_code == 0
    assert asked == [(name, seed) for seed in (0, 1, 2) for name in VARIANTS]
    done = CliRunner().invoke(main, arguments, env={"JOB_COMPLETION_INDEX": "12"})
    assert done.exit_code == 2
    assert "there are 12 trials, 0 to 11" in done.output


def test_the_indexed_jobs_manifest_has_a_pod_a_trial() -> None:
    manifest = (ROOT / "deploy/kubernetes/training-indexed-job.yaml").read_text()
    (words,) = re.findall(r"args: \[(.*)\]", manifest)
    parsed = main.commands["train"].make_context("train", words.split(", ")).params
    (completions,) = re.findall(r"completions: (\d+)", manifest)
    assert len(parsed["variants"]) * len(parsed["seeds"]) == int(completions)
    assert "completionMode: Indexed" in manifest
    (program,) = re.findall(r"command: \[(.*)\]", manifest)
    assert program.split(", ") == ["python3", "-m", "training", "train"]


def test_what_is_frozen_as_asked_or_longer_is_not_left_to_do(
    relu_without_bn: Any, tmp_path: Path
) -> None:
    record = relu_without_bn.record
    runs = relu_without_bn.folder.parents[2]
    recipe = recipe_of(record)

    def standing(**changes: Any) -> tuple[bool, list[str]]:
        asked = {"recipe": recipe, "hold_out": 0, "runs": runs, **changes}
        left, failures = left_to_do(
            [Trial(variant=VARIANTS["relu_without_bn"], seed=0, **asked)], str
        )
        return bool(left), failures

    assert standing() == (False, [])
    assert standing(recipe=replace(recipe, steps=recipe.steps - 1)) == (False, [])
    assert standing(recipe=replace(recipe, steps=recipe.steps + 1)) == (True, [])
    assert standing(runs=tmp_path) == (True, [])
    left, (failure,) = standing(hold_out=100)
    assert not left
    assert "holds another trial (hold_out is 0 there and 100 here)" in failure


def test_where_all_is_done_the_data_need_not_be_there(
    relu_without_bn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise DataError("there is none")

    monkeypatch.setattr(training.data, "load", load)
    recipe, runs = recipe_of(relu_without_bn.record), relu_without_bn.folder.parents[2]
    said: list[str] = []

    def run(steps: int) -> None:
        asked = replace(recipe, steps=steps)
        run_in_turn([Trial(asked, VARIANTS["relu_without_bn"], 0, runs)], None, said.append)

    run(recipe.steps)
    assert said == [
        f"{relu_without_bn.folder}: done already ({recipe.steps} steps), nothing to fit"
    ]
    with pytest.raises(DataError):
        run(recipe.steps + 1)


def test_one_after_another_goes_on_where_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []

    def fit(trial: Trial, dataset: Any, say: Any) -> dict[str, str]:
        if trial.seed == 0:
            raise TrialError(f"{trial.folder}/checkpoint.npz: does not fit this trial")
        if trial.seed == 1:
            raise MemoryError("no memory for a batch")
        fitted.append(trial.seed)
        return {"status": "frozen"}

    monkeypatch.setattr(training.fit, "fit", fit)
    monkeypatch.setattr(training.data, "load", lambda *_: None)
    words = ["train", "--recipe", "demo", "--variants", "relu_with_bn", "--runs", str(tmp_path)]
    done = CliRunner().invoke(main, [*words, "--seeds", "0-2"])
    assert fitted == [2]
    assert done.exit_code == 1
    assert "2 of 3 trials failed" in done.output
    assert done.output.rstrip().endswith("seed-1: no memory for a batch")
    assert "seed-0/checkpoint.npz: does not fit" in done.output
    assert "Traceback" in done.output  # of what no message was written for
    alone = CliRunner().invoke(main, [*words, "--seeds", "0"])
    assert alone.exit_code == 1
    assert "trials failed" not in alone.output


def make_trials(runs: Path) -> list[Trial]:
    recipe = make_recipe(1, 5)
    return [Trial(recipe, VARIANTS["relu_without_bn"], seed, runs) for seed in (0, 1)]


def test_a_trial_that_another_works_on_is_put_off(
    tmp_path: Path, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.data, "load", lambda *_: small_dataset)
    monkeypatch.setattr(spread, "BUSY_SECONDS", 0.05)
    first, second = make_trials(tmp_path)
    said: list[str] = []
    with locked(first.folder):
        other = threading.Thread(target=run_in_turn, args=([first, second], None, said.append))
        other.start()
        while (read_record(second.folder) or {}).get("status") != "frozen":
            other.join(0.05)
            assert other.is_alive()
    other.join()
    assert (
        sum("another process is working on this trial; comes back to it" in each for each in said)
        == 1
    )
    assert read_record(first.folder)["status"] == "frozen"


def test_a_trial_that_another_freezes_between_fit_and_freeze_is_left_to_it(
    tmp_path: Path, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is let go between the two, and the other command may be the one that takes it."""
    monkeypatch.setattr(training.data, "load", lambda *_: small_dataset)
    monkeypatch.setattr(spread, "BUSY_SECONDS", 0.05)
    trial, _ = make_trials(tmp_path)
    others = locked(trial.folder)
    fit = training.fit.fit

    def fit_and_lose(trial: Trial, dataset: Any, say: Any) -> dict[str, Any]:
        record = fit(trial, dataset, say)
        if record["status"] == "fitted":
            others.__enter__()
        return record

    def wait(_: float) -> None:  # until the other command has frozen it
        record = read_record(trial.folder)
        write_record(trial.folder, {**record, "status": "frozen", "freeze": "the other's"})
        others.__exit__(None, None, None)

    monkeypatch.setattr(training.fit, "fit", fit_and_lose)
    monkeypatch.setattr(spread.time, "sleep", wait)
    run_in_turn([trial], None, print)
    assert read_record(trial.folder)["freeze"] == "the other's"


def test_what_is_wrong_with_a_whole_command_is_said_once_and_leaves_nothing(tmp_path: Path) -> None:
    words = ["train", "--recipe", "demo", "--runs", str(tmp_path / "runs")]
    done = CliRunner().invoke(main, [*words, "--hold-out", "7"])
    assert (done.exit_code, done.output.count("a hold-out of 7 pictures is not")) == (1, 1)
    for number in ("nan", "inf"):
        done = CliRunner().invoke(main, [*words, "--learning-rate", number])
        assert (done.exit_code, f"'{number}' is not a finite number" in done.output) == (2, True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--gpus 0.25", "--gpus shares out a Ray cluster's GPUs: give --ray ADDRESS as well"),
        ("--gpus 0 --jobs 2", "--gpus shares out a Ray cluster's GPUs: give --ray ADDRESS as well"),
        ("--jobs 2 --ray auto", "--jobs counts processes on this machine"),
        ("--jobs 1 --ray auto --gpus 1", "--jobs counts processes on this machine"),
        ("--ray auto --gpus 1.5", "--gpus 1.5: a share of one GPU, from 0.0001 to 1, or a whole"),
        ("--ray auto --gpus 0.00001", "--gpus 1e-05: a share of one GPU, from 0.0001 to 1, or"),
        ("--steps 5 --epochs 1", "give --steps or --epochs, not both"),
        ("--keep-best", "give --hold-out N as well"),
        ("--patience 3", "give --hold-out N as well"),
        ("--index 4", "--index 4: there are 4 trials, 0 to 3"),
    ],
)
def test_an_option_that_cannot_be_met_is_refused(
    words: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the data was touched")

    monkeypatch.setattr(training.data, "load", load)
    arguments = ["train", "--recipe", "demo", "--runs", str(tmp_path / "runs"), *words.split()]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())
    assert not (tmp_path / "runs").exists()
