"""The export's files: the card and the manifest tell the truth, and nothing else lies there."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest

from service.models.card import CARD_KEY
from service.models.repository import load_repository
from tests.training.export.published import contents
from training.card import card_of, tools_of
from training.dataset import Dataset


def test_the_card_tells_the_truth(
    graph: onnx.ModelProto, model: Any, relu_with_bn: Any, dataset: Dataset
) -> None:
    properties = {each.key: each.value for each in graph.metadata_props}
    card = json.loads(properties[CARD_KEY])
    assert card["variant"] == "relu_with_bn"
    assert (card["activation"], card["normalization"]) == ("relu", "batch")
    assert (card["recipe"], card["seed"]) == ("test", 0)
    trained = card["training"]
    assert (trained["steps"], trained["epochs"], trained["batch"]) == (60, 1, 20)
    assert (trained["images"], trained["learning_rate"]) == (1_200, 1e-3)
    assert trained["seconds"] > 0
    assert card["dataset"] == {
        "name": "synthetic",
        "checksum": dataset.checksum,
        "train_images": 1_000,
        "test_images": 1_000,
    }
    assert tuple(card["classes"]) == dataset.class_names
    assert [name.split()[1] for name in card["classes"]] == card["superclasses"]
    assert card["training_mean"] == pytest.approx(dataset.train_images.mean(dtype=np.float64))
    frozen = card["frozen"]
    assert (frozen["kind"], frozen["images"], frozen["batches"]) == ("population", 1_000, 20)
    assert [layer["channels"] for layer in frozen["layers"]] == [60] * 8 + [100] * 2
    for layer, measured in zip(
        frozen["layers"], relu_with_bn.record["freeze"]["layers"], strict=True
    ):
        for figure in ("mean_shift_sd", "variance_ratio"):
            assert layer[figure] == pytest.approx(measured[figure], abs=1e-5)
    assert card["tools"]["keras"] == keras.__version__
    assert card["tools"]["onnx"] == onnx.__version__

    # Scores and parity again, from the file as it is served.
    labels = dataset.test_labels
    served = np.concatenate([model.run(part) for part in np.split(dataset.test_images, 10)])
    order = np.argsort(-served, axis=1)
    after = card["evaluation"]["after_freeze"]
    assert (card["evaluation"]["split"], card["evaluation"]["images"]) == ("test", 1_000)
    assert after["top1"] == pytest.approx((order[:, 0] == labels).mean(), abs=1e-9)
    right = (order[:, :5] == labels[:, None]).any(axis=1)
    assert after["top5"] == pytest.approx(right.mean(), abs=1e-9)
    own = served[np.arange(1000), labels].astype(np.float64)
    assert after["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert card["evaluation"]["before_freeze"] == relu_with_bn.record["freeze"]["before"]
    expected = relu_with_bn.frozen.predict(dataset.test_images, verbose=0)
    parity = card["parity"]
    assert parity["images"] == 1_000
    assert np.abs(served - expected).max() == pytest.approx(parity["max_abs_error"], abs=1e-6)
    assert 0 < parity["max_abs_error"] <= 1e-5
    assert parity["top1_agreement"] == (expected.argmax(axis=1) == order[:, 0]).mean()
    assert parity["provider"] == model.provider


@pytest.mark.parametrize(
    ("kept_step", "hold_out", "says"),
    [(40, 100, (40, 100)), (60, 100, (None, 100)), (60, 0, (None, None))],
)
def test_the_card_says_which_weights_were_kept_and_how_many_pictures_were_held_out(
    kept_step: int, hold_out: int, says: Any, relu_with_bn: Any, dataset: Dataset
) -> None:
    """Of 60 steps; the last one, and no hold-out, need no words."""
    record = copy.deepcopy(relu_with_bn.record)
    record["outcome"]["kept_step"] = kept_step
    record["configuration"]["hold_out"] = hold_out
    training = card_of(record, dataset).training
    assert (training.steps, training.kept_step, training.hold_out) == (60, *says)


def test_the_card_names_the_tools_of_the_fit_and_of_the_export() -> None:
    fit = {"python": "3.11.7", "keras": "3.12.0", "jax": "0.7.2"}
    exporter = {"python": "3.11.7", "keras": "3.15.1", "onnx": "1.23.2"}
    assert tools_of(fit, exporter) == {
        "python": "3.11.7",
        "keras": "3.12.0, exported with 3.15.1",
        "jax": "0.7.2",
        "onnx": "1.23.2",
    }


def test_the_manifest_tells_the_truth(models: Path) -> None:
    manifest = json.loads((models / "manifest.json").read_text())
    assert (manifest["schema_version"], manifest["default"]) == (1, "relu_with_bn")
    (entry,) = manifest["models"]
    data = (models / entry["file"]).read_bytes()
    assert entry["file"] == "relu_with_bn/1/model.onnx"
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert entry["bytes"] == len(data)
    assert (entry["recipe"], entry["dataset"]) == ("test", "synthetic")
    assert list(load_repository(models).models) == ["relu_with_bn"]  # the service takes it


def test_triton_finds_its_configuration_and_labels(models: Path, dataset: Dataset) -> None:
    labels = (models / "relu_with_bn/labels.txt").read_text()
    assert labels == "\n".join(dataset.class_names) + "\n"
    config = "".join((models / "relu_with_bn/config.pbtxt").read_text().split())
    for part in (
        'name:"relu_with_bn"platform:"onnxruntime_onnx"max_batch_size:64',
        'input[{name:"images"data_type:TYPE_UINT8dims:[32,32,3]}]',
        'output[{name:"probabilities"data_type:TYPE_FP32dims:[100]label_filename:"labels.txt"}]',
    ):
        assert part in config


def test_nothing_but_what_is_served_lies_in_the_repository(models: Path) -> None:
    assert set(contents(models)) == {
        "manifest.json",
        "relu_with_bn/config.pbtxt",
        "relu_with_bn/labels.txt",
        "relu_with_bn/1/model.onnx",
    }
