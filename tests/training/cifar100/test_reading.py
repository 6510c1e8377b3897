"""CIFAR-100 arrives unchanged, whichever form it is read from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from tests.training.cifar100.distribution import CLASSES, SUPERCLASSES
from training import cifar100


class TestForms:
    def test_folder_parent_and_archive_hold_the_same(
        self, parent: Path, archive: Path, members: dict[str, bytes], digests: dict[str, str]
    ) -> None:
        for source in (parent / cifar100.FOLDER, parent, archive):
            assert cifar100.read_members(source, digests) == members

    def test_an_archive_is_found_in_the_folder_that_holds_it(
        self, archive: Path, members: dict[str, bytes], digests: dict[str, str]
    ) -> None:
        """As it lies in the volume that deploy/kubernetes/training-job.yaml mounts at /data."""
        assert cifar100.read_members(archive.parent, digests) == members

    def test_an_archive_stands_in_for_a_folder_that_is_not_whole(
        self, parent: Path, archive: Path, members: dict[str, bytes], digests: dict[str, str]
    ) -> None:
        (parent / cifar100.FOLDER / "test").unlink()
        archive.rename(parent / cifar100.ARCHIVE)
        assert cifar100.read_members(parent, digests) == members

    def test_a_whole_folder_goes_before_an_archive(
        self, parent: Path, members: dict[str, bytes], digests: dict[str, str]
    ) -> None:
        (parent / cifar100.ARCHIVE).write_bytes(b"never opened")
        assert cifar100.read_members(parent, digests) == members

    def test_reading_an_archive_writes_nothing(
        self, archive: Path, digests: dict[str, str], tmp_path: Path
    ) -> None:
        before = sorted(tmp_path.rglob("*"))
        cifar100.read_members(archive, digests)
        assert sorted(tmp_path.rglob("*")) == before

    def test_pixels_labels_and_names_arrive_unchanged(
        self, members: dict[str, bytes], pictures: dict[str, np.ndarray]
    ) -> None:
        dataset = cifar100.decode(members)
        assert dataset.name == "cifar100"
        for field, expected in pictures.items():
            array = getattr(dataset, field)
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == (np.uint8 if field.endswith("images") else np.int64)
        assert dataset.class_names[7] == "class 7"
        assert dataset.superclass_of == tuple(index % SUPERCLASSES for index in range(CLASSES))
        assert dataset.superclasses[47] == "superclass 7"

    def test_checksum_covers_pixels_and_labels_in_order(
        self, members: dict[str, bytes], pictures: dict[str, np.ndarray]
    ) -> None:
        everything = b"".join(
            [
                pictures["train_images"].tobytes(),
                pictures["train_labels"].astype("<i8").tobytes(),
                pictures["test_images"].tobytes(),
                pictures["test_labels"].astype("<i8").tobytes(),
            ]
        )
        assert cifar100.decode(members).checksum == hashlib.sha256(everything).hexdigest()
