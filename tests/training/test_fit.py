"""The fit: what it keeps, what it writes down, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import logsumexp

import training.fit
from tests.training.trials import history, make_recipe
from training.dataset import hold_out
from training.evaluate import Scores
from training.fit import fit
from training.trial import Trial, TrialError, read_record
from training.variants import VARIANTS


def test_the_best_epoch_on_the_hold_out_is_kept_and_no_more_are_run_for_long(
    tmp_path: Path, small_dataset: Any
) -> None:
    """In epochs so short that they differ by chance, the next best is not far to seek."""
    recipe = make_recipe(steps=60, steps_per_epoch=2)
    trial = Trial(
        recipe,
        VARIANTS["relu_with_bn"],
        seed=0,
        runs=tmp_path,
        hold_out=100,
        keep_best=True,
        patience=2,
    )
    outcome = fit(trial, small_dataset)["outcome"]
    losses = [float(row["val_loss"]) for row in history(trial.folder)]
    best = int(np.argmin(losses)) + 1
    assert len(losses) == best + 2 < 30  # two epochs without a new best, and it stopped
    assert outcome["stopped_early"]
    assert (outcome["steps"], outcome["epochs"]) == (2 * len(losses), len(losses))
    assert outcome["kept_step"] == 2 * best
    assert outcome["images"] == recipe.batch * outcome["steps"]  # all that were fitted on
    assert outcome["validation_set"] == "hold-out"

    net = keras.saving.load_model(trial.folder / "model.keras", compile=False)
    _, images, labels = hold_out(small_dataset, 100)
    probabilities = net.predict(images, verbose=0).astype(np.float64)
    loss = -np.log(probabilities[np.arange(100), labels]).mean()
    assert loss == pytest.approx(min(losses), rel=1e-4)
    assert outcome["validation_loss"] == pytest.approx(loss, rel=1e-4)
    assert outcome["validation_accuracy"] == (probabilities.argmax(axis=1) == labels).mean()

    said: list[str] = []
    fit(replace(trial, recipe=replace(recipe, steps=80)), small_dataset, say=said.append)
    assert "done already" in said[0]  # more steps do not change where it stopped


def test_a_killed_run_that_is_ended_earlier_keeps_the_best_of_what_it_then_has(
    tmp_path: Path, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def trial(runs: str, steps: int) -> Trial:
        recipe = make_recipe(steps=steps, steps_per_epoch=2)
        return Trial(recipe, VARIANTS["relu_with_bn"], 0, tmp_path / runs, 100, keep_best=True)

    def fitted(asked: Trial, *losses: float) -> dict[str, Any]:
        """As if the epochs to come validated so."""
        scores = iter(losses)
        monkeypatch.setattr(training.fit, "score", lambda *_: Scores(0.1, 0.2, next(scores)))
        return fit(asked, small_dataset)

    save = training.fit._Run.save

    def save_until_killed(run: Any) -> None:
        if run.progress.step == 6:
            raise KilledError
        if run.progress.step <= 3:
            save(run)

    expected = fitted(trial("straight", 4), 3.0, 4.0)["outcome"]
    monkeypatch.setattr(training.fit, "EXECUTION_SECONDS", 0)
    monkeypatch.setattr(training.fit, "CHECKPOINT_SECONDS", -1)
    with monkeypatch.context() as patch:
        patch.setattr(training.fit._Run, "save", save_until_killed)
        with pytest.raises(KilledError):
            fitted(trial("killed", 8), 3.0, 4.0, 2.0)
    outcome = fitted(trial("killed", 4), 4.0)["outcome"]
    assert (outcome["kept_step"], outcome["validation_loss"]) == (2, 3.0)
    assert (expected["kept_step"], expected["validation_loss"]) == (2, 3.0)
    kept, straight = (
        keras.saving.load_model(trial(runs, 4).folder / "model.keras", compile=False).get_weights()
        for runs in ("killed", "straight")
    )
    for one, two in zip(kept, straight, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_history_shows_test_accuracy_epoch_by_epoch(sigmoid_with_bn: Any) -> None:
    """Where nothing is held out, as the article's curves did."""
    (row,) = history(sigmoid_with_bn.folder)
    assert list(row) == [
        *("epoch", "step", "loss", "accuracy"),
        *("val_loss", "val_accuracy", "images_per_second"),
    ]
    assert (row["epoch"], row["step"]) == ("1", "40")
    data = sigmoid_with_bn.data
    logits_net = keras.Model(
        sigmoid_with_bn.net.input, sigmoid_with_bn.net.get_layer("logits").output
    )
    logits = logits_net.predict(data.test_images, verbose=0).astype(np.float64)
    own = logits[np.arange(100), data.test_labels]
    assert float(row["val_loss"]) == pytest.approx((logsumexp(logits, axis=1) - own).mean())
    assert float(row["val_accuracy"]) == (logits.argmax(axis=1) == data.test_labels).mean()
    outcome = sigmoid_with_bn.record["outcome"]
    assert outcome["validation_set"] == "test"
    assert outcome["images"] == 40 * 20
    assert sigmoid_with_bn.record["parameters"] == {"trainable": 414_560, "total": 415_920}


