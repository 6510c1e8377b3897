"""A disk that is full ends a command in words, and what it has made is not lost."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import few_tests
from tests.training.trials import make_recipe
from training.ablation import ablate
from training.export import write_model
from training.fit import fit
from training.freeze import freeze
from training.repository import ExportError
from training.trial import Trial, TrialError, read_record
from training.variants import VARIANTS

FULL = r"cannot be written \(File too large\); make room"


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of more than ``size`` bytes can be written: to the system a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_fit_and_a_freeze_without_room_say_so_and_go_on(
    tmp_path: Path, small_dataset: Any
) -> None:
    trial = Trial(make_recipe(2, 2), VARIANTS["relu_with_bn"], seed=0, runs=tmp_path)
    refusal = rf"^{re.escape(str(trial.folder))}: {FULL} and repeat the command, it goes on$"
    for status, work in (
        ("fitting", lambda: fit(trial, small_dataset)),
        ("fitted", lambda: freeze(trial.folder, small_dataset)),
    ):
        with room_for(500_000), pytest.raises(TrialError, match=refusal):
            work()
        record = read_record(trial.folder)
        assert record is not None
        assert record["status"] == status
        assert not list(trial.folder.glob(".partial-*"))
        done = work()
    assert done["status"] == "frozen"


def test_an_ablation_without_room_says_so(relu_with_bn: Any, tmp_path: Path) -> None:
    data = few_tests(relu_with_bn.data)
    with room_for(500), pytest.raises(ExportError, match=rf"^{re.escape(str(tmp_path))}: {FULL}"):
        ablate([relu_with_bn.folder], data, tmp_path, images=20)
    assert list(tmp_path.iterdir()) == []


def test_an_export_without_room_for_its_proof_says_so(tmp_path: Path) -> None:
    import onnx

    from tests.service.tiny import make_card, make_model

    card = make_card("relu_with_bn")
    graph = onnx.load_from_string(make_model("relu_with_bn", None))
    with room_for(1_000), pytest.raises(ExportError, match=rf"model\.onnx: {FULL} there, or have"):
        write_model(graph, replace(card, parity=None), tmp_path / "model.onnx")
