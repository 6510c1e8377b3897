"""A net that was really fitted, frozen and exported, once a run, and copies to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.models.repository import load_model
from training.dataset import Dataset
from training.trial import read_record, write_record


@pytest.fixture(scope="session")
def models(relu_with_bn: Any, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model; tests read it, and copy it before they change it."""
    from training.export import export

    folder = tmp_path_factory.mktemp("exported") / "models"
    entry = export(relu_with_bn.folder, dataset, folder)
    assert (entry.variant, entry.version) == ("relu_with_bn", 1)
    return folder


@pytest.fixture(scope="module")
def graph(models: Path) -> onnx.ModelProto:
    return onnx.load(models / "relu_with_bn/1/model.onnx")


@pytest.fixture(scope="module")
def model(models: Path) -> Any:
    return load_model(models / "relu_with_bn/1/model.onnx", sha256=None)


@pytest.fixture
def own(models: Path, tmp_path: Path) -> Path:
    """A copy of the repository that a test may change."""
    return Path(shutil.copytree(models, tmp_path / "models"))


@pytest.fixture
def nudged(relu_with_bn: Any, tmp_path: Path) -> Path:
    """The trial's folder with a net that differs a little, as if fitted for another second."""
    import keras

    folder = Path(shutil.copytree(relu_with_bn.folder, tmp_path / "test/relu_with_bn/seed-0"))
    net = keras.saving.load_model(folder / "frozen.keras", compile=False)
    kernel, bias = net.get_layer("logits").get_weights()
    net.get_layer("logits").set_weights([kernel, bias + np.linspace(0, 1, 100, dtype=np.float32)])
    net.save(folder / "frozen.keras")
    record = read_record(folder)
    assert record is not None
    record["outcome"]["seconds"] += 1
    write_record(folder, record)
    return folder
