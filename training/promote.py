"""Chooses the version that answers when none is named: an older one, or a newer one again.

In: a repository that ``training.export`` has published to. Out: its manifest's ``current``, and the
configuration with which NVIDIA Triton answers by the same version. No model file changes; a running
service answers as before until it is restarted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from service.models.manifest import MANIFEST, Entry
from service.models.repository import ModelError, load_entry
from training.repository import (
    ExportError,
    held,
    read_manifest,
    settle,
    with_current,
    write_manifest,
)


def promote(
    models: Path,
    variant: str,
    version: int,
    *,
    default: bool = False,
    say: Callable[[str], None] = print,
) -> Entry:
    """Have this version answer for ``variant``, and with ``default`` where no variant is named.

    Raises ``ExportError`` where the repository has no such version, ``service.models.repository``'s
    ``ModelError`` where the service would refuse its file; then nothing changes.
    """
    if not (models / MANIFEST).exists():
        raise ExportError(
            f"{models}: holds no {MANIFEST}; give the folder of exported models (--models)"
        )
    with held(models, say):
        settle(models)
        old = read_manifest(models)
        assert old is not None  # noqa: S101 - it was there, and no export removes it
        entry, before = old.find(variant, version), old.find(variant)
        if entry is None or before is None:
            listed = ", ".join(f"{each.variant} {each.version}" for each in old.models)
            raise ExportError(f"{models}: there is no {variant} {version}; there are {listed}")
        load_entry(models, entry, str(models / entry.file))
        new = with_current(old, variant, version)
        write_manifest(models, old, replace(new, default=variant if default else old.default))
        settle(models, say)
    instead = f"instead of version {before.version} ({before.top1:.2%})"
    say(
        f"{variant}: version {version} ({entry.top1:.2%} of the test pictures) answers where none "
        f"is asked for, {'as it did' if before is entry else instead}"
    )
    if default and old.default != variant:
        say(f"{models}: {variant} answers where no variant is asked for, not {old.default}")
    for each in (other for other in old.models if other is not entry):
        try:
            load_entry(models, each, str(models / each.file))
        except ModelError as error:
            say(f"the service will not start yet: {error}")
    return entry
