"""What is not published: another function, a net without proof, a trial that is not ready."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import training.export
from tests.training.export.published import contents
from training.dataset import Dataset
from training.export import export, measure_parity
from training.repository import ExportError
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
    folder = tmp_path / "test/relu_with_bn/seed-0"
    if change:
        folder.mkdir(parents=True)
        record = json.loads((relu_with_bn.folder / "trial.json").read_text())
        change(record)
        write_record(folder, record)
    with pytest.raises(TrialError, match="seed-0: not frozen yet; run the training and the freeze"):
        export(folder, dataset, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_other_data_than_it_was_fitted_on_is_refused(
    relu_with_bn: Any, small_dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(TrialError, match=r"but this data's is .*; give the data it was fitted on"):
        export(relu_with_bn.folder, small_dataset, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_nets_of_another_data_set_are_refused_and_leave_the_labels_alone(
    own: Path, relu_with_bn: Any, relu_without_bn: Any, dataset: Dataset
) -> None:
    manifest = own / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"synthetic"', '"cifar100"'))
    before = contents(own)
    says = (
        r"models: holds nets of cifar100 .*relu_with_bn/1.*this is of synthetic; .*another folder"
    )
    for trial in (relu_with_bn, relu_without_bn):
        with pytest.raises(ExportError, match=says):
            export(trial.folder, dataset, own)
    assert contents(own) == before


def test_nets_of_another_data_set_that_come_during_the_proof_are_seen(
    own: Path,
    relu_without_bn: Any,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folder is held for the publishing alone: the proof takes long."""
    models = tmp_path / "shared"

    def prove(*arguments: Any) -> Any:
        manifest = Path(shutil.copytree(own, models, dirs_exist_ok=True)) / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"synthetic"', '"cifar100"'))
        return measure_parity(*arguments)

    monkeypatch.setattr(training.export, "measure_parity", prove)
    with pytest.raises(ExportError, match=r"holds nets of cifar100 .*this is of synthetic"):
        export(relu_without_bn.folder, dataset, models)
    assert "relu_without_bn" not in (models / "manifest.json").read_text()


def test_other_pictures_under_the_same_name_are_refused(
    own: Path, nudged: Path, dataset: Dataset
) -> None:
    other = replace(dataset, checksum="0" * 64)
    record = json.loads((nudged / "trial.json").read_text())
    record["configuration"]["dataset"]["checksum"] = other.checksum
    write_record(nudged, record)
    before = contents(own)
    with pytest.raises(ExportError, match=r"1/model\.onnx: is of other pictures.*another --models"):
        export(nudged, other, own)
    assert contents(own) == before


def test_a_default_that_is_not_there_is_refused(
    own: Path, relu_with_bn: Any, dataset: Dataset
) -> None:
    before = contents(own)
    with pytest.raises(ExportError, match=r"sigmoid_with_bn cannot answer by default, .*relu_with"):
        export(relu_with_bn.folder, dataset, own, default="sigmoid_with_bn")
    assert contents(own) == before


@pytest.mark.parametrize("where", ["file", "file/models"])
def test_a_place_that_is_no_folder_is_refused_by_name(
    where: str, relu_with_bn: Any, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ExportError, match=rf"{where}: is no folder \(.*\); give another"):
        export(relu_with_bn.folder, dataset, tmp_path / where)
    assert (tmp_path / "file").read_text() == "kept"


def test_the_file_that_the_service_would_refuse_is_not_published(
    relu_with_bn: Any, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.export, "convert", lambda net: one_output_too_many())
    with pytest.raises(ExportError, match="service would refuse the file: relu_with_bn: its outp"):
        export(relu_with_bn.folder, dataset, tmp_path / "models")
    assert contents(tmp_path) == {}


def one_output_too_many() -> onnx.ModelProto:
    shape = ["n", 32, 32, 3]
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, shape)
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ("probabilities", "more")
    ]
    nodes = [
        onnx.helper.make_node("Cast", ["images"], [each.name], to=onnx.TensorProto.FLOAT)
        for each in outputs
    ]
    graph = onnx.helper.make_graph(nodes, "two", [images], outputs)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
