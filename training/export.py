"""Export a frozen net to the model repository: one ONNX graph, proved before it is published.

In: a trial's ``frozen.keras`` and its record. Out:

    exported_models/manifest.json                   written last, in one step
    exported_models/<variant>/config.pbtxt          so that NVIDIA Triton serves the same folder
    exported_models/<variant>/labels.txt
    exported_models/<variant>/<version>/model.onnx

The graph takes ``images``, uint8 [batch, 32, 32, 3] RGB, and answers ``probabilities``, float32
[batch, 100]. Its metadata hold the model card (``service.card``). Parity is measured on the file as
the service's own loader runs it; a graph that fails it, or that still holds anything of training
mode, is not published.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx

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
from service.manifest import MANIFEST, Entry, Manifest
from service.model import Model
from service.records import RecordError
from service.repository import ModelError, load_model
from training.dataset import IMAGE_SHAPE, Dataset, Images
from training.environment import versions
from training.evaluate import predict
from training.trial import TrialError, read_record, write_atomically
from training.triton import triton_config

OPSET = 17
PARITY_IMAGES = 2_000
PARITY_TOLERANCE = 1e-5  # largest difference of a probability between Keras and ONNX Runtime
DEFAULT_VARIANT = "relu_with_bn"
OF_TRAINING = {"ReduceMean", "ReduceSumSquare", "Dropout", "Bernoulli", "Multinomial"}


class ExportError(Exception):
    """A net cannot be published; nothing was. The message says why."""


def export(
    folder: Path,
    dataset: Dataset,
    models: Path,
    *,
    replace_last: bool = False,
    default: str | None = None,
    say: Callable[[str], None] = print,
) -> Entry:
    """Publish the frozen trial in ``folder`` under ``models`` and return its manifest entry.

    A net that differs from the newest version becomes the next version, or takes the newest
    one's place with ``replace_last``; a net that is already published is left as it is. Raises
    ``TrialError`` where the trial is not frozen, ``ExportError`` where the graph or its parity is
    not as promised.
    """
    record = read_record(folder)
    if record is None or record["status"] != "frozen":
        raise TrialError(f"{folder}: not frozen yet; run the training and the freeze first")
    if record["configuration"]["dataset"]["checksum"] != dataset.checksum:
        raise TrialError(
            f"{folder}: fitted on other data than this; give the data it was fitted on"
        )
    net = keras.saving.load_model(folder / "frozen.keras", compile=False)
    card = card_of(record, dataset)
    manifest = read_manifest(models)
    listed = {
        entry.version: entry
        for entry in (manifest.models if manifest else ())
        if entry.variant == card.variant
    }
    newest = max(listed, default=0)
    version = max(newest, 1) if replace_last else newest + 1
    pictures = dataset.test_images[:PARITY_IMAGES]
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".export-") as passing:
        path = Path(passing) / "model.onnx"
        graph = convert(net)
        write_model(graph, card, path)
        model = load_model(path, sha256=None, version=version)
        card = replace(card, parity=measure_parity(net, model, pictures))
        if newest and same_net(card, model, models / listed[newest].file, pictures):
            say(f"{card.variant}: version {newest} is this very net, nothing to publish")
            write_manifest(models, manifest, listed[newest], default)
            return listed[newest]
        write_model(graph, card, path)
        digest, size = sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        load_model(path, sha256=digest, version=version)
        entry = Entry(
            variant=card.variant,
            version=version,
            file=f"{card.variant}/{version}/model.onnx",
            sha256=digest,
            bytes=size,
            recipe=card.recipe,
            dataset=card.dataset.name,
            top1=card.evaluation.after_freeze.top1,
        )
        target = models / entry.file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    write_text(models / card.variant / "labels.txt", "".join(f"{c}\n" for c in card.classes))
    write_text(models / card.variant / "config.pbtxt", triton_config(card.variant))
    write_manifest(models, manifest, entry, default)
    assert card.parity is not None  # noqa: S101 - measured above
    say(
        f"{card.variant}: version {version}, {size:,} bytes, parity "
        f"{card.parity.max_abs_error:.1e} on {card.parity.images:,} pictures "
        f"({card.parity.provider})"
    )
    return entry


def convert(net: keras.Model, *, training: bool = False) -> onnx.ModelProto:
    """Convert ``net`` to an ONNX graph in inference mode and check that it is one.

    ``training=True`` traces the graph as it would be in training, which the check refuses: it is
    there to show that it does. Raises ``ExportError``.
    """
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"exporting goes through TensorFlow, but Keras runs on {keras.backend.backend()}: "
            "run it with KERAS_BACKEND=tensorflow"
        )
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *IMAGE_SHAPE), tf.uint8, name="images")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def answer(images: Any) -> dict[str, Any]:
        return {"probabilities": net(tf.cast(images, tf.float32), training=training)}

    # What the converter has to say about nodes that it cannot convert, the check says better.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    graph, _ = tf2onnx.convert.from_function(answer, input_signature=signature, opset=OPSET)
    check_inference_graph(graph)
    return graph


def check_inference_graph(graph: onnx.ModelProto) -> None:
    """Raise ``ExportError`` where ``graph`` holds anything of training mode, or is no valid ONNX.

    Of training mode are: batch statistics (a mean or variance over pictures), batch normalization
    in training mode, dropout, and every random operator.
    """
    faults = []
    for node in graph.graph.node:
        attributes = {each.name: each for each in node.attribute}
        if node.domain not in ("", "ai.onnx"):
            faults.append(f"{node.op_type} of domain {node.domain!r}, which is not ONNX's")
        elif "training_mode" in attributes and attributes["training_mode"].i:
            faults.append(f"{node.op_type} with training_mode")
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


def measure_parity(net: keras.Model, model: Model, images: Images) -> Parity:
    """Compare Keras in inference mode with the exported file as the service runs it.

    ``images`` are uint8 [N, 32, 32, 3], at least 1,000. Raises ``ExportError`` where a probability
    differs by more than ``PARITY_TOLERANCE`` or an answer differs beyond a tie.
    """
    if len(images) < 1000:
        raise ExportError(f"parity wants at least 1,000 pictures, not {len(images):,}")
    expected = predict(net, images)
    found = np.concatenate([model.run(part) for part in np.array_split(images, len(images) // 50)])
    error = float(np.abs(expected - found).max())
    agreement = float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
    if not error <= PARITY_TOLERANCE:
        raise ExportError(
            f"{model.variant}: the exported file differs from Keras by up to {error:.2e} in a "
            f"probability (allowed: {PARITY_TOLERANCE:.0e}) on {len(images):,} pictures and agrees "
            f"on {agreement:.2%} of the answers; nothing was published"
        )
    return Parity(
        images=len(images),
        max_abs_error=error,
        top1_agreement=agreement,
        provider=model.provider,
    )


def same_net(card: ModelCard, model: Model, published: Path, images: Images) -> bool:
    """Whether the file ``published`` holds the trial of ``card`` and answers just as ``model``."""
    try:
        other = load_model(published, sha256=None)
    except ModelError:
        return False
    if (other.card.training, other.card.dataset) != (card.training, card.dataset):
        return False
    few = images[:50]
    return bool(np.array_equal(other.run(few), model.run(few)))


def card_of(record: Mapping[str, Any], dataset: Dataset) -> ModelCard:
    """The model card of a frozen trial, parity still to be measured."""
    configuration, outcome, freeze = record["configuration"], record["outcome"], record["freeze"]
    recipe, variant = configuration["recipe"], configuration["variant"]
    return ModelCard(
        schema_version=1,
        variant=variant["name"],
        activation=variant["activation"],
        normalization=variant["normalization"],
        recipe=recipe["name"],
        seed=configuration["seed"],
        training=Training(
            steps=outcome["steps"],
            epochs=outcome["epochs"],
            batch=recipe["batch"],
            learning_rate=recipe["learning_rate"],
            images=outcome["images"],
            seconds=round(outcome["seconds"], 1),
            hardware=record["hardware"],
            backend=record["backend"],
            precision=recipe.get("precision", "float32"),
        ),
        dataset=DatasetCard(**configuration["dataset"]),
        classes=dataset.class_names,
        superclasses=dataset.superclasses,
        training_mean=configuration["training_mean"],
        frozen=Frozen(
            kind=freeze["kind"],
            images=freeze["images"],
            batches=freeze["batches"],
            layers=tuple(
                FrozenLayer(
                    name=layer["name"],
                    channels=layer["channels"],
                    mean_shift_sd=tuple(round(value, 5) for value in layer["mean_shift_sd"]),
                    variance_ratio=tuple(round(value, 5) for value in layer["variance_ratio"]),
                )
                for layer in freeze["layers"]
            ),
        ),
        evaluation=Evaluation(
            split=freeze["split"],
            images=freeze["split_images"],
            before_freeze=Score(**freeze["before"]),
            after_freeze=Score(**freeze["after"]),
        ),
        parity=None,
        tools=record["versions"] | versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_model(graph: onnx.ModelProto, card: ModelCard, path: Path) -> None:
    """Write ``graph`` with ``card`` in its metadata to ``path``."""
    onnx.helper.set_model_props(graph, {CARD_KEY: card.to_json()})
    path.write_bytes(graph.SerializeToString(deterministic=True))


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    write_atomically(path, lambda passing: passing.write_text(text))


def write_manifest(
    models: Path, manifest: Manifest | None, entry: Entry, default: str | None
) -> None:
    """Put ``entry`` into the manifest, in place of the one of its variant and version.

    Who answers by default is ``default``; where that is None or not there, whoever did before;
    ``DEFAULT_VARIANT`` from when it first appears.
    """
    others = manifest.models if manifest else ()
    key = (entry.variant, entry.version)
    kept = [each for each in others if (each.variant, each.version) != key]
    entries = sorted([*kept, entry], key=lambda each: (each.variant, each.version))
    names = {each.variant for each in entries}
    known = {each.variant for each in others}
    if default not in names:
        default = manifest.default if manifest else entry.variant
        if DEFAULT_VARIANT in names - known:
            default = DEFAULT_VARIANT
    fresh = Manifest(schema_version=1, default=default, models=tuple(entries))
    if fresh != manifest:
        write_text(models / MANIFEST, json.dumps(asdict(fresh), indent=2) + "\n")


def read_manifest(models: Path) -> Manifest | None:
    """The repository's manifest, or None where there is none yet. Raises ``ExportError``."""
    try:
        return Manifest.from_json((models / MANIFEST).read_text())
    except FileNotFoundError:
        return None
    except RecordError as error:
        raise ExportError(f"{models / MANIFEST}: {error}; mend or remove it") from error
