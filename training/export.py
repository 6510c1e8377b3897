"""Export a frozen net to the model repository: one ONNX graph, checked before it is published.

In: a trial's ``frozen.keras`` and its record. Out:

    exported_models/manifest.json                   written last, in one step
    exported_models/<variant>/config.pbtxt          so that NVIDIA Triton serves the same folder
    exported_models/<variant>/labels.txt
    exported_models/<variant>/<version>/model.onnx

The graph (``training.graph``) takes ``images``, uint8 [batch, 32, 32, 3] RGB, and answers
``probabilities``, float32 [batch, 100]. Its metadata hold the model card
(``service.models.card``). Parity is measured on the file as the service's own loader runs it; a
graph that fails it, or that still holds anything of training mode, is not published.
``training.repository`` says in which order the files change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np
import onnx

from service.models.card import CARD_KEY, ModelCard, Parity
from service.models.manifest import Entry, Manifest
from service.models.model import Model
from service.models.repository import WAY_OUT, ModelError, load_model
from training.card import card_of
from training.dataset import Dataset, Images
from training.freeze import read_frozen
from training.graph import convert
from training.parity import measure_parity
from training.repository import (
    FILE,
    ExportError,
    held,
    is_as_listed,
    listed,
    make_folder,
    publish,
    read_manifest,
    refuse_other_data,
    refuse_unknown_default,
    settle,
    with_entry,
    write_manifest,
)
from training.trial import check_data

PARITY_IMAGES = 2_000


def export(
    folder: Path,
    dataset: Dataset,
    models: Path,
    *,
    replace_last: bool = False,
    default: str | None = None,
    promote: bool = True,
    say: Callable[[str], None] = print,
) -> Entry:
    """Publish the frozen trial in ``folder`` under ``models`` and return its manifest entry.

    A net that no listed version holds becomes the next version, and that version answers where none
    is asked for, unless ``promote`` is false: then whichever did before goes on. With
    ``replace_last`` it takes the place of its recipe's newest version, where there is one, and what
    that answered, it answers. A net that is published already is left as it is, whichever version
    it is. A version whose file is not as listed gives its place to a net of its recipe. Raises
    ``TrialError`` where the trial is not frozen, ``ExportError`` where the graph or its parity is
    not as promised, or the repository cannot take it.
    """
    record, net = read_frozen(folder)
    check_data(folder, record, dataset)
    card = card_of(record, dataset)
    make_folder(models)
    _refuse(models, card, default)  # before the proof, which takes long
    pictures = dataset.test_images[:PARITY_IMAGES]
    proved = prove(net, card, pictures)
    with held(models, say):
        settle(models)
        _refuse(models, card, default)  # another export may have been here since
        old = read_manifest(models)
        own = [entry for entry in listed(models) if entry.variant == card.variant]
        same = find_same(models, own, card, proved.model, pictures)
        if same and is_as_listed(models, same):
            entry = same
            write_manifest(models, old, with_entry(old, entry, default))
        else:
            version = same.version if same else _place(models, own, card.recipe, replace_last)
            entry = entry_of(proved, version)
            publish(models, entry, proved.data, card.classes, default, promote=promote, say=say)
        new = read_manifest(models)
    if entry is same:
        done = f"version {entry.version} is this very net, nothing to publish"
    else:
        parity = proved.parity
        done = (
            f"version {entry.version}, {entry.bytes:,} bytes, parity {parity.max_abs_error:.1e} on "
            f"{parity.images:,} pictures (Keras' own rounding {parity.float32_error:.1e}; "
            f"{parity.provider})"
        )
    _say_done(models, entry, done, old, new, say)
    return entry


@dataclass(frozen=True)
class Proved:
    """A net's file, which the service would load and which answers as Keras does."""

    card: ModelCard  # as it stands in the file, parity included
    parity: Parity
    model: Model
    data: bytes


def prove(net: keras.Model, card: ModelCard, pictures: Images) -> Proved:
    """Make the file of ``net`` and hold it against Keras on uint8 ``pictures`` [N, 32, 32, 3].

    ``card`` is without its parity. All of this happens in a folder of its own: until it is done,
    the repository is as it was. Raises ``ExportError``.
    """
    graph = convert(net)
    with tempfile.TemporaryDirectory() as passing:
        path = Path(passing) / FILE
        write_model(graph, card, path)
        parity = measure_parity(net, _load(path, card), pictures)
        card = replace(card, parity=parity)
        write_model(graph, card, path)
        return Proved(card, parity, _load(path, card), path.read_bytes())


