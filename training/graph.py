"""The ONNX graph of a net in inference mode, and the checks that it is one.

In: a frozen Keras net. Out: a graph that takes ``images``, uint8 [batch, 32, 32, 3] RGB, and
answers ``probabilities``, float32 [batch, classes]; it holds no training-mode operator, at any
depth, and gives a picture the same answer alone and in a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import keras
import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference

from service.models.repository import BATCH_TOLERANCE
from service.models.runtime import DEFAULT_OPTIONS, create_session
from training.dataset import IMAGE_SHAPE
from training.repository import ExportError

OPSET = 17
OF_TRAINING = {"Dropout", "Bernoulli", "Multinomial"}
MOMENTS = {"ReduceMean", "ReduceSumSquare"}  # over pictures; over one's own they are no harm


def refuse_other_backends() -> None:
    """Raise ``ExportError`` unless Keras runs on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"exporting goes through TensorFlow, but Keras runs on {keras.backend.backend()}: "
            "run it with KERAS_BACKEND=tensorflow"
        )


def convert(net: keras.Model, *, training: bool = False) -> onnx.ModelProto:
    """Convert ``net`` to an ONNX graph in inference mode and check that it is one.

    ``training=True`` traces the graph as it would be in training, which the checks refuse: it is
    there to show that they do. Raises ``ExportError``.
    """
    refuse_other_backends()
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *IMAGE_SHAPE), tf.uint8, name="images")]

    # TensorFlow has no types.
    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def answer(images: Any) -> dict[str, Any]:
        return {"probabilities": net(tf.cast(images, tf.float32), training=training)}

    # What the converter has to say about nodes that it cannot convert, the check says better.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    graph, _ = tf2onnx.convert.from_function(answer, input_signature=signature, opset=OPSET)
    take_means_by_axis(graph)
    check_inference_graph(graph)
    check_alone_and_together(graph)
    return graph


def take_means_by_axis(graph: onnx.ModelProto) -> None:
    """Have ``graph`` take a mean over several axes one axis after another: the mean of means.

    ONNX Runtime adds up one number after another. Over a group of a picture's channels, 3,072
    numbers, that is off by up to 3e-5 of a variance, ten times as much as in Keras, and the parity
    of a net may break by it. An axis at a time it adds up 100 numbers at most.
    """
    nodes = []
    for node in graph.graph.node:
        given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        axes = given.get("axes", [])
        if node.op_type != "ReduceMean" or len(axes) < 2 or not given.get("keepdims", 1):
            nodes.append(node)
            continue
        names = [
            node.input[0],
            *(f"{node.output[0]}_over_{axis}" for axis in axes[:-1]),
            node.output[0],
        ]
        nodes.extend(
            onnx.helper.make_node("ReduceMean", [before], [after], name=after, axes=[axis])
            for axis, before, after in zip(axes, names, names[1:], strict=False)
        )
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def check_inference_graph(graph: onnx.ModelProto) -> None:
    """Raise ``ExportError`` where ``graph`` holds anything of training mode, or is no valid ONNX.

    Of training mode are: batch statistics (a mean or variance over pictures), batch normalization
    in training mode, dropout, and every random operator.
    """
    faults = []
    over_pictures = _over_pictures(graph)
    for node in nodes_of(graph):
        attributes = {each.name: each for each in node.attribute}
        if node.domain not in ("", "ai.onnx"):
            faults.append(f"{node.op_type} of domain {node.domain!r}, which is not ONNX's")
        elif "training_mode" in attributes and attributes["training_mode"].i:
            faults.append(f"{node.op_type} with training_mode")
        elif node.op_type in MOMENTS and over_pictures(node):
            faults.append(f"{node.op_type} over pictures")
        elif node.op_type in OF_TRAINING or "Random" in node.op_type:
            faults.append(node.op_type)
    if faults:
        raise ExportError(
            f"the graph is in training mode: it holds {', '.join(sorted(set(faults)))}; "
            "export the frozen net in inference mode"
        )
    opsets = {each.domain: each.version for each in graph.opset_import}
    if opsets.get("", 0) < OPSET:
        raise ExportError(f"the graph is of opset {opsets.get('', 0)}, not {OPSET} or above")
    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the checker raises several unrelated types
        raise ExportError(f"the converter made a graph that is not valid ONNX: {error}") from error


def _over_pictures(graph: onnx.ModelProto) -> Callable[[onnx.NodeProto], bool]:
    """A function that tells of a reduction in ``graph`` whether it goes over the pictures of a
    batch, axis 0. A reduction whose axes cannot be told from the graph counts as one that does.
    """
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}

    @cache
    def ranks() -> dict[str, int]:
        inferred = onnx.shape_inference.infer_shapes(graph).graph
        values = (*inferred.input, *inferred.value_info)
        return {
            each.name: len(each.type.tensor_type.shape.dim)
            for each in values
            if each.type.tensor_type.HasField("shape")
        }

    def over_pictures(node: onnx.NodeProto) -> bool:
        axes = next((list(each.ints) for each in node.attribute if each.name == "axes"), None)
        if axes is None and len(node.input) > 1:  # as from opset 18 on
            axes = constants.get(node.input[1], np.array([])).tolist()
        if not axes:  # all of them, or nobody knows which
            return True
        if min(axes) >= 0:
            return 0 in axes
        rank = ranks().get(node.input[0])
        return rank is None or any(axis in (0, -rank) for axis in axes)

    return over_pictures


def nodes_of(graph: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of ``graph``, those in branches, loop bodies and local functions too."""
    yield from _nodes(graph.graph.node)
    for function in graph.functions:
        yield from _nodes(function.node)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner.node)


def check_alone_and_together(graph: onnx.ModelProto) -> None:
    """Raise ``ExportError`` where an answer depends on the other pictures in the batch.

    Batch statistics can be written with operators that inference has too, sums and products; what
    they compute gives them away. The pictures are noise, the tolerance is the service's own.
    """
    noise = np.random.default_rng(0).integers(0, 256, (8, *IMAGE_SHAPE), dtype=np.uint8)
    session = create_session(graph.SerializeToString(), DEFAULT_OPTIONS)

    def answers(images: Any) -> Any:
        return session.run(["probabilities"], {"images": images})[0]

    alone = np.concatenate([answers(noise[i : i + 1]) for i in range(len(noise))])
    moved = float(np.abs(answers(noise) - alone).max())
    if not moved <= BATCH_TOLERANCE:
        raise ExportError(
            f"the graph's answer to a picture changes by {moved:.2g} with the others in its batch, "
            "as in training mode; export the frozen net in inference mode"
        )
