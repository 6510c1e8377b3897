"""Freeze a fitted net for inference: population statistics take the moving averages' place.

Inference normalizes with the statistics of the population (Ioffe & Szegedy 2015, Algorithm 2).
Moving averages lag behind weights that still move, keep the noise of the last hundred batches, and
were taken on augmented pictures with dropout on. So they are re-estimated after the fit: the
average over mini-batches of the batch mean and of the unbiased batch variance, on training pictures
as they are, with dropout off. The scores before and after go into the trial's record.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.dataset import Dataset, Images, hold_out
from training.evaluate import Scores, evaluate
from training.nets import running_statistics
from training.trial import (
    TrialError,
    check_data,
    locked,
    read_named,
    read_record,
    recipe_of,
    write_own,
    write_record,
)

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

NOTHING_TAKEN = {"kind": "none", "images": 0, "batches": 0, "seconds": 0.0, "layers": []}
"""What the record says of a freeze of nothing: the net has no running statistics."""

Statistics = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def population_statistics(
    net: keras.Model, batches: Iterable[Images], dropout_seed: int | None = None
) -> Statistics:
    """Means and variances of what reaches each normalization layer: float64 [channels] both.

    ``batches`` are pictures [batch, 32, 32, 3]. Every batch passes with its own statistics in
    every layer (training mode) and dropout off, unless ``dropout_seed`` is given; batch means and
    unbiased batch variances are averaged with equal weight. ``net`` itself is left as it is.
    """
    layers = running_statistics(net)
    moments: list[Any] = []

    def call(layer: Any, x: Any, **_: Any) -> Any:
        if isinstance(layer, keras.layers.Dropout) and dropout_seed is not None:
            return _ConstantDropout(layer.rate, dropout_seed + len(moments))(x)
        if layer.name not in {each.name for each in layers}:
            return layer(x)
        # A functional model passes its own training flag on to every layer, so the batch's
        # statistics are applied by hand: with them, and without touching the moving averages.
        axes = [axis for axis in range(len(x.shape)) if axis != layer.axis % len(x.shape)]
        mean, variance = ops.mean(x, axes), ops.var(x, axes)
        moments.extend((mean, variance))
        original = net.get_layer(layer.name)
        return ops.batch_normalization(
            x,
            mean,
            variance,
            layer.axis,
            offset=original.beta,
            scale=original.gamma,
            epsilon=layer.epsilon,
        )

    probe = keras.models.clone_model(net, call_function=call)
    # The clone has every layer but the normalizations, whose variables it uses as they are.
    for layer in probe.layers:
        if layer.name in {each.name for each in net.layers}:
            layer.set_weights(net.get_layer(layer.name).get_weights())
    probe = keras.Model(probe.inputs, moments)
    sums = [np.zeros(moment.shape, np.float64) for moment in moments]
    count = 0
    for images in batches:
        answers = probe.predict_on_batch(images)
        for place, layer in enumerate(layers):
            mean, variance = answers[2 * place : 2 * place + 2]
            n = len(images) * int(np.prod(layer.input.shape[1:])) // len(mean)
            sums[2 * place] += mean
            sums[2 * place + 1] += variance * (n / (n - 1))
        count += 1
    return {
        layer.name: (sums[2 * place] / count, sums[2 * place + 1] / count)
        for place, layer in enumerate(layers)
    }


class _ConstantDropout(keras.layers.Layer):
    """Dropout that does not ask whether this is training."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__()
        self.rate = rate
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, x: Any) -> Any:
        return keras.random.dropout(x, self.rate, seed=self.generator) if self.rate else x


def frozen(net: keras.Model, statistics: Statistics) -> keras.Model:
    """A copy of ``net`` that normalizes with ``statistics``, in training mode too."""
    copy = keras.models.clone_model(net)
    copy.set_weights(net.get_weights())
    for layer in running_statistics(copy):
        mean, variance = statistics[layer.name]
        layer.moving_mean.assign(mean.astype(np.float32))
        layer.moving_variance.assign(variance.astype(np.float32))
        layer.trainable = False
    return copy


