"""What is held out is a fair, repeatable sample, and the training mean is exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.dataset import Dataset, hold_out

CLASSES, EACH = 100, 6


def dataset_of(train_images: np.ndarray, train_labels: np.ndarray) -> Dataset:
    return Dataset(
        name="numbered",
        checksum="of the whole",
        train_images=train_images,
        train_labels=train_labels,
        test_images=np.zeros((1, 32, 32, 3), np.uint8),
        test_labels=np.zeros(1, np.int64),
        class_names=tuple(f"class {label}" for label in range(CLASSES)),
        superclass_names=("even", "odd"),
        superclass_of=tuple(label % 2 for label in range(CLASSES)),
    )


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Every picture's first two bytes hold its number, so that it can be followed."""
    count = CLASSES * EACH
    images = np.zeros((count, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(count), 256)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), EACH))
    return dataset_of(images, labels)


def numbers(images: np.ndarray) -> list[int]:
    return (images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]).tolist()


class TestHoldOut:
    @pytest.mark.parametrize("each", [1, 2, EACH - 1])
    def test_it_takes_the_same_number_of_every_class(self, dataset: Dataset, each: int) -> None:
        rest, images, labels = hold_out(dataset, each * CLASSES, seed=0)
        assert len(images) == len(labels) == each * CLASSES
        assert np.bincount(labels).tolist() == [each] * CLASSES
        assert np.bincount(rest.train_labels).tolist() == [EACH - each] * CLASSES

    @given(seed=st.integers(0, 2**63), each=st.integers(1, EACH - 1))
    def test_every_picture_lands_on_one_side_with_its_label(
        self, dataset: Dataset, seed: int, each: int
    ) -> None:
        rest, images, labels = hold_out(dataset, each * CLASSES, seed)
        held, kept = numbers(images), numbers(rest.train_images)
        assert sorted(held + kept) == list(range(CLASSES * EACH))
        assert labels.tolist() == dataset.train_labels[held].tolist()
        assert rest.train_labels.tolist() == dataset.train_labels[kept].tolist()

    def test_the_choice_depends_on_the_seed_and_on_nothing_else(self, dataset: Dataset) -> None:
        chosen = []
        for seed in (3, 3, 4):
            np.random.seed(len(chosen))
            chosen.append(numbers(hold_out(dataset, 200, seed)[1]))
        assert chosen[0] == chosen[1] != chosen[2]

    def test_it_is_one_and_the_same_for_every_trial_of_every_version(
        self, dataset: Dataset
    ) -> None:
        """A trial that is taken further by a newer one may not fit what it was selected by."""
        rng = np.random.default_rng(2018)
        expected = []
        for label in range(CLASSES):
            members = np.flatnonzero(dataset.train_labels == label)
            expected += rng.permutation(members)[:2].tolist()
        assert numbers(hold_out(dataset, 200)[1]) == sorted(expected)

    def test_the_choice_in_one_class_says_nothing_about_another(self, dataset: Dataset) -> None:
        _, images, labels = hold_out(dataset, CLASSES, seed=0)
        ranks = [
            np.flatnonzero(dataset.train_labels == label).tolist().index(number)
            for label, number in zip(labels, numbers(images), strict=True)
        ]
        assert np.bincount(ranks, minlength=EACH).min() > 5  # of 100, 17 are expected

    def test_everything_else_stays(self, dataset: Dataset) -> None:
        before = dataset.train_images.copy(), dataset.train_labels.copy()
        rest, _, _ = hold_out(dataset, 200, seed=0)
        assert rest.test_images is dataset.test_images
        assert rest.test_labels is dataset.test_labels
        assert rest.superclasses == dataset.superclasses
        assert (rest.name, rest.class_names) == (dataset.name, dataset.class_names)
        np.testing.assert_array_equal(dataset.train_images, before[0])
        np.testing.assert_array_equal(dataset.train_labels, before[1])

    @pytest.mark.parametrize("count", [0, -100, 1, 150])
    def test_a_count_that_cannot_be_stratified_is_refused(
        self, dataset: Dataset, count: int
    ) -> None:
        with pytest.raises(
            ValueError, match=f"{count} pictures is not stratified.*multiple of 100"
        ):
            hold_out(dataset, count, seed=0)

    @pytest.mark.parametrize("each", [EACH, EACH + 1])
    def test_no_class_may_be_left_empty(self, dataset: Dataset, each: int) -> None:
        with pytest.raises(ValueError, match="class 0, which has only 6: choose a smaller one"):
            hold_out(dataset, each * CLASSES, seed=0)

    def test_the_smallest_class_sets_the_limit(self, dataset: Dataset) -> None:
        scarce = np.flatnonzero(dataset.train_labels == 42)[1:]
        labels = np.delete(dataset.train_labels, scarce)
        fewer = dataset_of(np.delete(dataset.train_images, scarce, axis=0), labels)
        with pytest.raises(ValueError, match="class 42, which has only 1"):
            hold_out(fewer, 100, seed=0)


class TestDataset:
    def test_superclasses_line_up_with_the_classes(self, dataset: Dataset) -> None:
        assert dataset.superclasses == ("even", "odd") * 50

    @given(st.lists(st.integers(0, 255), min_size=1, max_size=20))
    def test_training_mean_is_exact(self, values: list[int]) -> None:
        images = np.empty((len(values), 32, 32, 3), np.uint8)
        images[:] = np.reshape(values, (-1, 1, 1, 1))
        images[0, 0, 0, 0] = 255 - images[0, 0, 0, 0]
        total = 3072 * sum(values) + 255 - 2 * values[0]
        exact = Fraction(total, 3072 * len(values))
        assert dataset_of(images, np.zeros(len(values), np.int64)).training_mean == float(exact)

    def test_one_pixel_of_many_still_counts(self) -> None:
        images = np.full((6000, 32, 32, 3), 254, np.uint8)  # beyond 2**24 and 2**32
        images[-1, -1, -1, -1] = 255
        mean = dataset_of(images, np.zeros(6000, np.int64)).training_mean
        assert mean == float(254 + Fraction(1, 6000 * 3072))
        assert mean > 254