def test_a_row_of_the_history_is_the_mean_over_its_own_steps(
    tmp_path: Path, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last epoch is a shorter one; and the rates add up to the whole time."""
    steps, logs = training.fit._Run._steps, []

    def watched(run: Any, first: int, count: int) -> Any:
        logs.append(steps(run, first, count))
        return logs[-1]

    monkeypatch.setattr(training.fit._Run, "_steps", watched)
    trial = Trial(make_recipe(7, 3), VARIANTS["relu_without_bn"], seed=0, runs=tmp_path)
    alike = np.zeros_like(small_dataset.train_labels)  # so that some answers are right at once
    outcome = fit(trial, replace(small_dataset, train_labels=alike))["outcome"]
    each = np.concatenate(logs[1:])  # the first is the step that compiles, and was undone
    assert each.shape == (7, 2)
    assert each[:3, 1].any()
    assert each[3:6, 1].any()
    rows = history(trial.folder)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6"), ("3", "7")]
    for row, (start, end) in zip(rows, ((0, 3), (3, 6), (6, 7)), strict=True):
        found = float(row["loss"]), float(row["accuracy"])
        assert found == pytest.approx(each[start:end].mean(axis=0), rel=1e-12)
    rates = np.array([float(row["images_per_second"]) for row in rows])
    pictures = trial.recipe.batch * np.array([3, 3, 1])
    assert (pictures / rates).sum() == pytest.approx(outcome["seconds"])
    assert outcome["images_per_second"] == pytest.approx(pictures.sum() / outcome["seconds"])


def test_a_net_that_diverges_ends_the_fit_at_that_step(
    tmp_path: Path, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is the last one before; nothing says that this is a net."""
    monkeypatch.setattr(training.fit, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(training.fit, "EXECUTION_SECONDS", 0)  # one step at a time
    recipe = replace(make_recipe(steps=6, steps_per_epoch=6), learning_rate=1e30)
    trial = Trial(recipe, VARIANTS["relu_without_bn"], seed=0, runs=tmp_path)
    says = (
        r"seed-0: the loss of step 2 is (nan|inf): the net has diverged at a learning rate of up "
        r"to 1e\+30; give a smaller --learning-rate, and another --runs folder or remove this one"
    )
    for _ in range(2):  # and again, from the checkpoint
        with pytest.raises(TrialError, match=says):
            fit(trial, small_dataset)
        with np.load(trial.folder / "checkpoint.npz") as stored:
            assert json.loads(str(stored["progress"]))["step"] == 1
        record = read_record(trial.folder)
        assert record is not None
        assert (record["status"], "outcome" in record) == ("fitting", False)
        assert not (trial.folder / "model.keras").exists()


def test_a_net_that_diverged_in_its_last_step_is_found_out_by_validation(
    tmp_path: Path, small_dataset: Any
) -> None:
    recipe = replace(make_recipe(steps=1, steps_per_epoch=1), learning_rate=1e30)
    trial = Trial(recipe, VARIANTS["relu_without_bn"], seed=0, runs=tmp_path)
    with pytest.raises(TrialError, match="validation loss after step 1 is not finite: the net has"):
        fit(trial, small_dataset)
    assert not (trial.folder / "model.keras").exists()
    assert not (trial.folder / "checkpoint.npz").exists()


def test_a_backend_that_does_not_train_is_refused_by_name(
    tmp_path: Path, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    trial = Trial(make_recipe(1, 1), VARIANTS["relu_without_bn"], seed=0, runs=tmp_path)
    with pytest.raises(TrialError, match=r"is numpy, .*; set KERAS_BACKEND to tensorflow or jax"):
        fit(trial, small_dataset)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_learns(relu_with_bn: Any) -> None:
    """60 steps of 20 pictures, population statistics: top-5 nearly twice chance, of 100 classes."""
    (row,) = history(relu_with_bn.folder)
    assert float(row["loss"]) < np.log(100) + 0.5  # the first steps overshoot, by the machine
    assert relu_with_bn.record["freeze"]["after"]["top5"] > 0.09
    assert relu_with_bn.record["freeze"]["after"]["loss"] < np.log(100)


def test_a_batch_of_more_pictures_than_there_are_is_refused_before_anything_is_made(
    tmp_path: Path, small_dataset: Any
) -> None:
    there = len(small_dataset.train_images)
    trial = Trial(
        replace(make_recipe(steps=1, steps_per_epoch=1), batch=there + 1),
        VARIANTS["relu_with_bn"],
        seed=0,
        runs=tmp_path,
    )
    with pytest.raises(TrialError, match=f"a batch of {there + 1:,} is more than the {there:,} "):
        fit(trial, small_dataset)
    assert list(tmp_path.iterdir()) == []


def test_a_hold_out_that_leaves_the_freeze_no_batch_is_refused_before_the_fit(
    tmp_path: Path, small_dataset: Any
) -> None:
    """The fit's own batch there is; and a net without running statistics needs no other."""
    recipe = replace(make_recipe(steps=1, steps_per_epoch=1), freeze_batch=101)
    trial = Trial(recipe, VARIANTS["relu_with_bn"], seed=0, runs=tmp_path, hold_out=100)
    refusal = (
        "the freeze's batch of 101 is more than the 100 training pictures .*a smaller hold-out"
    )
    with pytest.raises(TrialError, match=refusal):
        fit(trial, small_dataset)
    assert list(tmp_path.iterdir()) == []
    without = replace(trial, variant=VARIANTS["relu_without_bn"])
    assert fit(without, small_dataset)["status"] == "fitted"
