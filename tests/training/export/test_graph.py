"""The exported graph: it is the frozen net, and holds nothing of training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import training.export
import training.nets
from service.models.runtime import DEFAULT_OPTIONS, create_session
from tests.training import oracle
from tests.training.export.published import contents, keras_answers
from training.dataset import Dataset
from training.export import export
from training.graph import check_inference_graph, convert, take_means_by_axis
from training.mixed import MixedBatchNormalization
from training.nets import build
from training.parity import in_float64
from training.recipes import RECIPES
from training.repository import ExportError
from training.variants import VARIANTS, Variant

ARTICLE = RECIPES["article"]
WITHOUT_DROPOUT = replace(ARTICLE, dropout=0.0)


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
    assert "BatchNormalization" not in kinds  # it is folded into the convolutions


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


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_means_over_a_whole_picture_round_no_more_than_in_keras(kind: str) -> None:
    """Of a net that is as sure of its answers as a trained one."""
    net = build(ARTICLE, Variant("other", "relu", kind, behind_activation=True), 121.0, seed=3)
    logits = net.get_layer("logits")
    logits.kernel.assign(6 * logits.kernel)
    images = np.random.default_rng(3).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    session = create_session(convert(net).SerializeToString(), DEFAULT_OPTIONS)
    (found,) = session.run(["probabilities"], {"images": images})
    exact = keras_answers(in_float64(net), images)
    rounding = np.abs(keras_answers(net, images) - exact).max()
    np.testing.assert_allclose(found, exact, rtol=0, atol=3 * rounding)


@pytest.mark.parametrize(("keepdims", "nodes"), [(1, 3), (0, 1)])
def test_a_mean_over_several_axes_stays_the_mean(keepdims: int, nodes: int) -> None:
    """Taken one axis after another where the axes stay; where they go, it is left as it is."""
    node = onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, -2, 3], keepdims=keepdims)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4, 5, 6])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "one", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    take_means_by_axis(model)
    assert len(model.graph.node) == nodes
    values = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    (found,) = ReferenceEvaluator(model).run(["y"], {"x": values})
    expected = values.astype(np.float64).mean(axis=(1, 2, 3), keepdims=bool(keepdims))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_graph_traced_in_training_mode_is_refused_and_nothing_published(
    relu_with_bn: Any, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.export, "convert", partial(convert, training=True))
    with pytest.raises(ExportError, match="the graph is in training mode: it holds"):
        export(relu_with_bn.folder, dataset, tmp_path / "models")
    assert contents(tmp_path) == {}


def test_batch_statistics_in_a_graph_are_refused_without_dropout_too() -> None:
    net = build(WITHOUT_DROPOUT, VARIANTS["relu_with_bn"], 120.0, seed=0)
    with pytest.raises(ExportError, match=r"it holds .*(ReduceMean|training_mode)"):
        convert(net, training=True)


def test_dropout_in_a_graph_is_refused_without_normalization_too() -> None:
    net = build(ARTICLE, VARIANTS["relu_without_bn"], 120.0, seed=0)
    with pytest.raises(ExportError, match="the graph is in training mode"):
        convert(net, training=True)


def node_graph(kind: str, opset: int = 17, domain: str = "", **attributes: Any) -> onnx.ModelProto:
    names = {"BatchNormalization": ["x", "s", "s", "s", "s"]}.get(kind, ["x"])
    outputs = ["y", "m", "v"] if attributes.get("training_mode") else ["y"]
    node = onnx.helper.make_node(kind, names, outputs, domain=domain, **attributes)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["a", "b"])
    s = onnx.numpy_helper.from_array(np.ones(3, np.float32), "s")
    imports = [onnx.helper.make_opsetid("", opset)]
    if domain:
        imports.append(onnx.helper.make_opsetid(domain, 1))
    graph = onnx.helper.make_graph([node], "one", [x], [y], [s])
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


def reduced_over(axis: int | None) -> onnx.ModelProto:
    """As from opset 18 on, where the axes are an input; None: they are given when it is run."""
    node = onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"])
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["a", "b"])
    axes = onnx.helper.make_tensor_value_info("axes", onnx.TensorProto.INT64, [1])
    fixed = [] if axis is None else [onnx.numpy_helper.from_array(np.array([axis]), "axes")]
    graph = onnx.helper.make_graph([node], "one", [x] if fixed else [x, axes], [y], fixed)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )


def reduced_of_nobody_knows_what() -> onnx.ModelProto:
    """The last axis of a tensor whose number of axes cannot be told: the first, if it has one."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, ["axes"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    nodes = [
        onnx.helper.make_node("Reshape", ["x", "shape"], ["r"]),
        onnx.helper.make_node("ReduceMean", ["r"], ["y"], axes=[-1]),
    ]
    graph = onnx.helper.make_graph(nodes, "one", [x, shape], [y])
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (node_graph("ReduceMean"), "it holds ReduceMean over pictures"),
        (node_graph("ReduceMean", axes=[0]), "it holds ReduceMean over pictures"),
        (node_graph("ReduceMean", axes=[1, -2]), "it holds ReduceMean over pictures"),
        (node_graph("ReduceSumSquare", axes=[1, 0]), "it holds ReduceSumSquare over pictures"),
        (reduced_over(0), "it holds ReduceMean over pictures"),
        (reduced_over(None), "it holds ReduceMean over pictures"),  # it may be
        (reduced_of_nobody_knows_what(), "it holds ReduceMean over pictures"),
        (node_graph("Dropout"), "it holds Dropout"),
        (node_graph("RandomUniformLike"), "it holds RandomUniformLike"),
        (node_graph("Bernoulli"), "it holds Bernoulli"),
        (node_graph("Multinomial"), "it holds Multinomial"),
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


