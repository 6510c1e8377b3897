"""A file is written whole or not at all, and what a killed process left is removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from training.files import sweep, write_atomically


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("old")

    def write(passing: Path) -> None:
        passing.write_text("half")
        assert path.read_text() == "old"
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]  # nothing is left lying about
    write_atomically(path, lambda passing: passing.write_text("new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_swept_is_what_a_killed_process_left_there(tmp_path: Path) -> None:
    """And not in folders below, where others may be writing."""
    (tmp_path / ".partial-17-model.onnx").write_text("half")
    kept = [tmp_path / name for name in ("model.onnx", ".lock", "below/.partial-17-model.onnx")]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    sweep(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_a_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses its power may be left with the new name and none of the content."""
    path, synced = tmp_path / "history.csv", []
    path.write_text("old")

    def fsync(file: int) -> None:
        synced.append((os.fstat(file).st_ino, path.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, lambda passing: passing.write_text("new"))
    assert synced == [(path.stat().st_ino, "old")]
    assert path.read_text() == "new"
