"""A trial's folder and its record: found, read, written and locked; nothing here fits a net."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from training.cli import main
from training.recipes import LEARNING_RATES, RECIPES, Augmentation
from training.trial import (
    BusyError,
    Trial,
    TrialError,
    find_trials,
    locked,
    override,
    read_record,
    recipe_of,
    write_record,
)
from training.variants import VARIANTS

ARTICLE, VARIANT = RECIPES["article"], VARIANTS["relu_with_bn"]

HOLD = """
import sys
from pathlib import Path
from training.trial import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_trial_lives_in_a_folder_named_after_it() -> None:
    trial = Trial(ARTICLE, VARIANT, seed=3, runs=Path("some/runs"))
    assert trial.folder == Path("some/runs/article/relu_with_bn/seed-3")


@pytest.mark.parametrize("selection", [{"keep_best": True}, {"patience": 2}])
def test_selection_without_a_hold_out_is_refused(selection: dict[str, Any]) -> None:
    with pytest.raises(TrialError, match=r"nothing is selected on the test set: give --hold-out"):
        Trial(ARTICLE, VARIANT, seed=0, **selection)
    assert Trial(ARTICLE, VARIANT, seed=0, hold_out=500, **selection).hold_out == 500


def test_the_recipe_is_read_back_as_it_was_run(small_dataset: Any, tmp_path: Path) -> None:
    recipe = override("article", steps=7, batch=5, learning_rate=0.25)
    recipe = replace(recipe, augmentation=Augmentation(shear=0.5, zoom=0.0, flip=False))
    trial = Trial(recipe, VARIANT, seed=0)
    configuration = trial.configuration(small_dataset, 120.0)
    write_record(tmp_path, {"status": "fitting", "configuration": configuration})
    record = read_record(tmp_path)
    assert record is not None
    assert recipe_of(record) == recipe


def test_a_variant_that_does_not_stand_the_recipes_rate_has_its_own() -> None:
    for (name, variant), rate in LEARNING_RATES.items():
        assert override(name, variant) == replace(RECIPES[name], learning_rate=rate)
        assert override(name, variant, learning_rate=0.25).learning_rate == 0.25
    assert override("modern", "relu_with_bn") == RECIPES["modern"]


def test_the_command_line_gives_every_variant_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials: list[Trial] = []
    monkeypatch.setattr("training.spread.run_in_processes", lambda asked, *_: trials.extend(asked))
    words = ["train", "--recipe", "modern", "--jobs", "2", "--runs", str(tmp_path)]
    assert CliRunner().invoke(main, words).exit_code == 0
    rates = {trial.variant.name: trial.recipe.learning_rate for trial in trials}
    assert rates["relu_without_bn"] == LEARNING_RATES["modern", "relu_without_bn"]
    assert rates["relu_with_bn"] == rates["sigmoid_with_bn"] == RECIPES["modern"].learning_rate


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    assert override("article") == ARTICLE
    assert override("article", steps=None, batch=None) == ARTICLE
    assert override("article", steps=5) == replace(ARTICLE, steps=5)
    assert override("article", epochs=3) == replace(ARTICLE, steps=6_000)
    assert override("demo", epochs=3) == replace(RECIPES["demo"], steps=210)  # epochs of its own
    assert override("modern", average=0.0) == replace(RECIPES["modern"], average=0.0)
    assert override("demo", batch=8, learning_rate=0.1) == replace(
        RECIPES["demo"], batch=8, learning_rate=0.1
    )
    assert RECIPES["article"].steps == 40_000  # the table itself stays as it is


def test_steps_and_epochs_together_are_refused() -> None:
    with pytest.raises(TrialError, match="give --steps or --epochs, not both"):
        override("article", steps=5, epochs=1)


