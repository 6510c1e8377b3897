"""What is not published: another function, a net without proof, a trial that is not ready."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import training.export
from tests.training.export.published import contents
from training.dataset import Dataset
from training.export import ExportError, export, measure_parity
from training.trial import TrialError, write_record


def test_a_graph_that_is_not_the_net_is_not_published(
    own: Path,
    nudged: Path,
    graph: onnx.ModelProto,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The published net's graph in place of the other one's: valid, but another function."""
    before = contents(own)
    monkeypatch.setattr(training.export, "convert", lambda net: graph)
    with pytest.raises(ExportError, match=r"differs from Keras by up to .*nothing was published"):
        export(nudged, dataset, own)
    assert contents(own) == before


def test_parity_on_too_few_pictures_is_no_proof(
    model: Any, relu_with_bn: Any, dataset: Dataset
) -> None:
    with pytest.raises(ExportError, match="parity wants at least 1,000 pictures, not 999"):
        measure_parity(relu_with_bn.frozen, model, dataset.test_images[:999])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "not an object"),
        ('{"schema_version": 1, "default": "relu_with_bn"}', "models is missing"),
        ('{"schema_version": 2, "default": "x", "models": []}', "schema_version is 2"),
    ],
)
def test_a_broken_manifest_is_refused_by_name(
    text: str, says: str, relu_with_bn: Any, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ExportError, match=rf"manifest\.json: .*{says}.*; mend or remove it"):
        export(relu_with_bn.folder, dataset, tmp_path)
    assert contents(tmp_path) == {"manifest.json": text.encode()}


def fitted_only(record: dict[str, Any]) -> None:
    del record["freeze"]
    record["status"] = "fitted"


@pytest.mark.parametrize("change", [fitted_only, None], ids=["fitted only", "nothing there"])
def test_a_trial_that_is_not_frozen_is_refused_by_name(
    change: Callable[[dict[str, Any]], None] | None,
    relu_with_bn: Any,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "seed-0"
    if change:
        folder.mkdir()
        record = json.loads((relu_with_bn.folder / "trial.json").read_text())
        change(record)
        write_record(folder, record)
    with pytest.raises(TrialError, match="seed-0: not frozen yet; run the training and the freeze"):
        export(folder, dataset, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_other_data_than_it_was_fitted_on_is_refused(
    relu_with_bn: Any, small_dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(TrialError, match="fitted on other data than this; give the data"):
        export(relu_with_bn.folder, small_dataset, tmp_path / "models")
    assert not (tmp_path / "models").exists()
