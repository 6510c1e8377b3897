"""The model repository: ``exported_models/`` loaded, checked and warmed up, ready to answer.

    model = load_model(Path("exported_models/relu_with_bn/1/model.onnx"), sha256=None)
    model.run(images)                    # uint8 [N, 32, 32, 3] RGB -> float32 [N, classes]
    model.variant, .version, .file, .card, .sha256, .bytes, .provider

    repository = load_repository(Path("exported_models"), RuntimeOptions(threads=2))
    repository.default                   # the default variant's name
    repository.get(None, None)           # -> Model: default variant, current version
    repository.get("relu_with_bn", 1)    # -> Model; UnknownModelError lists what there is
    repository.each(1)                   # -> {variant: Model}: version 1 of all that have it
    repository.models                    # {variant: {version: Model}}, in the manifest's order

What is checked, on the very bytes that ONNX Runtime gets: their SHA-256 (``None`` skips it, for
the exporter, which has just written them), the model card, the interface (one input ``images``,
uint8 [batch, 32, 32, 3]; one output ``probabilities``, float32 [batch, classes]), and, by running
it, that rows are probabilities and that a picture answers the same alone and in a batch.

Everything that is wrong with a file is a ``ModelError``, which names the file, what is wrong and
the way out. ``service.models.runtime.GpuError`` is raised where a GPU is required and none works.
Sessions of one thread on CPUs survive a fork, others do not. Nothing here knows HTTP.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from service.models.card import CARD_KEY, CardError, ModelCard
from service.models.manifest import MANIFEST, Entry, Manifest
from service.models.model import GPU_BATCH, IMAGE_SHAPE, Model, batch_sizes
from service.models.records import RecordError
from service.models.runtime import (
    CUDA,
    DEFAULT_OPTIONS,
    GpuError,
    RuntimeOptions,
    create_session,
    first_line,
)
from service.settings import Settings

WAY_OUT = 'export it again ("make export"), or take a whole copy of the folder'
MISSING = (
    "there is no such file; set MODELS_DIR to a folder of exported models: "
    '"make export" writes one in a clone, and a container has it in its image or as a volume'
)
ON_A_GPU = (
    "it may have more memory (GPU_MEMORY_LIMIT), or be asked for smaller batches (MAX_BATCH); or "
    "hide the GPU (CUDA_VISIBLE_DEVICES=), and CPUs compute"
)
UNREADABLE = (
    "let the user that the service runs as read it, or set MODELS_DIR to a folder whose "
    "manifest.json and models it may read"
)
BATCH_TOLERANCE = 1e-4
"""A graph in training mode moves by tenths; float32 in another order of summing, by 1e-6."""


class ModelError(Exception):
    """A model file, or the manifest that lists it, cannot be served.

    The message, for whoever runs the service, names the folder as it is configured. ``told`` is
    the same for those who ask the service: of the folder it has the name alone.
    """

    def __init__(self, message: str, told: str | None = None) -> None:
        super().__init__(message)
        self.told = told or message


class UnknownModelError(LookupError):
    """No such variant or version; the message lists those that exist."""


class Repository:
    """The models on offer, by variant and version.

    ``current`` is, of every variant, the version that answers where none is asked for.
    """

    def __init__(self, models: list[Model], default: str, current: Mapping[str, int]) -> None:
        self.default = default
        self.models: dict[str, dict[int, Model]] = {}
        for model in models:
            self.models.setdefault(model.variant, {})[model.version] = model
        self.current = {variant: max(versions) for variant, versions in self.models.items()}
        self.current.update(current)

    def get(self, variant: str | None = None, version: int | None = None) -> Model:
        """The model asked for: None is the default variant, or its current version.

        Raises ``UnknownModelError``, which lists what there is.
        """
        variant = self.default if variant is None else variant
        versions = self.models.get(variant)
        if versions is None:
            raise UnknownModelError(
                f"no variant {variant[:80]!r}: there are {', '.join(self.models)}"
            )
        version = self.current[variant] if version is None else version
        if version not in versions:
            known = ", ".join(str(each) for each in sorted(versions))
            raise UnknownModelError(f"no version {version} of {variant}: there are {known}")
        return versions[version]

    def each(self, version: int | None = None) -> dict[str, Model]:
        """Of every variant that version, or where it is None its current; in the manifest's order.

        Variants without that version are left out. Raises ``UnknownModelError`` where all are.
        """
        if version is None:
            return {variant: self.get(variant) for variant in self.models}
        found = {
            variant: versions[version]
            for variant, versions in self.models.items()
            if version in versions
        }
        if not found:
            known = ", ".join(map(str, self.versions))
            raise UnknownModelError(f"no version {version} of any variant: there are {known}")
        return found

    @property
    def versions(self) -> list[int]:
        """Every version that some variant has, the oldest first."""
        return sorted({version for versions in self.models.values() for version in versions})


def open_repository(settings: Settings) -> Repository:
    """Load the repository that the settings name.

    Raises as ``load_repository`` does.
    """
    options = RuntimeOptions(
        threads=settings.ort_threads,
        max_batch=settings.max_batch,
        require_gpu=settings.require_gpu,
        gpu_memory_limit=settings.gpu_memory_limit,
    )
    return load_repository(settings.models_dir, options)


def load_repository(folder: Path, options: RuntimeOptions = DEFAULT_OPTIONS) -> Repository:
    """Load and check every model that ``folder``'s manifest lists.

    Raises ``ModelError`` for the first that cannot be served, ``GpuError`` where a GPU is
    required and none works.
    """
    name = f"{_real(folder).name}/"
    try:
        return _load(folder, name, options)
    except ModelError as error:
        told = str(error)
        raise ModelError(f"{folder}/{told.removeprefix(name)}", told) from error


def load_model(
    path: Path,
    *,
    sha256: str | None,
    version: int = 1,
    options: RuntimeOptions = DEFAULT_OPTIONS,
    name: str | None = None,
) -> Model:
    """Load, check and warm up one model file; errors call it ``name``, or else ``path``.

    Raises ``ModelError`` and ``GpuError``.
    """
    name = name or str(path)
    data = _read(path, name)
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256:
        raise ModelError(f"{name}: sha256 is {digest}, {MANIFEST} says {sha256}; {WAY_OUT}")
    if not data:
        raise ModelError(f"{name}: the file is empty; {WAY_OUT}")
    try:
        session, sized = _sessions(data, options)
    except GpuError:
        raise
    except Exception as error:  # its bindings raise a dozen unrelated types
        raise ModelError(
            f"{name}: ONNX Runtime cannot load it ({first_line(error)}); {WAY_OUT}"
        ) from None
    model = Model(
        session,
        sized,
        card=_card(session, name),
        file=name,
        version=version,
        sha256=digest,
        size=len(data),
    )
    _check_interface(session, model.card, name)
    _warm_up(model, name)
    return model


def _sessions(data: bytes, options: RuntimeOptions) -> tuple[Any, dict[int, Any]]:
    """A model's session, and on a GPU one for each batch size.

    There a session plans its convolutions for the batch size that it runs, and plans anew whenever
    that changes, which takes longer than the run. Each of these has planned before the first caller
    comes, and its size never changes. Source: ONNX Runtime's CUDA kernel of Conv, UpdateState.
    """
    session = create_session(data, options)
    if session.get_providers()[0] != CUDA:
        return session, {}
    first, *others = batch_sizes(options.max_batch or GPU_BATCH)
    sized = {first: session, **{size: create_session(data, options) for size in others}}
    if any(each.get_providers()[0] != CUDA for each in sized.values()):  # its memory is full
        return create_session(data, options), {}
    return session, sized


def _load(folder: Path, called: str, options: RuntimeOptions) -> Repository:
    """Load ``folder``, which the names of files begin with as it is ``called``."""
    name = called + MANIFEST
    try:
        manifest = Manifest.from_json(_read(folder / MANIFEST, name).decode())
    except (RecordError, UnicodeDecodeError) as error:
        raise ModelError(f"{name}: {error}; {WAY_OUT}") from None
    return Repository(
        [load_entry(folder, entry, called + entry.file, options) for entry in manifest.models],
        manifest.default,
        manifest.current,
    )


def load_entry(
    folder: Path, entry: Entry, name: str, options: RuntimeOptions = DEFAULT_OPTIONS
) -> Model:
    """Load what ``folder``'s manifest lists as ``entry``; errors call it ``name``.

    Raises ``ModelError`` where the file is not as listed, or cannot be served, and ``GpuError``.
    """
    path = folder / entry.file
    if not _real(path).is_relative_to(_real(folder)):
        raise ModelError(f"{name}: is a link that leaves the folder; copy the model into it")
    model = load_model(path, sha256=entry.sha256, version=entry.version, options=options, name=name)
    for field, says, holds in (
        ("variant", entry.variant, model.variant),
        ("recipe", entry.recipe, model.card.recipe),
        ("dataset", entry.dataset, model.card.dataset.name),
        ("bytes", entry.bytes, model.bytes),
    ):
        if says != holds:
            raise ModelError(f"{name}: {field} is {holds}, {MANIFEST} says {says}; {WAY_OUT}")
    return model


def _real(path: Path) -> Path:
    """Without links, of one that goes in circles too: before 3.13 ``Path.resolve`` fails there."""
    return Path(os.path.realpath(path))


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if path.name == MANIFEST:
            raise ModelError(f"{name}: {MISSING}") from None
        raise ModelError(f"{name}: there is no such file; {WAY_OUT}") from None
    except OSError as error:
        raise ModelError(f"{name}: cannot be read: {error.strerror}; {UNREADABLE}") from None


def _card(session: Any, name: str) -> ModelCard:
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ModelError(f"{name}: has no model card ({CARD_KEY} in its metadata); {WAY_OUT}")
    try:
        return ModelCard.from_json(text)
    except CardError as error:
        raise ModelError(f"{name}: model card: {error}; {WAY_OUT}") from None


def _check_interface(session: Any, card: ModelCard, name: str) -> None:
    wanted = {
        "input": ("images", "tensor(uint8)", list(IMAGE_SHAPE)),
        "output": ("probabilities", "tensor(float)", [len(card.classes)]),
    }
    for role, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        node_name, kind, shape = wanted[role]
        found = [f"{node.name} {node.type} {node.shape}" for node in nodes]
        if len(nodes) != 1 or not (
            (nodes[0].name, nodes[0].type, nodes[0].shape[1:]) == (node_name, kind, shape)
            and not isinstance(nodes[0].shape[0], int)
        ):
            raise ModelError(
                f"{name}: its {role} is {' and '.join(found) or 'missing'}, "
                f"not {node_name} {kind} {['batch', *shape]}; {WAY_OUT}"
            )


def _warm_up(model: Model, name: str) -> None:
    """Run the model on noise, so that the first caller does not pay for it, and judge the answer.

    Raises ``ModelError`` for rows that are no probabilities, and for a graph that still
    normalizes by its batch: the fault this project is about.
    """
    noise = np.random.default_rng(0).integers(0, 256, (4, *IMAGE_SHAPE), dtype=np.uint8)
    try:
        for size in model.batch_sizes:
            model.run(np.zeros((size, *IMAGE_SHAPE), np.uint8))
        together = model.run(noise)
        alone = np.concatenate([model.run(noise[i : i + 1]) for i in range(len(noise))])
    except Exception as error:  # its bindings raise a dozen unrelated types
        where, way_out = (" on the GPU", ON_A_GPU) if model.provider == CUDA else ("", WAY_OUT)
        raise ModelError(f"{name}: does not run{where} ({first_line(error)}); {way_out}") from None
    classes = len(model.card.classes)
    sums = together.sum(axis=1) if together.shape == (len(noise), classes) else None
    if sums is None or not np.allclose(sums, 1, atol=1e-3) or together.min() < 0:
        raise ModelError(f"{name}: its output is not {classes} probabilities; {WAY_OUT}")
    moved = float(np.abs(together - alone).max())
    if moved > BATCH_TOLERANCE:
        raise ModelError(
            f"{name}: a picture's answer changes by {moved:.2g} with the others in its batch, "
            f"as in a graph exported in training mode; {WAY_OUT}"
        )
