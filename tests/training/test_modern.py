"""The modern recipe's fit: resumed to the byte, scheduled over its steps, left in float32."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import training.fit
from tests.training import oracle
from training import nets, synthetic
from training.evaluate import evaluate
from training.fit import fit
from training.freeze import freeze
from training.recipes import RECIPES
from training.seeds import entry_of
from training.trial import Trial, TrialError, write_record
from training.variants import VARIANTS

RECIPE = replace(
    RECIPES["modern"],
    dataset="synthetic",
    steps=9,
    steps_per_epoch=4,
    batch=8,
    average=0.5,
    freeze_images=200,
    freeze_batch=50,
)


def make_trial(runs: Path, variant: str = "relu_with_bn", **changes: Any) -> Trial:
    return Trial(replace(RECIPE, **changes), VARIANTS[variant], seed=4, runs=runs)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, small_dataset: Any) -> Path:
    trial = make_trial(tmp_path_factory.mktemp("straight"))
    fit(trial, small_dataset)
    return trial.folder


def arrays(path: Path) -> list[bytes]:
    with np.load(path) as stored:
        return [stored[name].tobytes() for name in sorted(set(stored.files) - {"progress"})]


@pytest.mark.parametrize("fatal", [3, 6])
def test_a_killed_fit_goes_on_to_the_same_bytes(
    fatal: int,
    straight: Path,
    tmp_path: Path,
    small_dataset: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Schedule, momentum, second moments, weight average and bfloat16 rounding included."""
    trial = make_trial(tmp_path)
    steps = training.fit._Run._steps

    def dying(run: Any, first: int, count: int) -> Any:
        if first == fatal:
            raise KeyboardInterrupt
        return steps(run, first, count)

    monkeypatch.setattr(training.fit, "CHECKPOINT_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(training.fit, "EXECUTION_SECONDS", 0)  # one step at a time
        patch.setattr(training.fit._Run, "_steps", dying)
        with pytest.raises(KeyboardInterrupt):
            fit(trial, small_dataset)
    said: list[str] = []
    fit(trial, small_dataset, say=said.append)
    assert any(f"goes on from step {fatal} of 9" in line for line in said)
    ours, theirs = (arrays(each / "checkpoint.npz") for each in (trial.folder, straight))
    assert len(ours) > 62 + 2 * 42  # momentum and average of everything that is trained
    assert ours == theirs
    nets_left = [keras.saving.load_model(f / "model.keras") for f in (trial.folder, straight)]
    for one, two in zip(*(net.get_weights() for net in nets_left), strict=True):
        assert one.tobytes() == two.tobytes()


def test_what_is_left_is_plain_float32_with_the_averaged_weights(
    tmp_path: Path, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The average of what every step left, in float64; and validation scores just that net."""
    steps = training.fit._Run._steps
    left: list[list[np.ndarray]] = []

    def watched(run: Any, first: int, count: int) -> Any:
        logs = steps(run, first, count)
        left.append([np.array(v, np.float64) for v in run.fitter.net.trainable_variables])
        return logs

    monkeypatch.setattr(training.fit, "EXECUTION_SECONDS", 0)
    monkeypatch.setattr(training.fit._Run, "_steps", watched)
    trial = make_trial(tmp_path)
    record = fit(trial, small_dataset)
    _, average, *later = left  # the first is the step that compiles, and was undone
    assert len(later) == 8
    for now in later:
        average = [0.5 * old + 0.5 * new for old, new in zip(average, now, strict=True)]
    net = keras.saving.load_model(trial.folder / "model.keras", compile=False)
    for variable, expected in zip(net.trainable_variables, average, strict=True):
        np.testing.assert_allclose(np.array(variable), expected, atol=1e-6)
    assert {layer.compute_dtype for layer in net.layers} == {"float32"}
    kinds = {type(layer) for layer in net.layers if "norm" in layer.name}
    assert kinds == {keras.layers.BatchNormalization}
    scores = evaluate(net, small_dataset.test_images, small_dataset.test_labels)
    assert record["outcome"]["validation_loss"] == pytest.approx(scores.loss, rel=1e-6)
    assert record["outcome"]["validation_accuracy"] == scores.top1


def test_the_freeze_takes_statistics_of_the_averaged_weights(
    straight: Path, tmp_path: Path, small_dataset: Any
) -> None:
    trial = make_trial(tmp_path)
    shutil.copytree(straight, trial.folder)
    record = freeze(trial.folder, small_dataset)
    net, frozen = (
        keras.saving.load_model(trial.folder / name, compile=False)
        for name in ("model.keras", "frozen.keras")
    )
    for layer in net.layers:
        trained = layer.get_weights()[:2]  # kernel and bias, or gamma and beta
        for one, two in zip(trained, frozen.get_layer(layer.name).get_weights(), strict=False):
            np.testing.assert_array_equal(one, two)
    mean = record["configuration"]["training_mean"]
    images = small_dataset.train_images.astype(np.float64)
    (kernel, bias) = net.get_layer("block1_conv1").get_weights()
    expected = oracle.convolve((images - mean) / 64, kernel, bias).mean(axis=(0, 1, 2))
    found = np.array(frozen.get_layer("block1_norm1").moving_mean)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_record_says_in_what_the_steps_were_computed(
    precision: str, tmp_path: Path, small_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's, or what the machine has in its place; the trial is the same one."""
    monkeypatch.setattr(training.fit, "arithmetic", lambda _: precision)
    computed_in = set()
    steps = training.fit._Run._steps

    def watched(run: Any, first: int, count: int) -> Any:
        computed_in.add(run.fitter.net.get_layer("block1_conv1").compute_dtype)
        return steps(run, first, count)

    monkeypatch.setattr(training.fit._Run, "_steps", watched)
    said: list[str] = []
    trial = make_trial(tmp_path, steps=3)
    record = fit(trial, small_dataset, say=said.append)
    assert computed_in == {precision}
    assert record["precision"] == precision
    assert [run["precision"] for run in record["runs"]] == [precision]
    assert record["configuration"]["recipe"]["precision"] == "bfloat16"
    assert ("no instructions for bfloat16" in said[0]) == (precision == "float32")
    record = freeze(trial.folder, small_dataset)
    assert entry_of(trial.folder, record)["precision"] == precision
    other = {"bfloat16": "float32", "float32": "bfloat16"}[precision]
    monkeypatch.setattr(training.fit, "arithmetic", lambda _: other)
    fit(trial, small_dataset, say=said.append)
    assert "done already" in said[-1]


def test_a_trial_goes_on_in_another_precision(
    tmp_path: Path,
    small_dataset: Any,
    killed_at: Callable[[Trial, Any, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine that has bfloat16 where the first had not, or the other way round."""
    trial = make_trial(tmp_path)
    monkeypatch.setattr(training.fit, "arithmetic", lambda _: "bfloat16")
    killed_at(trial, small_dataset, 4)
    monkeypatch.setattr(training.fit, "arithmetic", lambda _: "float32")
    said: list[str] = []
    record = fit(trial, small_dataset, say=said.append)
    assert [(run["steps"], run["precision"]) for run in record["runs"]] == [
        (4, "bfloat16"),
        (5, "float32"),
    ]
    assert record["precision"] == "bfloat16; float32"
    assert any("bfloat16 computed it so far, float32 goes on" in line for line in said)


def test_the_steps_are_part_of_a_scheduled_trial(
    straight: Path, tmp_path: Path, small_dataset: Any
) -> None:
    """Its rates came down for so many steps: more would not be what one longer run is."""
    trial = make_trial(tmp_path)
    shutil.copytree(straight, trial.folder)
    said: list[str] = []
    fit(trial, small_dataset, say=said.append)
    assert "done already (9 steps)" in said[0]
    for steps in (8, 10):
        with pytest.raises(TrialError, match=rf"recipe.steps is 9 there and {steps} here"):
            fit(make_trial(tmp_path, steps=steps), small_dataset)


def test_a_record_from_before_a_knob_existed_is_of_its_default(
    tmp_path: Path, small_dataset: Any
) -> None:
    recipe = replace(RECIPES["demo"], steps=2, steps_per_epoch=2, batch=4)
    trial = Trial(recipe, VARIANTS["relu_without_bn"], seed=0, runs=tmp_path)
    record = fit(trial, small_dataset)
    for knob in ("optimizer", "schedule", "average", "precision"):
        del record["configuration"]["recipe"][knob]
    del record["configuration"]["recipe"]["augmentation"]["shift"]
    write_record(trial.folder, record)
    said: list[str] = []
    fit(trial, small_dataset, say=said.append)
    assert "done already" in said[0]


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_a_scaled_start_keeps_the_variance_without_normalization(activation: str) -> None:
    """From the first activation to the last, where Glorot's loses the picture."""
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)).astype(np.float32)
    spreads = {}
    for initialization in ("scaled", "glorot"):
        recipe = replace(RECIPES["modern"], initialization=initialization, precision="float32")
        net = nets.build(recipe, VARIANTS[f"{activation}_without_bn"], 127.5, seed=0)
        outputs = [net.get_layer(f"block{n}_{activation}2").output for n in (1, 5)]
        first, last = keras.Model(net.input, outputs).predict(images, verbose=0)
        spreads[initialization] = last.std(axis=0).mean() / first.std(axis=0).mean()
    assert 0.1 < spreads["scaled"] < 10
    assert spreads["glorot"] < 0.1 * spreads["scaled"]


@pytest.mark.parametrize("name", ["relu_with_bn", "sigmoid_with_bn"])
def test_a_net_with_normalization_starts_as_the_articles(name: str) -> None:
    ours, article = (
        nets.build(RECIPES[recipe], VARIANTS[name], 120.0, seed=7)
        for recipe in ("modern", "article")
    )
    for one, two in zip(ours.get_weights(), article.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def fit_and_freeze(runs: str) -> None:
    """In a process of its own, on JAX."""
    trial = make_trial(Path(runs))
    dataset = synthetic.load(seed=6, train=200, test=100)
    record = fit(trial, dataset)
    assert record["backend"] == "jax"
    assert record["outcome"]["epochs"] == 3
    net = keras.saving.load_model(trial.folder / "model.keras", compile=False)
    scores = evaluate(net, dataset.test_images, dataset.test_labels)
    assert record["outcome"]["validation_loss"] == pytest.approx(scores.loss, rel=1e-4)
    assert freeze(trial.folder, dataset)["status"] == "frozen"
    print("frozen")


def test_a_trial_goes_the_whole_way_on_jax(tmp_path: Path) -> None:
    """Validation in the middle of the fit included."""
    code = f"import sys; from {__name__} import fit_and_freeze as go; go(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines()[-1:] == ["frozen"], done.stderr