def test_a_folder_without_a_record_has_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '"fitted"', "{}"),
        *('{"status": "fitted"}', '{"configuration": {}}', '{"status": 1, "configuration": {}}'),
        '{"status": "fitting", "configuration": {}}',  # of which trial?
    ],
)
def test_a_broken_record_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text(text)
    with pytest.raises(
        TrialError, match=r"trial\.json: .*remove the folder to start over"
    ) as error:
        read_record(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "change", [{"mixup": 0.2}, {"steps": None}, {"augmentation": {"cutout": 8}}]
)
def test_a_recipe_of_another_version_is_refused_by_name(
    change: dict[str, Any], small_dataset: Any, tmp_path: Path
) -> None:
    configuration = Trial(ARTICLE, VARIANT, seed=0).configuration(small_dataset, 120.0)
    recipe = configuration["recipe"] | change
    recipe = {name: value for name, value in recipe.items() if value is not None}
    record = {"status": "fitted", "configuration": configuration | {"recipe": recipe}}
    write_record(tmp_path, record)
    (knob,) = change if "augmentation" not in change else ("cutout",)
    refusal = rf"trial\.json: this version has no such recipe \(.*{knob}.*\); use the version that"
    with pytest.raises(TrialError, match=refusal):
        read_record(tmp_path)


def test_a_variant_of_another_version_is_refused_by_name(
    small_dataset: Any, tmp_path: Path
) -> None:
    configuration = Trial(ARTICLE, VARIANT, seed=0).configuration(small_dataset, 120.0)
    configuration["variant"]["groups"] = 4
    write_record(tmp_path, {"status": "fitted", "configuration": configuration})
    with pytest.raises(TrialError, match=r"no such variant \(.*'groups'.*\); use the version that"):
        read_record(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_record_holds_numbers_alone(value: float, tmp_path: Path) -> None:
    """NaN is none of JSON's: other programs would refuse the whole record."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path, {"loss": value})
    assert list(tmp_path.iterdir()) == []


def test_trials_are_found_in_the_variants_order_then_by_seed(tmp_path: Path) -> None:
    names = [
        "article/relu_with_bn/seed-10",
        "article/relu_with_bn/seed-9",
        "article/sigmoid_without_bn/seed-0",
        "demo/relu_without_bn/seed-0",
    ]
    for name in [*names, "article/tanh_with_bn/seed-0"]:  # one that the study does not know
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "trial.json").write_text("{}")
    (tmp_path / "article/relu_with_bn/seed-1").mkdir()  # no record
    for other in ("seed-1-backup", "seed-", "seed-²"):
        (tmp_path / "article/relu_with_bn" / other).mkdir()
        (tmp_path / "article/relu_with_bn" / other / "trial.json").write_text("{}")
    found = [str(folder.relative_to(tmp_path)) for folder in find_trials(tmp_path, "article")]
    assert found == [names[2], names[1], names[0]]
    assert find_trials(tmp_path, "demo") == [tmp_path / names[3]]
    assert find_trials(tmp_path / "nowhere", "demo") == []


def test_two_processes_cannot_work_on_one_trial_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / "seed-0"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        refusal = f"^{re.escape(str(folder))}: another process is working on this trial"
        with pytest.raises(BusyError, match=refusal), locked(folder):
            pytest.fail("two processes hold the same folder")
        with locked(tmp_path / "seed-1"):  # its neighbour is free
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with locked(folder):
        pass
    with locked(folder):  # and again, once it was let go
        pass


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    refusal = pytest.raises(TrialError, match=r"cannot be locked \(.*No locks available")
    with refusal as error, locked(tmp_path):
        pytest.fail("held without a lock")
    assert not isinstance(error.value, BusyError)  # which would be waited for


@pytest.mark.parametrize("command", ["train", "freeze"])
@pytest.mark.parametrize("runs", ["a file", "/proc/runs"])
def test_a_runs_folder_that_cannot_be_is_named(command: str, runs: str, tmp_path: Path) -> None:
    if runs == "a file":
        runs = str(tmp_path / "file")
        Path(runs).write_text("not a folder")
    words = [command, "--recipe", "demo", "--variants", "relu_without_bn", "--runs", runs]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    says = {"train": "cannot be written", "freeze": "no trial there"}[command]
    assert re.search(rf"^Error: {re.escape(runs)}/demo/relu_without_bn/seed-0: {says}", done.output)


def test_a_runs_folder_that_was_mistyped_is_not_made(tmp_path: Path) -> None:
    words = ["freeze", "--recipe", "demo", "--runs", str(tmp_path / "rusn")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "rusn/demo/relu_with_bn/seed-0: no trial there" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seeds", "says"), [("5-3", "ends before it begins"), ("²", "is not a seed"), ("", "is empty")]
)
def test_seeds_that_are_none_are_refused(seeds: str, says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["train", "--seeds", seeds, "--runs", str(tmp_path)])
    assert done.exit_code == 2
    assert says in done.output
