"""The trials that are compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from training.trial import read_record, write_record


@pytest.fixture
def runs(relu_with_bn: Any, relu_without_bn: Any, tmp_path: Path) -> Path:
    """Recipe ``one``: a variant with two seeds of different outcomes; ``two``: another variant."""
    runs = tmp_path / "runs"
    for recipe, fitted, seed, top1 in (
        ("one", relu_with_bn, 0, 0.30),
        ("one", relu_with_bn, 1, 0.34),
        ("two", relu_without_bn, 0, 0.25),
    ):
        folder = runs / recipe / fitted.folder.parent.name / f"seed-{seed}"
        shutil.copytree(fitted.folder, folder)
        record = read_record(folder)
        assert record is not None
        record["configuration"]["seed"] = seed
        record["configuration"]["recipe"]["name"] = recipe
        record["configuration"]["dataset"] = relu_with_bn.record["configuration"]["dataset"]
        record["freeze"]["after"]["top1"] = top1
        write_record(folder, record)
    return runs
