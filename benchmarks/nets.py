"""The study's four nets at their real size with random weights, as a model repository.

In: a folder. Out: the folder, with the layout and the graphs that ``make export`` writes, so that
speed and memory can be measured before any net has been trained. Random weights cost what trained
ones cost; their answers mean nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.card import (
    CARD_KEY,
    DatasetCard,
    Evaluation,
    Frozen,
    FrozenLayer,
    ModelCard,
    Parity,
    Score,
    Training,
)

VARIANTS = ("sigmoid_without_bn", "sigmoid_with_bn", "relu_without_bn", "relu_with_bn")
CHANNELS = (60, 60, 60, 60, 100)
CLASSES = 100
MEAN = 121.936


def write_nets(folder: Path) -> Path:
    """Write the repository under ``folder``, one version of each variant; returns ``folder``."""
    entries = []
    for seed, variant in enumerate(VARIANTS):
        file = f"{variant}/1/model.onnx"
        data = make_net(variant, seed)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
        entries.append(
            {
                "variant": variant,
                "version": 1,
                "file": file,
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
                "recipe": "random",
                "dataset": "none",
                "top1": 0.01,
            }
        )
    manifest = {"schema_version": 1, "default": VARIANTS[-1], "models": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def make_net(variant: str, seed: int) -> bytes:
    """One net as tf2onnx leaves it: batch normalization as Mul and Add, a Transpose at each end."""
    generator = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {
        "minus_mean": np.array(-MEAN, np.float32),
        "scale": np.array(1 / 64, np.float32),
        "flat": np.array([-1, 4 * CHANNELS[-1]], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "minus_mean"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    value, channels = "planes", 3
    for block, width in enumerate(CHANNELS, 1):
        for step in (1, 2):
            name = f"block{block}_conv{step}"
            bound = np.sqrt(6 / (9 * (channels + width)))  # Glorot-uniform
            weights[f"{name}_w"] = generator.uniform(-bound, bound, (width, channels, 3, 3))
            weights[f"{name}_b"] = np.zeros(width)
            made = [
                helper.make_node(
                    "Conv", [value, f"{name}_w", f"{name}_b"], [name], pads=[1, 1, 1, 1]
                )
            ]
            if variant.endswith("_with_bn"):
                weights[f"{name}_gain"] = generator.uniform(0.5, 1.5, (1, width, 1, 1))
                weights[f"{name}_shift"] = generator.normal(0, 0.1, (1, width, 1, 1))
                made += [
                    helper.make_node("Mul", [name, f"{name}_gain"], [f"{name}_scaled"]),
                    helper.make_node("Add", [f"{name}_scaled", f"{name}_shift"], [f"{name}_bn"]),
                ]
            activation = "Relu" if variant.startswith("relu") else "Sigmoid"
            made += [helper.make_node(activation, [made[-1].output[0]], [f"{name}_out"])]
            nodes += made
            value, channels = f"{name}_out", width
        if block < len(CHANNELS):
            nodes.append(_pool(value, f"pool{block}"))
            value = f"pool{block}"
    weights["dense_w"] = generator.uniform(-0.1, 0.1, (4 * channels, CLASSES))
    weights["dense_b"] = np.zeros(CLASSES)
    nodes += [
        helper.make_node("Transpose", [value], ["rows"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["rows", "flat"], ["features"]),
        helper.make_node("MatMul", ["features", "dense_w"], ["product"]),
        helper.make_node("Add", ["product", "dense_b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        variant,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES])],
        [
            numpy_helper.from_array(
                array if array.dtype == np.int64 else array.astype(np.float32), name
            )
            for name, array in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {CARD_KEY: make_card(variant, seed).to_json()})
    data: bytes = model.SerializeToString()
    return data


def make_card(variant: str, seed: int) -> ModelCard:
    """A model card that says that nothing was learnt."""
    layers = tuple(
        FrozenLayer(f"block{block}_norm{step}", width, (0.0,) * 5, (1.0,) * 5)
        for block, width in enumerate(CHANNELS, 1)
        for step in (1, 2)
    )
    with_bn = variant.endswith("_with_bn")
    return ModelCard(
        schema_version=1,
        variant=variant,
        activation=variant.split("_")[0],
        normalization="batch" if with_bn else None,
        recipe="random",
        seed=seed,
        training=Training(1, 1, 80, 1e-3, 80, 0.0, "none", "none"),
        dataset=DatasetCard("none", "0" * 64, 1, 1),
        classes=tuple(f"class {i}" for i in range(CLASSES)),
        superclasses=tuple(f"superclass {i // 5}" for i in range(CLASSES)),
        training_mean=MEAN,
        frozen=Frozen("population", 80, 1, layers if with_bn else ()),
        evaluation=Evaluation("test", 1, Score(0.01, 0.05, 4.6), Score(0.01, 0.05, 4.6)),
        parity=Parity(1000, 1e-7, 1.0, "CPUExecutionProvider"),
        tools={"onnx": "random weights"},
        created="2026-01-01T00:00:00+00:00",
    )


def _pool(value: str, name: str) -> NodeProto:
    return helper.make_node("MaxPool", [value], [name], kernel_shape=[2, 2], strides=[2, 2])
