"""Fit one trial: augment on the fly, step, checkpoint, resume, keep the record.

Everything random derives from (seed, step): which pictures a step sees, how they are augmented and
what dropout drops. So a checkpoint is the variables and the step, and on CPUs a trial that was
killed at any moment ends with the very weights of one that never was, where machine, backend and
number of threads are the same. A GPU may add in another order; none was tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from training import nets
from training.backend import BACKENDS
from training.checkpoint import ANEW, Progress, read_variables, write_variables
from training.dataset import Dataset, Images, Labels, hold_out
from training.environment import achieved, arithmetic
from training.evaluate import predict, score
from training.loop import CAPACITY, Logs, inner_loop
from training.record import begun, fitted, tools, write_history
from training.step import Fitter, batch_indices, compiled
from training.trial import (
    Trial,
    TrialError,
    check_same,
    is_fitted,
    locked,
    nothing_to_fit,
    read_record,
    write_own,
    write_record,
)

CHECKPOINT_SECONDS = 60.0
EXECUTION_SECONDS = 1.0  # of steps without a word from Python: the grain of progress and of a stop


def fit(trial: Trial, dataset: Dataset, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Fit ``trial`` on ``dataset`` unless it is done, and return its record (``trial.json``).

    A folder that holds the same trial with fewer steps is taken further; until that is done, what
    was finished there stays as it is. Raises ``TrialError`` where the folder holds a trial of
    another configuration or cannot be written, another process works on it, the net diverges, or a
    batch, the freeze's too, is larger than the training set.
    """
    if keras.backend.backend() not in BACKENDS:
        raise TrialError(
            f"Keras' backend is {keras.backend.backend()}, on which nothing is fitted here; set "
            f"KERAS_BACKEND to {' or '.join(BACKENDS)}"
        )
    whole, validation = dataset, (dataset.test_images, dataset.test_labels)
    if trial.hold_out:  # before there is a folder, should it be refused
        dataset, images, labels = hold_out(whole, trial.hold_out)
        validation = images, labels
    if trial.recipe.batch > len(dataset.train_images):
        raise TrialError(
            f"a batch of {trial.recipe.batch:,} is more than the {len(dataset.train_images):,} "
            "training pictures there are: choose a smaller one"
        )
    if nets.is_to_freeze(trial.variant) and trial.recipe.freeze_batch > len(dataset.train_images):
        raise TrialError(
            f"the freeze's batch of {trial.recipe.freeze_batch:,} is more than the "
            f"{len(dataset.train_images):,} training pictures there are: choose a smaller hold-out"
        )
    with locked(trial.folder):
        record = read_record(trial.folder)
        configuration = trial.configuration(whole, dataset.training_mean)
        if record is not None:
            check_same(trial.folder, record, configuration)
            if is_fitted(record, trial.recipe.steps):
                say(nothing_to_fit(trial.folder, record))
                return record
        precision = arithmetic(trial.recipe.precision)
        if precision != trial.recipe.precision:
            say(
                f"{trial.variant.name} seed {trial.seed}: computed in {precision}, as this "
                f"processor has no instructions for {trial.recipe.precision}"
            )
        recipe = replace(trial.recipe, precision=precision)
        net = nets.build(recipe, trial.variant, configuration["training_mean"], trial.seed)
        fitter = compiled(net, recipe, trial.seed)
        finished = record is not None and "outcome" in record  # by fewer steps
        run = _Run(trial, fitter, dataset, configuration, validation, say, beside_finished=finished)
        run.goes_on()
        under_way = begun(configuration, net, run.progress)
        if not finished:
            write_record(trial.folder, under_way)
        progress = run.to_the_end()
        record = _finish(trial, run.kept(), under_way, progress)
        rate, device = record["outcome"]["images_per_second"], record["hardware"]
        said = achieved(rate, nets.TRAINING_FLOP, device, precision)
        say(f"{trial.variant.name} seed {trial.seed}: {progress.step:,} steps at {said}")
        return record


