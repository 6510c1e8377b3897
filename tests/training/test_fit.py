"""The fit: what a step sees, and that a trial survives being killed, byte for byte."""

from __future__ import annotations

import csv
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
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

import training.fit
from training import nets, synthetic
from training.dataset import hold_out
from training.fit import fit
from training.freeze import freeze
from training.recipes import RECIPES, Augmentation, Recipe
from training.step import Fitter, batch_indices
from training.trial import Trial, TrialError, locked, read_record, write_record
from training.variants import VARIANTS

STEPS = 14  # three epochs of 4 steps, and a shorter one


def make_recipe(steps: int, steps_per_epoch: int) -> Recipe:
    return Recipe("test", "synthetic", steps, steps_per_epoch, batch=4, learning_rate=1e-3)


def make_trial(runs: Path, steps: int = STEPS) -> Trial:
    recipe = make_recipe(steps, steps_per_epoch=4)
    return Trial(recipe, VARIANTS["relu_with_bn"], seed=2, runs=runs, hold_out=100, keep_best=True)


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


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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
    assert outcome["validation_set"] == "hold-out"

    net = keras.saving.load_model(trial.folder / "model.keras", compile=False)
    _, images, labels = hold_out(small_dataset, 100, training.fit.HOLD_OUT_SEED)
    probabilities = net.predict(images, verbose=0).astype(np.float64)
    loss = -np.log(probabilities[np.arange(100), labels]).mean()
    assert loss == pytest.approx(min(losses), rel=1e-4)
    assert outcome["validation_loss"] == pytest.approx(loss, rel=1e-4)
    assert outcome["validation_accuracy"] == (probabilities.argmax(axis=1) == labels).mean()

    said: list[str] = []
    fit(replace(trial, recipe=replace(recipe, steps=80)), small_dataset, say=said.append)
    assert "done already" in said[0]  # more steps do not change where it stopped


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


def test_a_fit_learns(relu_with_bn: Any) -> None:
    """60 steps of 20 pictures of 100 classes: four times chance, with population statistics."""
    (row,) = history(relu_with_bn.folder)
    assert float(row["loss"]) < np.log(100) + 0.2
    assert relu_with_bn.record["freeze"]["after"]["top5"] > 0.09
    assert relu_with_bn.record["freeze"]["after"]["loss"] < np.log(100)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pictures=st.integers(1, 50),
    batch=st.integers(1, 120),
    passes=st.integers(1, 3),
)
def test_every_pass_shows_every_picture_once(
    seed: int, pictures: int, batch: int, passes: int
) -> None:
    steps = -(-passes * pictures // batch)
    stream = np.concatenate([batch_indices(seed, step, batch, pictures) for step in range(steps)])
    assert len(stream) == steps * batch
    for number in range(passes):
        shown = stream[number * pictures : (number + 1) * pictures]
        assert sorted(shown.tolist()) == list(range(pictures))


def test_passes_and_seeds_have_their_own_orders() -> None:
    first, second = (batch_indices(0, step, 1000, 1000) for step in (0, 1))
    other = batch_indices(1, 0, 1000, 1000)
    in_order = np.arange(1000)
    for one, two in itertools.combinations((first, second, other, in_order), 2):
        assert (one == two).mean() < 0.02
    np.testing.assert_array_equal(batch_indices(0, 1, 1000, 1000), second)
    np.testing.assert_array_equal(  # whatever the size of the batch
        np.concatenate([batch_indices(0, step, 250, 1000) for step in range(4)]), first
    )


PLAIN = Augmentation(shear=0.0, zoom=0.0, flip=False)


@pytest.mark.parametrize(
    ("augmentation", "dropout"),
    [(Augmentation(), 0.15), (PLAIN, 0.15), (Augmentation(), 0.0)],
    ids=["both", "dropout alone", "augmentation alone"],
)
def test_chance_in_a_step_comes_from_the_seed_and_the_step_alone(
    augmentation: Augmentation, dropout: float, small_dataset: Any
) -> None:
    recipe = replace(RECIPES["demo"], augmentation=augmentation, dropout=dropout)
    images = small_dataset.train_images[:4]

    def fitter(seed: int) -> Fitter:
        net = nets.build(VARIANTS["relu_without_bn"], 120.0, seed=0, dropout=dropout)
        return Fitter(net, recipe, seed)

    def logits(fitter: Fitter, step: int) -> np.ndarray:
        inputs = images, np.array([step], np.int32)
        return keras.ops.convert_to_numpy(fitter(inputs, training=True))

    one, two, other = fitter(0), fitter(0), fitter(1)
    seventh = logits(one, 7)
    assert np.abs(logits(one, 8) - seventh).max() > 1e-4
    np.testing.assert_array_equal(logits(one, 7), seventh)  # nothing is left of step 8
    np.testing.assert_array_equal(logits(two, 7), seventh)  # nor matters what went before
    assert np.abs(logits(other, 7) - seventh).max() > 1e-4


def test_inference_sees_the_pictures_as_they_are(small_dataset: Any) -> None:
    images = small_dataset.train_images[:4]
    net = nets.build(VARIANTS["relu_with_bn"], 120.0, seed=0)
    fitter = Fitter(net, RECIPES["demo"], seed=0)
    probabilities = keras.ops.convert_to_numpy(net(images.astype(np.float32), training=False))
    for step in (0, 1):
        logits = fitter((images, np.array([step], np.int32)), training=False)
        powers = np.exp(keras.ops.convert_to_numpy(logits).astype(np.float64))
        np.testing.assert_allclose(
            powers / powers.sum(axis=1, keepdims=True), probabilities, atol=1e-6
        )
