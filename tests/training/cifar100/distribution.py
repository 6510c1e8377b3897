"""Files as the distribution of CIFAR-100 has them: Python 2's pickles, alone and in an archive."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from training import cifar100

CLASSES, SUPERCLASSES = 100, 20


def python2_pickle(content: Mapping[str, Any]) -> bytes:
    """Write a dict as Python 2's protocol 2 did, opcode by opcode; Python 3's pickler cannot."""

    def string(text: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(text)) + text

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def value(item: Any) -> bytes:
        if isinstance(item, str):
            return string(item.encode("latin1"))
        if isinstance(item, int):
            return integer(item)
        if isinstance(item, list):
            return b"](" + b"".join(map(value, item)) + b"e"
        rows, columns = item.shape
        dtype = b"cnumpy\ndtype\n" + string(item.dtype.str[1:].encode())
        dtype += integer(0) + integer(1) + b"\x87R("
        dtype += integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        array += integer(0) + b"\x85" + string(b"b") + b"\x87R("
        array += integer(1) + integer(rows) + integer(columns) + b"\x86" + dtype
        return array + b"\x89" + string(item.tobytes()) + b"tb"

    return b"\x80\x02}(" + b"".join(value(k) + value(v) for k, v in content.items()) + b"u."


def split(images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    return {
        "data": rows,
        "batch_label": "a batch",
        "fine_labels": labels.tolist(),
        "coarse_labels": (labels % SUPERCLASSES).tolist(),
        "filenames": [f"picture_{index}.png" for index in range(len(labels))],
    }


def md5s(members: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(content).hexdigest() for name, content in members.items()}


def archive_of(entries: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar.gz of regular files, and of whatever other entries are given."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, entry in entries.items():
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(entry)
                archive.addfile(info, io.BytesIO(entry))
    return packed.getvalue()


def official(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The entries in the original archive's order, with the leftover that it holds."""
    files = {"meta": members["meta"], "file.txt~": b"", "train": members["train"]}
    files["test"] = members["test"]
    return {f"{cifar100.FOLDER}/{name}": content for name, content in files.items()}
