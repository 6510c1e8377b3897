"""The export: the graph, the proof that it is the net, the card, and what is published where."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import training.export
from service.card import CARD_KEY
from service.manifest import Entry
from service.repository import load_model, load_repository
from tests.training import oracle
from training.dataset import Dataset
from training.export import ExportError, check_inference_graph, convert, export, measure_parity
from training.nets import build
from training.trial import TrialError, read_record, write_record
from training.variants import VARIANTS


@pytest.fixture(scope="module")
def models(relu_with_bn: Any, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model; tests read it, and copy it before they change it."""
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
    folder = Path(shutil.copytree(relu_with_bn.folder, tmp_path / "relu_with_bn" / "seed-0"))
    net = keras.saving.load_model(folder / "frozen.keras", compile=False)
    kernel, bias = net.get_layer("logits").get_weights()
    net.get_layer("logits").set_weights([kernel, bias + np.linspace(0, 1, 100, dtype=np.float32)])
    net.save(folder / "frozen.keras")
    record = read_record(folder)
    assert record is not None
    record["outcome"]["seconds"] += 1
    write_record(folder, record)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def listed(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return {(entry["variant"], entry["version"]): entry for entry in manifest["models"]}


def keras_answers(net: keras.Model, images: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(net(images.astype(np.float32), training=False))


# The graph


def test_the_interface_is_bytes_in_and_probabilities_out(graph: onnx.ModelProto) -> None:
    (images,), (probabilities,) = graph.graph.input, graph.graph.output
    assert (images.name, probabilities.name) == ("images", "probabilities")
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert probabilities.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    for value, shape in ((images, [32, 32, 3]), (probabilities, [100])):
        batch, *rest = value.type.tensor_type.shape.dim
        assert not batch.HasField("dim_value")  # any number of pictures
        assert [each.dim_value for each in rest] == shape


def test_the_graph_holds_nothing_of_training(graph: onnx.ModelProto) -> None:
    assert {each.domain for each in graph.opset_import} <= {"", "ai.onnx.ml"}
    assert next(each.version for each in graph.opset_import if each.domain == "") >= 17
    onnx.checker.check_model(graph, full_check=True)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("Conv") == 10
    assert kinds.count("MaxPool") == 4
    assert not {kind for kind in kinds if kind.startswith("Reduce") or "Random" in kind}
    assert not {"Dropout", "Bernoulli", "Multinomial", "If", "Loop"} & set(kinds)
    for node in graph.graph.node:
        if node.op_type == "BatchNormalization":
            assert not any(each.name == "training_mode" and each.i for each in node.attribute)
            assert len(node.output) == 1  # training mode has the new averages as well


def test_the_graph_computes_the_frozen_net_by_onnxs_own_evaluator(
    graph: onnx.ModelProto, relu_with_bn: Any, dataset: Dataset
) -> None:
    images = dataset.test_images[:3]
    (found,) = ReferenceEvaluator(graph).run(["probabilities"], {"images": images})
    expected = oracle.forward(
        oracle.weights_of(relu_with_bn.frozen), "relu", relu_with_bn.training_mean, images
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(found, keras_answers(relu_with_bn.frozen, images), atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(places=st.lists(st.integers(0, 999), min_size=1, max_size=9), which=st.integers(0, 8))
def test_a_picture_answers_the_same_alone_and_in_a_batch(
    places: list[int], which: int, model: Any, relu_with_bn: Any, dataset: Dataset
) -> None:
    """In Keras, in ONNX Runtime as the service runs it, and across the two."""
    images = dataset.test_images[places]
    place = which % len(places)
    alone = images[place : place + 1]
    kept = keras_answers(relu_with_bn.frozen, images)
    served = model.run(images)
    np.testing.assert_allclose(
        keras_answers(relu_with_bn.frozen, alone)[0], kept[place], rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(model.run(alone)[0], served[place], rtol=0, atol=1e-6)
    np.testing.assert_allclose(served, kept, rtol=0, atol=1e-5)


def test_a_graph_traced_in_training_mode_is_refused_and_nothing_published(
    relu_with_bn: Any, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.export, "convert", partial(convert, training=True))
    with pytest.raises(ExportError, match="the graph is in training mode: it holds"):
        export(relu_with_bn.folder, dataset, tmp_path / "models")
    assert contents(tmp_path) == {}


def test_batch_statistics_in_a_graph_are_refused_without_dropout_too() -> None:
    net = build(VARIANTS["relu_with_bn"], 120.0, seed=0, dropout=0.0)
    with pytest.raises(ExportError, match=r"it holds .*(ReduceMean|training_mode)"):
        convert(net, training=True)


def test_dropout_in_a_graph_is_refused_without_normalization_too() -> None:
    net = build(VARIANTS["relu_without_bn"], 120.0, seed=0)
    with pytest.raises(ExportError, match="the graph is in training mode"):
        convert(net, training=True)


def node_graph(kind: str, opset: int = 17, domain: str = "", **attributes: Any) -> onnx.ModelProto:
    names = {"BatchNormalization": ["x", "s", "s", "s", "s"]}.get(kind, ["x"])
    outputs = ["y", "m", "v"] if attributes.get("training_mode") else ["y"]
    node = onnx.helper.make_node(kind, names, outputs, domain=domain, **attributes)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])
    s = onnx.numpy_helper.from_array(np.ones(3, np.float32), "s")
    imports = [onnx.helper.make_opsetid("", opset)]
    if domain:
        imports.append(onnx.helper.make_opsetid(domain, 1))
    graph = onnx.helper.make_graph([node], "one", [x], [y], [s])
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (node_graph("ReduceMean"), "it holds ReduceMean"),
        (node_graph("Dropout"), "it holds Dropout"),
        (node_graph("RandomUniformLike"), "it holds RandomUniformLike"),
        (node_graph("Bernoulli"), "it holds Bernoulli"),
        (
            node_graph("BatchNormalization", training_mode=1),
            "it holds BatchNormalization with training_mode",
        ),
        (node_graph("Anything", domain="somebody"), "Anything of domain 'somebody'"),
        (node_graph("Relu", opset=16), "of opset 16, not 17 or above"),
        (node_graph("NoSuchOperator"), "not valid ONNX"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_graph_unfit_to_serve_is_refused_by_what_it_holds(
    bad: onnx.ModelProto, says: str
) -> None:
    with pytest.raises(ExportError, match=says):
        check_inference_graph(bad)


@pytest.mark.parametrize("kind", ["Relu", "BatchNormalization"])
def test_a_graph_in_inference_mode_is_not_refused(kind: str) -> None:
    check_inference_graph(node_graph(kind))


# The card and the files


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


# Versions


def test_a_net_that_is_published_already_is_left_as_it_is(
    own: Path, relu_with_bn: Any, dataset: Dataset
) -> None:
    before = contents(own)
    said: list[str] = []
    entry = export(relu_with_bn.folder, dataset, own, say=said.append)
    assert entry == Entry(**listed(own)["relu_with_bn", 1])
    assert said == ["relu_with_bn: version 1 is this very net, nothing to publish"]
    assert contents(own) == before


def test_another_net_becomes_the_next_version(own: Path, nudged: Path, dataset: Dataset) -> None:
    before = contents(own)
    entry = export(nudged, dataset, own)
    assert (entry.version, entry.file) == (2, "relu_with_bn/2/model.onnx")
    assert set(listed(own)) == {("relu_with_bn", 1), ("relu_with_bn", 2)}
    assert contents(own)["relu_with_bn/1/model.onnx"] == before["relu_with_bn/1/model.onnx"]
    served = load_repository(own).get("relu_with_bn")
    assert served.version == 2
    net = keras.saving.load_model(nudged / "frozen.keras", compile=False)
    images = dataset.test_images[:5]
    np.testing.assert_allclose(served.run(images), keras_answers(net, images), atol=1e-5)


def test_another_net_takes_the_last_ones_place_if_asked_to(
    own: Path, nudged: Path, dataset: Dataset
) -> None:
    before = contents(own)
    entry = export(nudged, dataset, own, replace_last=True)
    assert entry.version == 1
    assert set(contents(own)) == set(before)
    assert contents(own)["relu_with_bn/1/model.onnx"] != before["relu_with_bn/1/model.onnx"]
    assert load_repository(own).get("relu_with_bn").sha256 == entry.sha256


def test_other_variants_stay_as_they_are(own: Path, relu_without_bn: Any, dataset: Dataset) -> None:
    before, entries = contents(own), listed(own)
    entry = export(relu_without_bn.folder, dataset, own, default="relu_without_bn")
    assert (entry.variant, entry.version) == ("relu_without_bn", 1)
    after = contents(own)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    assert listed(own)["relu_with_bn", 1] == entries["relu_with_bn", 1]
    repository = load_repository(own)
    assert repository.default == "relu_without_bn"
    assert repository.get().card.frozen.kind == "none"
    assert repository.get().card.normalization is None
    assert repository.get("relu_with_bn").card.normalization == "batch"


# What is not published


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
