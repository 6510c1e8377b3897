"""What a freeze refuses, and what a killed one leaves: no record of a net that is not there."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import training.freeze
import training.trial
from tests.training.trials import digest
from training.ablation import ablate
from training.evaluate import evaluate
from training.files import write_atomically
from training.freeze import freeze, read_frozen
from training.recipes import RECIPES
from training.trial import Trial, TrialError, read_record, write_record
from training.variants import VARIANTS


def test_other_data_than_it_was_fitted_on_is_refused(
    relu_with_bn: Any, small_dataset: Any, copy_of: Callable[[Any], Path]
) -> None:
    folder = copy_of(relu_with_bn)
    frozen, record = digest(folder / "frozen.keras"), digest(folder / "trial.json")
    with pytest.raises(TrialError, match="give the data it was fitted on") as error:
        freeze(folder, small_dataset)
    assert small_dataset.checksum[:12] in str(error.value)
    assert str(folder) in str(error.value)
    assert (digest(folder / "frozen.keras"), digest(folder / "trial.json")) == (frozen, record)


def test_a_copy_under_another_name_is_neither_frozen_nor_read(
    relu_with_bn: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(relu_with_bn.folder, tmp_path / "test/relu_with_bn/seed-1"))
    before = {path.name: digest(path) for path in folder.iterdir()}
    refusal = "seed-1: its record is of test/relu_with_bn/seed-0, another trial"
    with pytest.raises(TrialError, match=refusal):
        freeze(folder, relu_with_bn.data)
    with pytest.raises(TrialError, match=refusal):
        read_frozen(folder)
    with pytest.raises(TrialError, match=refusal):
        ablate([folder], relu_with_bn.data, tmp_path, 20)
    assert {path.name: digest(path) for path in folder.iterdir()} == before


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


@pytest.mark.parametrize("written", range(3))
def test_a_freeze_killed_at_any_moment_leaves_no_false_record(
    written: int,
    sigmoid_with_bn: Any,
    copy_of: Callable[[Any], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After so many of the files that it replaces: the figures are never of another net."""
    folder = copy_of(sigmoid_with_bn)
    files = itertools.count()

    def dying(path: Path, write: Callable[[Path], Any]) -> None:
        if next(files) == written:
            raise Killed
        write_atomically(path, write)

    with monkeypatch.context() as patch:
        patch.setattr(training.trial, "write_atomically", dying)
        with pytest.raises(Killed):
            freeze(folder, sigmoid_with_bn.data, images=100)
    if written:
        with pytest.raises(TrialError, match="seed-0: not frozen yet; run the training and"):
            read_frozen(folder)
    else:
        record, net = read_frozen(folder)
        assert record == sigmoid_with_bn.record
        for one, two in zip(net.get_weights(), sigmoid_with_bn.frozen.get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)
    freeze(folder, sigmoid_with_bn.data, images=100)
    record, net = read_frozen(folder)
    assert record["freeze"]["images"] == 100
    assert evaluate(
        net, sigmoid_with_bn.data.test_images, sigmoid_with_bn.data.test_labels
    ).loss == pytest.approx(record["freeze"]["after"]["loss"], rel=1e-6)


def test_a_net_and_a_record_of_two_freezes_are_not_read_as_one(
    sigmoid_with_bn: Any, copy_of: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(sigmoid_with_bn)
    load_model = keras.saving.load_model

    def while_another_freezes(path: Path, **how: Any) -> keras.Model:
        monkeypatch.setattr(keras.saving, "load_model", load_model)
        freeze(folder, sigmoid_with_bn.data, images=100)
        return load_model(path, **how)

    monkeypatch.setattr(keras.saving, "load_model", while_another_freezes)
    with pytest.raises(TrialError, match="seed-0: was fitted or frozen anew just now; try again"):
        read_frozen(folder)
    assert read_frozen(folder)[0]["freeze"]["images"] == 100


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "it is not there"),
        (lambda path: path.write_bytes(path.read_bytes()[:50_000]), "it is damaged"),
        (lambda path: shutil.make_archive(str(path), "zip", path.parent, ".lock"), ""),
    ],
    ids=["gone", "cut short", "another archive"],
)
def test_a_net_that_cannot_be_read_is_named_with_the_way_out(
    damage: Callable[[Path], Any],
    says: str,
    sigmoid_with_bn: Any,
    copy_of: Callable[[Any], Path],
) -> None:
    folder = copy_of(sigmoid_with_bn)
    for name in ("frozen.keras", "model.keras"):
        damage(folder / name)
        if (archive := folder / f"{name}.zip").exists():
            archive.replace(folder / name)
    with pytest.raises(TrialError, match=rf"frozen\.keras: cannot be read .*{says}.*freeze again"):
        read_frozen(folder)
    with pytest.raises(TrialError, match=rf"model\.keras: cannot be read .*{says}.*train again"):
        freeze(folder, sigmoid_with_bn.data)
    assert read_record(folder) == sigmoid_with_bn.record


def test_a_net_that_has_diverged_is_not_frozen(
    sigmoid_with_bn: Any, copy_of: Callable[[Any], Path]
) -> None:
    """As earlier versions may have left one, with a record that says it is fitted."""
    folder = copy_of(sigmoid_with_bn)
    net = keras.saving.load_model(folder / "model.keras", compile=False)
    kernel, bias = net.get_layer("logits").get_weights()
    net.get_layer("logits").set_weights([kernel, bias * np.nan])
    net.save(folder / "model.keras")
    frozen = digest(folder / "frozen.keras")
    with pytest.raises(TrialError, match=r"seed-0: the net's loss is nan: it has diverged"):
        freeze(folder, sigmoid_with_bn.data)
    assert digest(folder / "frozen.keras") == frozen
    assert read_record(folder) == sigmoid_with_bn.record


@pytest.mark.parametrize("status", [None, "fitting"])
def test_nothing_fitted_is_refused_by_name(
    status: str | None, dataset: Any, tmp_path: Path
) -> None:
    trial = Trial(RECIPES["demo"], VARIANTS["relu_with_bn"], seed=0, runs=tmp_path)
    trial.folder.mkdir(parents=True)
    if status:
        configuration = trial.configuration(dataset, 120.0)
        write_record(trial.folder, {"status": status, "configuration": configuration})
    with pytest.raises(TrialError, match=r"seed-0: no fitted net there; run the training"):
        freeze(trial.folder, dataset)


def test_too_few_pictures_for_a_batch_are_refused(
    sigmoid_with_bn: Any, copy_of: Callable[[Any], Path]
) -> None:
    with pytest.raises(
        TrialError, match=r"49 pictures make no batch of 50; ask for 50 at least \("
    ):
        freeze(copy_of(sigmoid_with_bn), sigmoid_with_bn.data, images=49)