def entry_of(proved: Proved, version: int) -> Entry:
    """What the manifest says of the net once it is that version of its variant."""
    card = proved.card
    return Entry(
        variant=card.variant,
        version=version,
        file=f"{card.variant}/{version}/{FILE}",
        sha256=sha256(proved.data).hexdigest(),
        bytes=len(proved.data),
        recipe=card.recipe,
        dataset=card.dataset.name,
        top1=card.evaluation.after_freeze.top1,
    )


def _place(models: Path, own: list[Entry], recipe: str, replace_last: bool) -> int:
    """The version that a net of ``recipe`` becomes, beside the entries of its variant, ``own``."""
    of_recipe = [each for each in own if each.recipe == recipe]
    lost = [each for each in of_recipe if not is_as_listed(models, each)]
    places = of_recipe if replace_last else lost
    following = max((each.version for each in own), default=0) + 1
    return max((each.version for each in places), default=following)


def _say_done(
    models: Path,
    entry: Entry,
    done: str,
    old: Manifest | None,
    new: Manifest | None,
    say: Callable[[str], None],
) -> None:
    """Say what was ``done`` with ``entry``, and what the manifest changes in who answers."""
    variant = entry.variant
    before, now = (each.find(variant) if each else None for each in (old, new))
    if now and now.version != entry.version:
        done += (
            f"; version {now.version} answers where none is asked for, until "
            f"{_promotion(models, entry)}"
        )
    say(f"{variant}: {done}")
    if before and now and before.version != now.version:
        say(
            f"{variant}: version {now.version} answers now where none is asked for "
            f"({now.top1:.2%} of the test pictures), instead of version {before.version} "
            f"({before.top1:.2%}); {_promotion(models, before)} takes that back"
        )
    if old and new and old.default != new.default:
        say(f"{models}: {new.default} answers where no variant is asked for, not {old.default}")


def _promotion(models: Path, entry: Entry) -> str:
    """The command that has ``entry`` answer, of this repository and no other."""
    return f'"python -m training promote {entry.variant} {entry.version} --models {models}"'


def _refuse(models: Path, card: ModelCard, default: str | None) -> None:
    refuse_other_data(models, card.dataset.name)
    refuse_unknown_default(models, default, card.variant)


def _load(path: Path, card: ModelCard) -> Model:
    """Load a file as the service does. Raises ``ExportError`` where the service would refuse."""
    try:
        return load_model(path, sha256=None, name=card.variant)
    except ModelError as error:
        reason = str(error).removesuffix(f"; {WAY_OUT}")
        raise ExportError(f"the service would refuse the file: {reason}") from error


def find_same(
    models: Path, entries: list[Entry], card: ModelCard, model: Model, images: Images
) -> Entry | None:
    """The newest entry whose file holds the trial of ``card`` and answers just as ``model``.

    ``entries`` are those of its variant, the oldest first. Raises ``ExportError`` where one is of
    other pictures or classes under the same name.
    """
    few = images[:50]
    for entry in reversed(entries):
        try:
            other = load_model(models / entry.file, sha256=None)
        except ModelError:
            continue
        if (other.card.dataset.checksum, other.card.classes) != (
            card.dataset.checksum,
            card.classes,
        ):
            raise ExportError(
                f"{models / entry.file}: is of other pictures or classes of {card.dataset.name} "
                f"than this net (checksum {other.card.dataset.checksum[:12]}…, not "
                f"{card.dataset.checksum[:12]}…); give another --models folder"
            )
        if other.card.training == card.training and np.array_equal(other.run(few), model.run(few)):
            return entry
    return None


def write_model(graph: onnx.ModelProto, card: ModelCard, path: Path) -> None:
    """Write ``graph`` with ``card`` in its metadata to ``path``. Raises ``ExportError``."""
    onnx.helper.set_model_props(graph, {CARD_KEY: card.to_json()})
    try:
        path.write_bytes(graph.SerializeToString(deterministic=True))
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be written ({error.strerror or error}); make room there, or have "
            "TMPDIR name another folder"
        ) from error
