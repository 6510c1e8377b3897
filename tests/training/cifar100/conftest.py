"""A few random pictures as the distribution's files, in a folder and in an archive."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest

from tests.training.cifar100.distribution import (
    CLASSES,
    SUPERCLASSES,
    archive_of,
    md5s,
    official,
    python2_pickle,
    split,
)
from training import cifar100


@pytest.fixture(scope="session")
def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8),
        "train_labels": rng.permutation(np.repeat(np.arange(CLASSES), 2)),
        "test_images": rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8),
        "test_labels": rng.permutation(CLASSES),
    }


@pytest.fixture(scope="session")
def contents(pictures: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    return {
        "train": split(pictures["train_images"], pictures["train_labels"]),
        "test": split(pictures["test_images"], pictures["test_labels"]),
        "meta": {
            "fine_label_names": [f"class {index}" for index in range(CLASSES)],
            "coarse_label_names": [f"superclass {index}" for index in range(SUPERCLASSES)],
        },
    }


@pytest.fixture(scope="session")
def members(contents: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    return {name: python2_pickle(content) for name, content in contents.items()}


@pytest.fixture(scope="session")
def digests(members: dict[str, bytes]) -> dict[str, str]:
    return md5s(members)


@pytest.fixture
def parent(tmp_path: Path, members: dict[str, bytes]) -> Path:
    folder = tmp_path / "data" / cifar100.FOLDER
    folder.mkdir(parents=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)
    return folder.parent


@pytest.fixture
def archive(tmp_path: Path, members: dict[str, bytes]) -> Path:
    path = tmp_path / cifar100.ARCHIVE
    path.write_bytes(archive_of(official(members)))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's own data, cache or proxy, and none reaches the real server."""
    folder = tmp_path / "cache"
    monkeypatch.delenv(cifar100.VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder)
    monkeypatch.setattr(cifar100, "ARCHIVE_URL", f"http://127.0.0.1:{closed_port()}/archive")
    return folder


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
