"""A labelled picture data set in memory, whatever it came from.

``training.cifar100`` and ``training.synthetic`` make one; everything downstream takes one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

IMAGE_SHAPE = (32, 32, 3)
CLASSES = 100
HOLD_OUT_SEED = 2018  # one hold-out for every trial, so that selections compare like with like


class HoldOutError(ValueError):
    """A hold-out cannot be taken as asked; the message says which can."""


@dataclass(frozen=True)
class Dataset:
    """Train and test pictures with their labels, and what the labels mean.

    ``*_images`` are uint8 [N, 32, 32, 3], RGB 0..255; ``*_labels`` are int64 [N], 0..99.
    ``checksum`` is the SHA-256 of the train pixels, train labels, test pixels and test labels,
    in that order, so that a record of it says exactly what a net has seen.
    """

    name: str
    checksum: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    class_names: tuple[str, ...]
    superclass_names: tuple[str, ...]
    superclass_of: tuple[int, ...]

    @property
    def superclasses(self) -> tuple[str, ...]:
        """The superclass name of every class, aligned with ``class_names``."""
        return tuple(self.superclass_names[index] for index in self.superclass_of)

    @property
    def training_mean(self) -> float:
        """The scalar mean of the training pixels, 0..255, accumulated exactly in integers."""
        return int(self.train_images.sum(dtype=np.int64)) / self.train_images.size


def checksum(*arrays: NDArray[np.uint8] | NDArray[np.int64]) -> str:
    """The SHA-256 (hexadecimal) of the arrays' bytes, little-endian, one after another."""
    digest = hashlib.sha256()
    for array in arrays:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).data)
    return digest.hexdigest()


def hold_out(
    dataset: Dataset, count: int, seed: int = HOLD_OUT_SEED
) -> tuple[Dataset, Images, Labels]:
    """Take ``count`` pictures out of the training set, the same number of every class.

    Returns the data set without them, their images and their labels. The choice depends on
    ``seed`` and on nothing else, so selection can be repeated. Raises ``HoldOutError``
    where ``count`` is not a positive multiple of the number of classes or leaves a class empty.
    """
    classes = len(dataset.class_names)
    if count <= 0 or count % classes:
        raise HoldOutError(
            f"a hold-out of {count} pictures is not stratified: "
            f"choose a positive multiple of {classes}, the number of classes"
        )
    each = count // classes
    rng = np.random.default_rng(seed)
    chosen = []
    for label in range(classes):
        members = np.flatnonzero(dataset.train_labels == label)
        if each >= len(members):
            raise HoldOutError(
                f"a hold-out of {count} pictures takes {each} of class {label}, "
                f"which has only {len(members)}: choose a smaller one"
            )
        chosen.append(rng.permutation(members)[:each])
    held = np.sort(np.concatenate(chosen))
    kept = np.ones(len(dataset.train_labels), dtype=bool)
    kept[held] = False
    rest = replace(
        dataset,
        train_images=dataset.train_images[kept],
        train_labels=dataset.train_labels[kept],
    )
    return rest, dataset.train_images[held], dataset.train_labels[held]
