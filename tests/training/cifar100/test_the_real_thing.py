"""The real CIFAR-100, where CIFAR100_DIR names it: its counts, its pixels and their mean."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from training import cifar100

REAL = os.environ.get("CIFAR100_DIR")


@pytest.fixture(scope="module")
def dataset() -> cifar100.Dataset:
    return cifar100.load(Path(str(REAL)))  # checks the MD5s of all three files


@pytest.mark.skipif(not REAL, reason="CIFAR100_DIR does not name the real CIFAR-100")
class TestTheRealThing:
    def test_counts(self, dataset: cifar100.Dataset) -> None:
        assert dataset.train_images.shape == (50_000, 32, 32, 3)
        assert dataset.test_images.shape == (10_000, 32, 32, 3)
        assert np.bincount(dataset.train_labels).tolist() == [500] * 100
        assert np.bincount(dataset.test_labels).tolist() == [100] * 100
        assert np.bincount(dataset.superclass_of).tolist() == [5] * 20

    def test_first_pictures(self, dataset: cifar100.Dataset) -> None:
        first_train, first_test = dataset.train_labels[0], dataset.test_labels[0]
        assert (first_train, dataset.class_names[first_train]) == (19, "cattle")
        assert (first_test, dataset.class_names[first_test]) == (49, "mountain")
        assert dataset.superclasses[19] == "large_omnivores_and_herbivores"

    def test_pixels(self, dataset: cifar100.Dataset) -> None:
        assert hashlib.sha256(dataset.train_images.tobytes()).hexdigest() == (
            "4e457917601a66aed021f5fa37957b56c6319557c0a8ed5484de3c390af45430"
        )
        assert hashlib.sha256(dataset.test_images.tobytes()).hexdigest() == (
            "4cb8e5d9309da489bf6b19cc10cd96c3ae6f8daf225380b605aaee4c0d6aee19"
        )

    def test_training_mean_is_exact(self, dataset: cifar100.Dataset) -> None:
        total = sum(sum(image.tobytes()) for image in dataset.train_images)
        assert total == 18_729_378_732
        # float32 arithmetic says 121.936066
        assert dataset.training_mean == total / 153_600_000 == 121.936059453125
