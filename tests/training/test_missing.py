"""A trial that is not there is named before the data is touched, with the command that makes it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import training.data
from training.cli import main
from training.dataset import Dataset
from training.spread import command
from training.trial import Trial, override, write_record
from training.variants import VARIANTS


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the data was touched")

    monkeypatch.setattr(training.data, "load", load)


def told(words: str, runs: Path) -> str:
    done = CliRunner().invoke(main, [*words.split(), "--runs", str(runs)])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)  # a message, and no traceback
    return done.output


def make_trial(runs: Path, variant: str, status: str) -> Trial:
    trial = Trial(override("article", steps=70), VARIANTS[variant], 3, runs, 5000, True, 2)
    trial.folder.mkdir(parents=True)
    asked = command_record(trial)
    write_record(trial.folder, {"status": status, "configuration": asked})
    return trial


def command_record(trial: Trial) -> dict[str, Any]:
    none = np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, np.int64)
    return trial.configuration(Dataset("cifar100", "0", *none, *none, (), (), ()), 0.0)


@pytest.mark.parametrize("words", ["export --seed 3", "freeze --seeds 3", "ablate --seeds 3"])
def test_what_was_never_trained_is_told_with_the_command_that_trains_it(
    words: str, tmp_path: Path
) -> None:
    runs = tmp_path / "my runs"
    said = told(f"{words} --variants relu_with_bn", runs)
    folder = runs / "article/relu_with_bn/seed-3"
    head, _, way_out = said.partition("; make it with: ")
    assert head == f"Error: {folder}: no trial there"
    way_out = way_out.removesuffix(" (or choose others by --variants)\n")
    program, *module, name, _, _, _, _, _, _, _, named = shlex.split(way_out)
    assert (program, module, name) == (sys.executable, ["-m", "training"], "train")
    assert named == str(runs)
    parsed = main.commands["train"].make_context("train", shlex.split(way_out)[4:]).params
    assert (parsed["recipe"], parsed["variants"]) == ("article", ["relu_with_bn"])
    assert (parsed["seeds"], parsed["runs"]) == ([3], runs)
    assert not runs.exists()


def test_the_command_has_the_data_that_was_given(tmp_path: Path) -> None:
    words = ["export", "--variants", "relu_with_bn", "--runs", str(tmp_path), "--data", "my data"]
    said = CliRunner().invoke(main, words).output
    assert " --data 'my data' (or choose others" in said


def test_what_is_fitted_only_is_to_be_frozen_and_what_was_begun_ended_as_it_was(
    tmp_path: Path,
) -> None:
    make_trial(tmp_path, "relu_with_bn", "fitted")
    begun = make_trial(tmp_path, "sigmoid_with_bn", "fitting")
    make_trial(tmp_path, "relu_without_bn", "frozen")
    head, *lines = told("export --seed 3", tmp_path).splitlines()
    assert head.startswith("Error: 3 of 4 trials are missing; make them, or choose others")
    (fitted,) = [line for line in lines if "/relu_with_bn/" in line]
    (fitting,) = [line for line in lines if "/sigmoid_with_bn/" in line]
    (absent,) = [line for line in lines if "/sigmoid_without_bn/" in line]
    assert "seed-3: not frozen yet; go on with: " in fitted
    assert " freeze --recipe article --variants relu_with_bn --seeds 3 " in fitted
    whole = shlex.join(command(begun, None))
    assert fitting.endswith(f"seed-3: not fitted to its end; go on with: {whole}")
    assert "seed-3: no trial there; make it with: " in absent


@pytest.mark.parametrize("name", ["freeze", "ablate"])
def test_a_fitted_trial_is_enough_where_nothing_frozen_is_needed(name: str, tmp_path: Path) -> None:
    make_trial(tmp_path, "relu_with_bn", "fitted")
    words = [name, "--seeds", "3", "--variants", "relu_with_bn", "--runs", str(tmp_path)]
    done = CliRunner().invoke(main, words)
    assert str(done.exception) == "the data was touched"


@pytest.mark.parametrize("words", ["export --seed 4", "freeze --seeds 4", "ablate --seeds 4"])
@pytest.mark.parametrize("status", ["fitting", "frozen"])
def test_a_copy_under_another_name_is_not_taken_for_the_trial_that_it_is_named_after(
    status: str, words: str, tmp_path: Path
) -> None:
    """Before the data is touched, and with no command that would be refused."""
    trial = make_trial(tmp_path, "relu_with_bn", status)
    trial.folder.rename(trial.folder.with_name("seed-4"))
    said = told(f"{words} --variants relu_with_bn", tmp_path)
    place = "article/relu_with_bn"
    assert said.startswith(f"Error: {tmp_path}/{place}/seed-4: its record is of {place}/seed-3, ")
    assert "move it to that place" in said