class _Run:
    """The loop over the steps of one trial, and its checkpoints."""

    def __init__(
        self,
        trial: Trial,
        fitter: Fitter,
        dataset: Dataset,
        configuration: dict[str, Any],
        validation: tuple[Images, Labels],
        say: Callable[[str], None],
        *,
        beside_finished: bool,
    ) -> None:
        self.trial, self.fitter, self.say = trial, fitter, say
        self.configuration = configuration
        # Beside a trial of fewer steps, whose record and history stay until this one is done.
        self.beside_finished = beside_finished
        self.pictures = len(dataset.train_images)
        self.validation = validation
        self.progress = Progress()
        self.step_seconds = math.inf  # of a step, as last measured
        recipe, net = fitter.recipe, fitter.net  # whose precision is that of the arithmetic
        self.plain: keras.Model = net
        if recipe.average or recipe.precision != "float32":
            self.plain = nets.build(
                replace(recipe, precision="float32"),
                trial.variant,
                configuration["training_mean"],
                trial.seed,
            )
        self.kept_logits = nets.logits_of(self.plain)
        # A step of no consequence compiles everything and builds the optimizer; then it is undone.
        fitter.optimizer.build(fitter.trainable_variables)
        initial = [np.array(variable) for variable in self.variables]
        self.run_steps = inner_loop(fitter, dataset.train_images, dataset.train_labels)
        self._steps(0, 1)
        for variable, value in zip(self.variables, initial, strict=True):
            variable.assign(value)
        self.restore()

    @property
    def variables(self) -> list[Any]:
        return [*self.fitter.net.variables, *self.fitter.optimizer.variables]

    @property
    def checkpoint(self) -> Path:
        return self.trial.folder / "checkpoint.npz"

    @property
    def label(self) -> str:
        return f"{self.trial.variant.name} seed {self.trial.seed}"

    def goes_on(self) -> None:
        """Say with what the steps so far were computed, where the next ones are not."""
        progress, now = self.progress, tools(self.fitter.recipe.precision)
        last = progress.runs[-1] if progress.runs else now
        for what in ("backend", "precision"):
            if last[what] != now[what]:
                self.say(
                    f"{self.label}: {last[what]} computed it so far, {now[what]} goes on; the "
                    "record names both, and no run on one of them gives the same weights"
                )
        progress.goes_on_with(now)

    def kept(self) -> keras.Model:
        """The net that would be kept now: float32, with the averaged weights where there are any.

        It is what validation scores; where it is not the fitted net itself, it is brought up to it.
        """
        if self.plain is not self.fitter.net:
            self.plain.set_weights(self.fitter.net.get_weights())
            if self.trial.recipe.average and self.progress.step:
                self.fitter.optimizer.finalize_variable_values(self.plain.trainable_variables)
            for variable in self.plain.variables:  # under JAX, scoring frees arrays that it is lent
                variable.assign(np.array(variable))
        return self.plain

    def _steps(self, first: int, count: int) -> Logs:
        seed, batch = self.trial.seed, self.trial.recipe.batch
        chosen = [batch_indices(seed, first + n, batch, self.pictures) for n in range(count)]
        return self.run_steps(np.stack(chosen), first)

    def _at_once(self) -> int:
        """How many steps the next execution runs: up to the epoch's end, for about a second."""
        recipe, progress = self.trial.recipe, self.progress
        to_go = min(
            recipe.steps - progress.step,
            recipe.steps_per_epoch - progress.step % recipe.steps_per_epoch,
        )
        return max(1, min(to_go, CAPACITY, int(EXECUTION_SECONDS / self.step_seconds)))

    def to_the_end(self) -> Progress:
        """Run what is left of the trial."""
        recipe, progress = self.trial.recipe, self.progress
        if progress.step:
            self.say(f"{self.label}: goes on from step {progress.step:,} of {recipe.steps:,}")
        inside = progress.history and progress.history[-1]["step"] % recipe.steps_per_epoch
        if inside and progress.step < recipe.steps:
            progress.history.pop()  # the last run ended inside this epoch; it is taken to its end
        if progress.step == recipe.steps and not (
            progress.history and progress.history[-1]["step"] == progress.step
        ):
            self.end_epoch()  # a longer run was killed here, inside an epoch
        saved = time.monotonic()
        with tqdm(
            total=recipe.steps * recipe.batch,
            initial=progress.step * recipe.batch,
            desc=self.label,
            unit="img",
            unit_scale=True,
            disable=None,
        ) as bar:
            while progress.step < recipe.steps and not self.stopped_early:
                count = self._at_once()
                started = time.perf_counter()
                logs = self._steps(progress.step, count)
                elapsed = time.perf_counter() - started
                infinite = np.flatnonzero(~np.isfinite(logs[:, 0]))
                if len(infinite):
                    lost = int(infinite[0])
                    raise self._diverged(
                        f"the loss of step {progress.step + lost + 1:,} is {logs[lost, 0]}"
                    )
                self.step_seconds = elapsed / count
                progress.count(logs, elapsed)
                bar.update(count * recipe.batch)
                bar.set_postfix(loss=f"{logs[-1, 0]:.3f}", refresh=False)
                at_end = progress.step == recipe.steps
                if at_end or progress.step % recipe.steps_per_epoch == 0:
                    self.end_epoch()
                if at_end or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.monotonic()
        return progress

    def _diverged(self, symptom: str) -> TrialError:
        """What to raise, before anything of it is written."""
        return TrialError(
            f"{self.trial.folder}: {symptom}: the net has diverged at a learning rate of up to "
            f"{self.trial.recipe.learning_rate:g}; give a smaller --learning-rate, and another "
            "--runs folder or remove this one"
        )

    @property
    def stopped_early(self) -> bool:
        since_best = sum(row["step"] > self.progress.best_step for row in self.progress.history)
        return bool(self.trial.patience) and since_best >= self.trial.patience

    def end_epoch(self) -> None:
        """Validate, add a row to the history, keep the best, start the next epoch's averages."""
        recipe, progress = self.trial.recipe, self.progress
        images, labels = self.validation
        kept = self.kept()
        scores = score(predict(self.kept_logits, images), labels)
        if not math.isfinite(scores.loss):
            raise self._diverged(f"the validation loss after step {progress.step:,} is not finite")
        row = {
            "epoch": len(progress.history) + 1,
            "step": progress.step,
            "loss": progress.loss_sum / progress.epoch_steps,
            "accuracy": progress.accuracy_sum / progress.epoch_steps,
            "val_loss": scores.loss,
            "val_accuracy": scores.top1,
            "images_per_second": progress.epoch_steps * recipe.batch / progress.epoch_seconds,
        }
        progress.history.append(row)
        self.say(
            f"{self.label}: step {progress.step:,}, "
            f"loss {row['loss']:.3f}, accuracy {row['accuracy']:.3f}, "
            f"validation {scores.loss:.3f} {scores.top1:.3f}, "
            f"{row['images_per_second']:.0f} img/s"
        )
        whole = progress.step % recipe.steps_per_epoch == 0
        # A run's shorter last epoch is weighed at its end: a longer run will not have had it.
        if whole and scores.loss < progress.best_loss:
            progress.best_loss, progress.best_step = scores.loss, progress.step
            if self.trial.keep_best:
                progress.best = [np.array(variable) for variable in kept.variables]
        if not self.beside_finished:
            write_history(self.trial.folder, progress.history)
        if whole:
            progress.epoch_steps = 0
            progress.epoch_seconds = progress.loss_sum = progress.accuracy_sum = 0.0

    def save(self) -> None:
        """Write the checkpoint."""
        write_variables(self.checkpoint, self.variables, self.progress, self.configuration)

    def restore(self) -> None:
        """Go back to the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        self.progress = read_variables(self.checkpoint, self.variables, self.configuration)
        if self.progress.step > self.trial.recipe.steps:
            raise TrialError(
                f"{self.checkpoint}: is at step {self.progress.step:,} already, beyond the "
                f"{self.trial.recipe.steps:,} asked for; ask for as many, or {ANEW}"
            )


def _finish(
    trial: Trial, net: keras.Model, record: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    kept, last = progress.step, progress.history[-1]
    if trial.keep_best and progress.best_step and not last["val_loss"] < progress.best_loss:
        for variable, value in zip(net.variables, progress.best, strict=True):
            variable.assign(value)
        kept = progress.best_step
    # From here on the folder is of this run; one with fewer steps, finished before, goes.
    write_record(trial.folder, record)
    write_history(trial.folder, progress.history)
    write_own(trial.folder / "model.keras", net.save)
    record = fitted(record, trial, progress, kept)
    write_record(trial.folder, record)
    return record
