"""Which trials are one and the same: all that decides the weights, and nothing else."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.recipes import RECIPES, Augmentation
from training.trial import Trial, TrialError, check_same
from training.variants import VARIANTS

ARTICLE, VARIANT = RECIPES["article"], VARIANTS["relu_with_bn"]


def test_whatever_decides_the_weights_is_in_the_configuration(small_dataset: Any) -> None:
    trial = Trial(ARTICLE, VARIANT, seed=0, hold_out=100)
    configuration = trial.configuration(small_dataset, 120.0)
    variations = [
        replace(trial, recipe=replace(ARTICLE, learning_rate=0.5)),
        replace(trial, recipe=replace(ARTICLE, augmentation=Augmentation(shear=1.0))),
        replace(trial, variant=VARIANTS["relu_without_bn"]),
        replace(trial, seed=1),
        replace(trial, hold_out=200),
        replace(trial, keep_best=True),
        replace(trial, patience=1),
        replace(trial, patience=2),
    ]
    others = [each.configuration(small_dataset, 120.0) for each in variations]
    others.append(trial.configuration(replace(small_dataset, checksum="0" * 64), 120.0))
    others.append(trial.configuration(small_dataset, 121.0))
    assert all(one != two for one, two in itertools.combinations([configuration, *others], 2))
    assert replace(trial, runs=Path("elsewhere")).configuration(small_dataset, 120.0) == (
        configuration
    )
    assert configuration["dataset"] == {
        "name": "synthetic",
        "checksum": small_dataset.checksum,
        "train_images": 200,
        "test_images": 100,
    }
    json.dumps(configuration)  # a record can hold it


def test_a_record_that_does_not_know_a_knob_of_the_variant_has_its_default(
    small_dataset: Any,
) -> None:
    trial = Trial(ARTICLE, VARIANT, seed=0)
    older = trial.configuration(small_dataset, 120.0)
    del older["variant"]["behind_activation"]
    check_same(Path("there"), {"configuration": older}, trial.configuration(small_dataset, 120.0))
    behind = replace(trial, variant=replace(VARIANT, behind_activation=True))
    with pytest.raises(
        TrialError, match=r"variant\.behind_activation is False there and True here"
    ):
        check_same(
            Path("there"), {"configuration": older}, behind.configuration(small_dataset, 120.0)
        )


def test_a_trial_may_be_frozen_by_more_pictures_than_it_was_fitted_for(small_dataset: Any) -> None:
    """They decide no weight; a word of the configuration that one side has not may."""
    stored = Trial(ARTICLE, VARIANT, seed=0).configuration(small_dataset, 120.0)
    otherwise = replace(ARTICLE, steps=50_000, freeze_images=4_000, freeze_batch=50)
    asked = Trial(otherwise, VARIANT, seed=0).configuration(small_dataset, 120.0)
    check_same(Path("there"), {"configuration": stored}, asked)
    del stored["patience"]
    with pytest.raises(TrialError, match=r"^there: .*\(patience is None there and 0 here\)"):
        check_same(Path("there"), {"configuration": stored}, asked)