def hidden(where: str) -> onnx.ModelProto:
    """A random operator that is not among the graph's own nodes: in a branch, or in a function."""
    outside = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    r = onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, [1])
    random = onnx.helper.make_node("RandomUniform", [], ["r"], shape=[1])
    imports = [onnx.helper.make_opsetid("", 17)]
    functions = []
    branch = onnx.helper.make_graph([random], "branch", [], [r])
    if where == "branch of a branch":
        inner = onnx.helper.make_node("If", ["c"], ["r"], then_branch=branch, else_branch=branch)
        branch = onnx.helper.make_graph([inner], "outer", [], [r])
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    if where == "one of many bodies":
        node = onnx.helper.make_node("Many", [], ["y"], bodies=[branch])
    if where == "function":
        functions = [onnx.helper.make_function("ai.onnx", "Fun", [], ["r"], [random], imports)]
        node = onnx.helper.make_node("Fun", [], ["y"], domain="ai.onnx")
    graph = onnx.helper.make_graph([node], "one", [outside], [y])
    return onnx.helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)


@pytest.mark.parametrize(
    "where", ["branch", "branch of a branch", "one of many bodies", "function"]
)
def test_what_hides_inside_the_graph_is_found_too(where: str) -> None:
    with pytest.raises(ExportError, match="training mode: it holds RandomUniform"):
        check_inference_graph(hidden(where))


def test_batch_statistics_of_sums_and_products_are_refused_by_what_they_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The layer that fits in bfloat16 takes its moments by a product: no operator tells."""
    monkeypatch.setattr(
        training.nets,
        "_normalization",
        lambda _, name, __: MixedBatchNormalization(epsilon=1e-3, name=name, dtype="float32"),
    )
    net = build(WITHOUT_DROPOUT, VARIANTS["relu_with_bn"], 120.0, seed=0)
    with pytest.raises(ExportError, match=r"answer to a picture changes by .* with the others"):
        convert(net, training=True)


@pytest.mark.parametrize("kind", ["Relu", "BatchNormalization"])
def test_a_graph_in_inference_mode_is_not_refused(kind: str) -> None:
    check_inference_graph(node_graph(kind))


@pytest.mark.parametrize(
    "good",
    [node_graph("ReduceMean", axes=[1]), node_graph("ReduceMean", axes=[-1]), reduced_over(1)],
)
def test_a_mean_over_what_is_a_pictures_own_is_not_refused(good: onnx.ModelProto) -> None:
    check_inference_graph(good)
