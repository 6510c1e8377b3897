"""A strange pickle never runs, and contents that are not CIFAR-100's are refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.cifar100.distribution import SUPERCLASSES, md5s, python2_pickle
from training import cifar100
from training.cifar100 import DataError


class Foreign:
    """Pickles as a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


class TestForeignPickles:
    @pytest.fixture
    def marker(self, tmp_path: Path) -> Path:
        return tmp_path / "it-ran"

    @pytest.fixture
    def foreign(self, marker: Path) -> bytes:
        return pickle.dumps({"data": Foreign(f"echo > '{marker}'")}, protocol=2)

    def test_the_attack_would_work(self, foreign: bytes, marker: Path) -> None:
        pickle.loads(foreign)
        assert marker.exists()

    def test_the_unpickler_refuses_even_where_the_md5_agrees(
        self, parent: Path, members: dict[str, bytes], foreign: bytes, marker: Path
    ) -> None:
        (parent / cifar100.FOLDER / "train").write_bytes(foreign)
        read = cifar100.read_members(parent, md5s({**members, "train": foreign}))
        with pytest.raises(DataError, match=r"train: refused to unpickle .*system"):
            cifar100.decode(read)
        assert not marker.exists()

    def test_the_md5_refuses_before_the_unpickler_looks(
        self,
        parent: Path,
        digests: dict[str, str],
        foreign: bytes,
        marker: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (parent / cifar100.FOLDER / "train").write_bytes(foreign)
        monkeypatch.setattr(cifar100, "unpickle", lambda *_: pytest.fail("unpickled"))
        with pytest.raises(DataError, match="train has MD5"):
            cifar100.decode(cifar100.read_members(parent, digests))
        with pytest.raises(DataError, match="train has MD5"):
            cifar100.load(parent)
        assert not marker.exists()

    @pytest.mark.parametrize(
        "wanted", ["builtins\neval", "__builtin__\neval", "numpy\nload", "numpy.core.multiarray\nx"]
    )
    def test_a_global_outside_the_three_is_refused(self, wanted: str) -> None:
        raw = f"c{wanted}\n.".encode()
        with pytest.raises(DataError, match=r"it asks for .*" + wanted.split("\n")[1]):
            cifar100.unpickle("test", raw)

    def test_only_bytes_can_fill_an_array(self, contents: dict[str, dict[str, Any]]) -> None:
        floats = contents["test"] | {"data": np.zeros((100, 3072), np.float32)}
        with pytest.raises(DataError, match="expected uint8"):
            cifar100.unpickle("test", python2_pickle(floats))

    @pytest.mark.parametrize("raw", [b"", b"\x80\x02", b"].", b"garbage"])
    def test_what_is_no_pickle_of_a_dict_is_refused(self, raw: bytes) -> None:
        with pytest.raises(DataError, match="meta: "):
            cifar100.unpickle("meta", raw)


class TestContents:
    def decode(self, contents: dict[str, dict[str, Any]], name: str, **changes: Any) -> None:
        changed = contents | {name: contents[name] | changes}
        cifar100.decode({file: python2_pickle(content) for file, content in changed.items()})

    def test_a_class_of_two_superclasses_is_refused(self, contents: dict[str, Any]) -> None:
        coarse = list(contents["train"]["coarse_labels"])
        coarse[0] = (coarse[0] + 1) % SUPERCLASSES
        with pytest.raises(DataError, match="exactly one superclass"):
            self.decode(contents, "train", coarse_labels=coarse)

    def test_a_class_without_pictures_is_refused(self, contents: dict[str, Any]) -> None:
        names = [*contents["meta"]["fine_label_names"], "one more"]
        with pytest.raises(DataError, match="exactly one superclass"):
            self.decode(contents, "meta", fine_label_names=names)

    @pytest.mark.parametrize("label", [-1, 100, "7"])
    def test_a_label_without_a_name_is_refused(self, contents: dict[str, Any], label: Any) -> None:
        labels = [label, *contents["test"]["fine_labels"][1:]]
        with pytest.raises(DataError, match=r"test: holds no fine_labels within 0\.\.99"):
            self.decode(contents, "test", fine_labels=labels)

    def test_pictures_of_another_size_are_refused(self, contents: dict[str, Any]) -> None:
        with pytest.raises(DataError, match=r"test: data is not uint8 \[100, 3072\]"):
            self.decode(contents, "test", data=np.zeros((100, 3071), np.uint8))

    def test_missing_names_are_refused(self, contents: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="meta: holds no names coarse_label_names"):
            self.decode(contents, "meta", coarse_label_names=3)
