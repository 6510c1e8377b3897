"""Real models for the tests: tiny ONNX graphs in a real repository, run by ONNX Runtime.

A graph is softmax(flatten(images / 255) @ weights), its weights drawn from the variant's own
seed; ``oracle`` computes the same in float64 NumPy.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service.models.card import (
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

VARIANTS = ("relu_with_bn", "sigmoid_without_bn")


def make_card(variant: str) -> ModelCard:
    return ModelCard(
        schema_version=1,
        variant=variant,
        activation=variant.split("_")[0],
        normalization="batch" if variant.endswith("with_bn") else None,
        recipe="quick",
        seed=0,
        training=Training(1, 1, 80, 1e-3, 80, 0.5, "a test", "tensorflow"),
        dataset=DatasetCard("synthetic", "0" * 64, 100, 100),
        classes=tuple(f"class {i}" for i in range(100)),
        superclasses=tuple(f"superclass {i // 5}" for i in range(100)),
        training_mean=121.936,
        frozen=Frozen("population", 80, 1, (FrozenLayer("bn", 60, (0.0,) * 5, (1.0,) * 5),)),
        evaluation=Evaluation("test", 100, Score(0.5, 0.8, 1.5), Score(0.6, 0.9, 1.25)),
        parity=Parity(100, 1e-7, 1.0, "CPUExecutionProvider"),
        tools={"keras": "3"},
        created="2026-01-01T00:00:00+00:00",
    )


def weights(variant: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(variant.encode()).digest()[:4])
    return np.random.default_rng(seed).normal(0, 0.1, (3072, 100)).astype(np.float32)


def oracle(variant: str, images: np.ndarray) -> np.ndarray:
    """The probabilities in float64: uint8 [N, 32, 32, 3] -> float64 [N, 100]."""
    logits = images.reshape(len(images), -1) / 255.0 @ weights(variant).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def make_model(
    variant: str,
    card: str | None,
    *,
    classes: int = 100,
    input_name: str = "images",
    input_type: int = TensorProto.UINT8,
    batch: str | int = "batch",
    batch_statistics: bool = False,
    laps: int = 0,
) -> bytes:
    """The ONNX file; every keyword is a way to get its interface or its graph wrong.

    But for ``laps``: so many convolutions are computed besides, about a millisecond each, which
    change nothing.
    """
    nodes = [
        helper.make_node("Cast", [input_name], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["raw"]),
        helper.make_node("ReduceMean", ["raw"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub" if batch_statistics else "Identity", ["raw"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    if batch_statistics:
        nodes[5].input.append("mean")
    else:
        del nodes[4]
    if laps:
        nodes[-2:] = [*_convolutions(laps), nodes[-2], nodes[-1]]
        nodes[-2].op_type, nodes[-2].input[:] = "Add", ["raw", "nothing"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, input_type, [batch, 32, 32, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, classes])],
        [
            numpy_helper.from_array(np.array(255, np.float32), "scale"),
            numpy_helper.from_array(np.array([-1, 3072], np.int64), "flat"),
            numpy_helper.from_array(weights(variant)[:, :classes], "weights"),
            *(numpy_helper.from_array(array, name) for name, array in _KERNELS.items() if laps),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if card is not None:
        helper.set_model_props(model, {CARD_KEY: card})
    onnx.checker.check_model(model)
    return model.SerializeToString()


_KERNELS = {
    "first": np.zeros((64, 3, 3, 3), np.float32),
    "kernel": np.zeros((64, 64, 3, 3), np.float32),
    "axes": np.array([1, 2, 3], np.int64),
    "last axis": np.array([1], np.int64),
}


def _convolutions(laps: int) -> list[onnx.NodeProto]:
    """Nodes from ``pixels`` to ``nothing``, which is 0 for every picture, [batch, 1]."""
    names = [f"lap {lap}" for lap in range(laps)]
    return [
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first"], ["start"], pads=[1, 1, 1, 1]),
        *(
            helper.make_node("Conv", [before, "kernel"], [after], pads=[1, 1, 1, 1])
            for before, after in zip(["start", *names], names, strict=False)
        ),
        helper.make_node("ReduceSum", [names[-1], "axes"], ["sums"], keepdims=0),
        helper.make_node("Unsqueeze", ["sums", "last axis"], ["nothing"]),
    ]


def write_repository(folder: Path, files: dict[tuple[str, int], bytes], default: str) -> Path:
    """Write a repository as the exporter does: one file for every (variant, version)."""
    entries = []
    for (variant, version), data in files.items():
        file = f"{variant}/{version}/model.onnx"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
        entries.append(
            {
                "variant": variant,
                "version": version,
                "file": file,
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
                "recipe": "quick",
                "dataset": "synthetic",
                "top1": 0.6,
            }
        )
    manifest = {"schema_version": 1, "default": default, "models": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """A picture as the bytes of a file."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
