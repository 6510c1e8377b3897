"""Writes the model repository: its lock, its manifest, and the order in which its files change.

A service may start, and this process may be killed, at any moment. So every file that the manifest
lists is always there, and always as listed. Files are written in this order:

- A new version: the labels, for a variant's first version the configuration too, then the model
  file, then the manifest that lists it.
- Another version is to answer: the manifest, then the configuration.
- A listed version is replaced: the new file under a second name (``BESIDE``), a manifest that lists
  it there, the new file in place of the old one, a manifest that lists it here; then the second
  name is removed. If the process is killed before the first manifest, nothing has changed; after
  it, the new net is served under its second name, and the next export finishes (``settle``).

Every file is written atomically (``training.files``). Triton looks at folders that are named after
numbers and at ``model.onnx`` in them; all temporary files have hidden names.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path, PurePosixPath

from service.models.manifest import MANIFEST, SCHEMA_VERSION, Entry, Manifest
from service.models.records import RecordError
from training.files import sweep, write_bytes, write_text
from training.triton import policy, triton_config, with_versions
from training.variants import VARIANTS

FILE = "model.onnx"
CONFIG = "config.pbtxt"
BESIDE = ".next.onnx"
LOCK = ".lock"
DEFAULT_VARIANT = "relu_with_bn"


class ExportError(Exception):
    """Something cannot be published, and nothing was; the message says why."""


@contextmanager
def held(models: Path, say: Callable[[str], None] = print) -> Iterator[None]:
    """Hold the folder against every other export and comparison, and wait for whoever has it.

    The lock goes with the process, however it ends; what a killed one left half written is removed.
    Raises ``ExportError`` where the folder cannot be written, also for what is written under it.
    """
    make_folder(models)
    try:
        with (models / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"{models}: another export or comparison is writing there, waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            _sweep(models)
            yield
    except OSError as error:
        raise ExportError(f"{models}: cannot be written ({error.strerror or error})") from error


def make_folder(folder: Path) -> None:
    """Make ``folder`` where it is missing. Raises ``ExportError`` where nothing can go there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise ExportError(f"{folder}: is no folder ({reason}); give another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExportError(f"{folder}: may not be written; give another folder")


def _sweep(models: Path) -> None:
    """Remove what killed processes left, where they write and nowhere else."""
    for variant in VARIANTS:
        for folder in (models / variant, *(models / variant).glob("[0-9]*")):
            sweep(folder)
    sweep(models)


def read_manifest(models: Path) -> Manifest | None:
    """The repository's manifest, or None where there is none yet. Raises ``ExportError``."""
    path = models / MANIFEST
    try:
        return Manifest.from_json(path.read_text())
    except FileNotFoundError:
        return None
    except (RecordError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: {error}; mend or remove it") from error
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be read ({error.strerror}); mend or remove it"
        ) from error


def listed(models: Path) -> tuple[Entry, ...]:
    """What the manifest lists; nothing where there is none yet. Raises ``ExportError``."""
    manifest = read_manifest(models)
    return manifest.models if manifest else ()


def refuse_other_data(models: Path, dataset: str) -> None:
    """Raise ``ExportError`` where the models there are nets of another data set than ``dataset``.

    ``labels.txt`` names the classes of every version, and one comparison stands beside them all.
    """
    for entry in listed(models):
        if entry.dataset != dataset:
            raise ExportError(
                f"{models}: holds nets of {entry.dataset} ({entry.file}), and this is of "
                f"{dataset}; a repository is of one data set: give another folder (--models, --to; "
                "with make, MODELS=)"
            )


def refuse_unknown_default(models: Path, default: str | None, variant: str) -> None:
    """Raise ``ExportError`` where ``default`` is not published, nor ``variant``, which will be."""
    names = sorted({variant, *(entry.variant for entry in listed(models))})
    if default is not None and default not in names:
        raise ExportError(
            f"{models}: {default} cannot answer by default, it is not published there; "
            f"export it too, or choose among {', '.join(names)}"
        )


def is_as_listed(models: Path, entry: Entry) -> bool:
    """Whether the file of ``entry`` is there and hashes to what the manifest says."""
    try:
        return sha256((models / entry.file).read_bytes()).hexdigest() == entry.sha256
    except FileNotFoundError:
        return False


def publish(
    models: Path,
    entry: Entry,
    data: bytes,
    classes: tuple[str, ...],
    default: str | None,
    *,
    promote: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Put a model file and what belongs to it in its place, in the order that the module states.

    A new version answers from then on where none is asked for, unless ``promote`` is false. To be
    called with the folder held.
    """
    old = read_manifest(models)
    replaced = (entry.variant, entry.version) in {(e.variant, e.version) for e in listed(models)}
    folder = models / entry.variant
    (models / entry.file).parent.mkdir(parents=True, exist_ok=True)
    write_text(folder / "labels.txt", "".join(f"{name}\n" for name in classes))
    if replaced:
        entry = replace(entry, file=str(PurePosixPath(entry.file).with_name(BESIDE)))
    new = with_entry(old, entry, default, promote=promote)
    # Until the manifest says that another version answers, Triton must not load it.
    versions = loaded(old if old and promote else new, entry.variant)
    if old is None or not old.versions(entry.variant):
        write_text(folder / CONFIG, triton_config(entry.variant, versions))
    else:
        _settle_config(folder / CONFIG, versions)
    write_bytes(models / entry.file, data)
    write_manifest(models, old, new)
    settle(models, say)


def settle(models: Path, say: Callable[[str], None] | None = None) -> None:
    """Bring every listed file that lies beside its place into it. With the folder held.

    And have Triton answer by the versions that the service answers by; ``say`` is told where it
    does not, and how it would.
    """
    manifest = read_manifest(models)
    if manifest is None:
        return
    entries = []
    for entry in manifest.models:
        path = PurePosixPath(entry.file)
        file = path.with_name(FILE) if path.name == BESIDE else path
        if file != path:
            write_bytes(models / file, (models / path).read_bytes())
        entries.append(replace(entry, file=str(file)))
    write_manifest(models, manifest, replace(manifest, models=tuple(entries)))
    for left in models.glob(f"*/*/{BESIDE}"):
        left.unlink()
    for variant in sorted({entry.variant for entry in entries}):
        config, versions = models / variant / CONFIG, loaded(manifest, variant)
        if not _settle_config(config, versions) and versions is not None and say:
            say(
                f"{config}: its version_policy is not one that was written here, and is left; for "
                f"Triton to answer as the service does, set it to: {policy(versions)}"
            )


def _settle_config(path: Path, versions: list[int] | None) -> bool:
    """Change the one line of Triton's configuration: the rest may have been tuned by hand, and be
    in any encoding.

    Returns whether Triton then loads just these versions.
    """
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:  # whoever does not use Triton may have removed it
        return True
    wanted = with_versions(text, versions)
    if wanted != text:
        write_bytes(path, wanted.encode("utf-8", "surrogateescape"))
    return policy(versions) in wanted.splitlines()


def loaded(manifest: Manifest, variant: str) -> list[int] | None:
    """The versions of ``variant`` that Triton is to load; None is all there are."""
    if variant not in manifest.current:
        return None
    return [each for each in manifest.versions(variant) if each <= manifest.answering(variant)]


def with_entry(
    manifest: Manifest | None, entry: Entry, default: str | None, *, promote: bool = True
) -> Manifest:
    """The manifest with ``entry`` in it, in place of the one of its variant and version.

    Who answers by default is ``default``; where that is None, whoever did before;
    ``DEFAULT_VARIANT`` from when it first appears, if it is to ``promote``. Another version of the
    variant goes on answering unless ``entry`` is a new one and is to ``promote``.
    """
    others = manifest.models if manifest else ()
    key = (entry.variant, entry.version)
    kept = [each for each in others if (each.variant, each.version) != key]
    entries = sorted([*kept, entry], key=lambda each: (each.variant, each.version))
    known = {each.variant for each in others}
    if default is None:
        default = manifest.default if manifest else entry.variant
        if entry.variant == DEFAULT_VARIANT and DEFAULT_VARIANT not in known and promote:
            default = DEFAULT_VARIANT
    new = Manifest(SCHEMA_VERSION, default, tuple(entries), manifest.current if manifest else {})
    if manifest is None or entry.variant not in known:
        return new
    answers = manifest.answering(entry.variant)
    if promote and entry.version not in manifest.versions(entry.variant):
        answers = entry.version
    return with_current(new, entry.variant, answers)


def with_current(manifest: Manifest, variant: str, version: int) -> Manifest:
    """The manifest by which ``version`` of ``variant`` answers where none is asked for.

    The newest one answers without being named, which older software understands as well.
    """
    current = {each: number for each, number in manifest.current.items() if each != variant}
    if version != manifest.versions(variant)[-1]:
        current[variant] = version
    return replace(manifest, current=dict(sorted(current.items())))


def write_manifest(models: Path, old: Manifest | None, new: Manifest) -> None:
    """Replace the manifest where it says something else now. With the folder held."""
    if new != old:
        write_text(models / MANIFEST, new.to_json())