def freeze(
    folder: Path,
    dataset: Dataset,
    images: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Freeze the fitted trial in ``folder`` and return its record, which then has ``"freeze"``.

    ``images`` is how many training pictures to use; by default the recipe says so. Reads
    ``model.keras``, writes ``frozen.keras``, and scores both on the test pictures. A net
    without running statistics is copied as it is, and the record says so. Raises ``TrialError``
    where nothing fitted is there, ``dataset`` is not the one it was fitted on, its pictures make no
    batch, or the folder cannot be written.
    """
    fitted_record(folder)  # before the folder is locked, and with that made
    with locked(folder):
        record = fitted_record(folder)
        check_data(folder, record, dataset)
        net = fitted_net(folder)
        before = after = _scores(folder, net, dataset)
        taken = NOTHING_TAKEN
        if running_statistics(net):
            net, taken = _frozen_with_figures(folder, record, net, dataset, images)
            after = _scores(folder, net, dataset)
            say(
                f"{folder}: test accuracy {before.top1:.4f} with moving averages, {after.top1:.4f} "
                f"with population statistics of {taken['images']:,} training pictures "
                f"({taken['seconds']:.1f} s)"
            )
        else:
            say(f"{folder}: test accuracy {before.top1:.4f}; no running statistics, nothing frozen")
        # Whoever is killed in between leaves a trial to be frozen, not another freeze's figures.
        record["status"] = "fitted"
        record.pop("freeze", None)
        write_record(folder, record)
        write_own(folder / "frozen.keras", net.save)
        record["status"] = "frozen"
        record["freeze"] = {
            **taken,
            "split": "test",
            "split_images": len(dataset.test_images),
            "before": asdict(before),
            "after": asdict(after),
        }
        write_record(folder, record)
        return record


def _frozen_with_figures(
    folder: Path, record: dict[str, Any], net: keras.Model, dataset: Dataset, images: int | None
) -> tuple[keras.Model, dict[str, Any]]:
    """``net`` frozen, and what the record says of how that was done."""
    recipe = recipe_of(record)
    started = time.perf_counter()
    batches = batches_to_freeze_by(
        folder, record, dataset, images or recipe.freeze_images, recipe.freeze_batch
    )
    statistics = population_statistics(net, batches)
    figures = {
        "kind": "population",
        "images": sum(map(len, batches)),
        "batches": len(batches),
        "seconds": time.perf_counter() - started,
        "layers": [_shift(layer, *statistics[layer.name]) for layer in running_statistics(net)],
    }
    return frozen(net, statistics), figures


def batches_to_freeze_by(
    folder: Path, record: dict[str, Any], dataset: Dataset, images: int, batch: int
) -> list[Images]:
    """At most ``images`` of the pictures that a trial was fitted on, in whole batches of ``batch``.

    The trial's seed draws them. Raises ``TrialError`` where they make no batch.
    """
    configuration = record["configuration"]
    if configuration["hold_out"]:
        dataset, _, _ = hold_out(dataset, configuration["hold_out"])
    pictures = dataset.train_images
    wanted = min(images, len(pictures))
    if wanted < batch:
        raise TrialError(
            f"{folder}: {wanted:,} pictures make no batch of {batch}; ask for {batch:,} at least "
            "(--images)"
        )
    order = np.random.default_rng(configuration["seed"]).permutation(len(pictures))
    return [pictures[order[start : start + batch]] for start in range(0, wanted - batch + 1, batch)]


def read_frozen(folder: Path) -> tuple[dict[str, Any], keras.Model]:
    """The record of the frozen trial in ``folder`` and its net, of one and the same freeze.

    Writes nothing there. Raises ``TrialError`` where nothing frozen is there, or it is being
    replaced.
    """
    record = read_named(folder)
    if record is None or record["status"] != "frozen":
        raise TrialError(f"{folder}: not frozen yet; run the training and the freeze first")
    net = load_net(folder / "frozen.keras", "run the freeze again")
    if read_record(folder) != record:
        raise TrialError(f"{folder}: was fitted or frozen anew just now; try again")
    return record, net


def load_net(path: Path, way_out: str) -> keras.Model:
    """The net in ``path``; ``TrialError`` with the ``way_out`` where it cannot be read."""
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its parts do
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        if not zipfile.is_zipfile(path):  # which Keras calls not found
            why = "it is damaged" if path.exists() else "it is not there"
        raise TrialError(f"{path}: cannot be read ({why}); {way_out}") from error


def fitted_record(folder: Path) -> dict[str, Any]:
    """The record of the trial in ``folder``. Raises ``TrialError`` where no fitted net is there."""
    record = read_named(folder)
    if record is None or record["status"] not in ("fitted", "frozen"):
        raise TrialError(
            f"{folder}: no fitted net there; run the training first, or choose others by "
            "--variants and --seeds"
        )
    return record


def fitted_net(folder: Path) -> keras.Model:
    """The net of the trial in ``folder`` as fitted, with moving averages. Raises ``TrialError``."""
    return load_net(folder / "model.keras", "remove trial.json there and train again")


def _scores(folder: Path, net: keras.Model, dataset: Dataset) -> Scores:
    scores = evaluate(net, dataset.test_images, dataset.test_labels)
    if not np.isfinite(scores.loss):
        raise TrialError(
            f"{folder}: the net's loss is {scores.loss}: it has diverged; give a smaller "
            "--learning-rate, and another --runs folder or remove this one"
        )
    return scores


def _shift(layer: Any, mean: NDArray[np.float64], variance: NDArray[np.float64]) -> dict[str, Any]:
    """How far the moving averages were from the population, as quantiles over the channels."""
    moving_mean = np.array(layer.moving_mean, np.float64)
    moving_variance = np.array(layer.moving_variance, np.float64)
    spread = np.sqrt(variance + layer.epsilon)
    return {
        "name": layer.name,
        "channels": len(mean),
        "mean_shift_sd": np.quantile((moving_mean - mean) / spread, QUANTILES).tolist(),
        "variance_ratio": np.quantile(
            (moving_variance + layer.epsilon) / (variance + layer.epsilon), QUANTILES
        ).tolist(),
    }
