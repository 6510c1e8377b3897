"""CIFAR-100 is read whole and as its authors made it, or not at all."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.training.cifar100.distribution import archive_of, md5s, official
from training import cifar100
from training.cifar100 import DataError


class TestDamage:
    @pytest.mark.parametrize("name", ["train", "test", "meta"])
    def test_one_changed_byte_is_refused_by_name(
        self, parent: Path, digests: dict[str, str], name: str
    ) -> None:
        path = parent / cifar100.FOLDER / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} has MD5 \w+, the original has") as caught:
            cifar100.read_members(parent, digests)
        assert str(parent) in str(caught.value)
        assert "download" in str(caught.value)

    def test_the_real_digests_are_the_default(self, parent: Path) -> None:
        with pytest.raises(DataError, match=cifar100.MEMBER_MD5["train"]):
            cifar100.read_members(parent)

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
    def test_a_truncated_archive_is_refused(
        self, archive: Path, digests: dict[str, str], share: float
    ) -> None:
        whole = archive.read_bytes()
        archive.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match="not a whole") as caught:
            cifar100.read_members(archive, digests)
        assert str(archive) in str(caught.value)

    def test_an_archive_with_a_damaged_middle_is_refused(
        self, archive: Path, digests: dict[str, str]
    ) -> None:
        content = bytearray(archive.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
        archive.write_bytes(content)
        with pytest.raises(DataError, match=r"not a whole|has MD5"):
            cifar100.read_members(archive, digests)

    def test_an_archive_within_a_folder_is_named(
        self, tmp_path: Path, digests: dict[str, str]
    ) -> None:
        (tmp_path / cifar100.ARCHIVE).write_bytes(b"")
        with pytest.raises(DataError, match=rf"{cifar100.ARCHIVE}: not a whole"):
            cifar100.read_members(tmp_path, digests)

    @pytest.mark.parametrize(
        "content", [b"", b"not an archive", gzip.compress(b"not a tar", mtime=0)]
    )
    def test_a_file_that_is_no_archive_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "anything"
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a whole"):
            cifar100.read_members(path)

    @pytest.mark.parametrize("name", ["train", "test", "meta"])
    def test_a_missing_member_is_named(
        self, parent: Path, archive: Path, members: dict[str, bytes], name: str
    ) -> None:
        rest = {other: content for other, content in members.items() if other != name}
        (parent / cifar100.FOLDER / name).unlink()
        archive.write_bytes(
            archive_of({f"{cifar100.FOLDER}/{other}": rest[other] for other in rest})
        )
        for source in (parent, archive):
            with pytest.raises(DataError, match=f"holds no regular file {name}"):
                cifar100.read_members(source, md5s(members))

    def test_a_member_of_absurd_size_is_refused_unread(
        self, parent: Path, archive: Path, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cifar100, "LARGEST_MEMBER", 100_000)
        for source in (parent, archive):
            with pytest.raises(DataError, match="more than the 100000"):
                cifar100.read_members(source, digests)


class TestStrangeArchives:
    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_a_link_never_stands_for_a_member(
        self, archive: Path, members: dict[str, bytes], tmp_path: Path, kind: bytes
    ) -> None:
        (tmp_path / "outside").write_bytes(members["train"])
        entries: dict[str, Any] = dict(official(members))
        link = tarfile.TarInfo(f"{cifar100.FOLDER}/train")
        link.type = kind
        link.linkname = str(tmp_path / "outside")
        entries[link.name] = link
        archive.write_bytes(archive_of(entries))
        with pytest.raises(DataError, match="holds no regular file train"):
            cifar100.read_members(archive, md5s(members))

    @pytest.mark.parametrize("prefix", ["../", "/", f"{cifar100.FOLDER}/../", "elsewhere/"])
    def test_only_the_official_path_counts(
        self, archive: Path, members: dict[str, bytes], tmp_path: Path, prefix: str
    ) -> None:
        entries = official(members)
        entries[f"{prefix}train"] = entries.pop(f"{cifar100.FOLDER}/train")
        archive.write_bytes(archive_of(entries))
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(DataError, match="holds no regular file train"):
            cifar100.read_members(archive, md5s(members))
        assert sorted(tmp_path.rglob("*")) == before
