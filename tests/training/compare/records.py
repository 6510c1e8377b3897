"""Records of frozen trials, changed as a test wants them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.trial import read_record, write_record


def quiet(_: str) -> None:
    pass


def change(folder: Path, how: Callable[[dict[str, Any]], None]) -> None:
    record = read_record(folder)
    assert record is not None
    how(record)
    write_record(folder, record)


def only(content: dict[str, Any]) -> dict[str, Any]:
    """The one recipe of the comparison."""
    (section,) = content["recipes"]
    return dict(section)


def add_a_variant(runs: Path) -> None:
    """The net of recipe ``two``, as if it were by recipe ``one``."""
    shutil.copytree(runs / "two/relu_without_bn", runs / "one/relu_without_bn")
    change(
        runs / "one/relu_without_bn/seed-0",
        lambda record: record["configuration"]["recipe"].update(name="one"),
    )


def fitted_only(record: dict[str, Any]) -> None:
    record["status"] = "fitted"


def held_out(record: dict[str, Any]) -> None:
    record["configuration"]["hold_out"] = 100
    record["outcome"]["validation_set"] = "hold-out"


def faster(record: dict[str, Any]) -> None:
    record["configuration"]["recipe"]["learning_rate"] = 0.5


def frozen_by_fewer(record: dict[str, Any]) -> None:
    record["freeze"]["images"] = 80
