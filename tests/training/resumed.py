"""A short trial that is killed, gone on with and taken further, and what it must come to."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from tests.training.trials import history, make_recipe
from training.trial import Trial, read_record
from training.variants import VARIANTS

STEPS = 14  # three epochs of 4 steps, and a shorter one


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


def make_trial(runs: Path, steps: int = STEPS) -> Trial:
    recipe = make_recipe(steps, steps_per_epoch=4)
    return Trial(recipe, VARIANTS["relu_with_bn"], seed=7, runs=runs, hold_out=100, keep_best=True)


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
