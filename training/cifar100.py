"""CIFAR-100 as a ``Dataset``, from a folder, from its archive, from the cache or from its page.

In: the three files of the original distribution (``train``, ``test``, ``meta``), which are Python 2
pickles. Out: uint8 pictures [N, 32, 32, 3], their labels and the labels' names. A pickle can run
code, so a file is decoded only if its MD5 is the original's, and by an unpickler that knows three
harmless names and refuses the rest.

The data set: Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
https://www.cs.toronto.edu/~kriz/cifar.html. Its known faults (a few duplicates, ten test pictures
that are also in train) are left as they are.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.dataset import IMAGE_SHAPE, Dataset, Images, Labels, checksum

FOLDER: Final = "cifar-100-python"
ARCHIVE: Final = "cifar-100-python.tar.gz"
ARCHIVE_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
ARCHIVE_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"  # of 169,001,437 bytes
MEMBER_MD5: Final[Mapping[str, str]] = {
    "train": "16019d7e3df5f24257cddd939b257f8d",  # 155,249,918 bytes
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",  # 31,049,707 bytes
    "meta": "7973b15100ade9c7d40fb424638fde48",  # 1,473 bytes
}
LARGEST_MEMBER: Final = 1 << 28  # bytes; a file that claims more is not one of the three
VARIABLE: Final = "CIFAR100_DIR"
FORMS: Final = f"the folder {FOLDER}, {ARCHIVE}, or a folder that holds one of them"


class DataError(Exception):
    """The data set is not there, not whole or not the original. The message says what to do."""


def load(data: Path | None = None) -> Dataset:
    """Load CIFAR-100: 50,000 train and 10,000 test pictures of 100 classes in 20 superclasses.

    ``data`` is the folder ``cifar-100-python``, ``cifar-100-python.tar.gz``, or a folder that holds
    one of them, as a mounted volume does; a whole folder goes before an archive. Where it is None,
    ``CIFAR100_DIR`` says so; else the archive in the user's cache is taken, downloaded first if it
    is not there (169 MB). A path that was named is never passed over for the next one.
    Takes 1 to 2 seconds from a folder, 3 from an archive. Raises ``DataError``.
    """
    return decode(read_members(locate(data)))


def locate(data: Path | None = None) -> Path:
    """Find the folder or archive that ``load`` reads, downloading the archive if it has to.

    Raises ``DataError`` where the path that ``data`` or ``CIFAR100_DIR`` names does not exist, and
    where none is named and the archive is neither in the cache nor can be downloaded.
    """
    if data is not None:
        return _named(data, "--data")
    if value := os.environ.get(VARIABLE):
        return _named(Path(value), VARIABLE)

    import pooch

    return fetch(Path(pooch.os_cache("batchnorm-service")), ARCHIVE_URL, ARCHIVE_MD5)


def fetch(cache: Path, url: str, md5: str) -> Path:
    """Return the archive in the folder ``cache``, downloading it from ``url`` unless it is there.

    The archive counts as there only if its MD5 is ``md5``. A download is written under another
    name and takes its place after its MD5 was checked, so a part of it never passes for the whole.
    Raises ``DataError``, which names the three ways to the data.
    """
    import pooch

    archive = cache / ARCHIVE
    try:
        pooch.retrieve(
            url,
            known_hash=f"md5:{md5}",
            fname=ARCHIVE,
            path=cache,
            downloader=pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 18),
        )
    except (OSError, ValueError) as error:  # requests' exceptions are OSErrors; a bad hash is not
        found = "holds a damaged copy" if archive.exists() else "has no copy"
        raise DataError(
            f"CIFAR-100 is not here: no path was named, the cache {found}, and the download failed "
            f"({type(error).__name__}: {error}). Three ways to it: "
            f"name {FORMS} with --data or {VARIABLE}; "
            f"put the archive at {archive}; "
            f"or try again with a network that reaches {url}"
        ) from error
    return archive


def read_members(source: Path, digests: Mapping[str, str] = MEMBER_MD5) -> dict[str, bytes]:
    """Read the data set's files from a folder or an archive, and check each against its MD5.

    ``digests`` maps the names of the files to their MD5s in hexadecimal. From an archive only the
    regular files ``cifar-100-python/<name>`` are read, into memory; nothing is written to disk.
    Raises ``DataError`` where one is missing, too large, unreadable or not the original.
    """
    try:
        if source.is_dir():
            members = _read_folder(source, digests)
            if len(members) < len(digests) and (source / ARCHIVE).exists():
                source = source / ARCHIVE
                members = _read_archive(source, digests)
        else:
            members = _read_archive(source, digests)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise DataError(
            f"{source}: not a whole {ARCHIVE} ({error}); download it again from {ARCHIVE_URL}"
        ) from error
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error}); name {FORMS}") from error

    for name, digest in digests.items():
        if name not in members:
            raise DataError(
                f"{source}: holds no regular file {name}; CIFAR-100 for Python is the three files "
                f"{', '.join(digests)}, as {ARCHIVE_URL} holds them: name {FORMS}"
            )
        found = hashlib.md5(members[name], usedforsecurity=False).hexdigest()
        if found != digest:
            raise DataError(
                f"{source}: {name} has MD5 {found}, the original has {digest}; "
                f"download {ARCHIVE} again from {ARCHIVE_URL}"
            )
    return members


def decode(members: Mapping[str, bytes]) -> Dataset:
    """Turn the bytes of ``train``, ``test`` and ``meta`` into a ``Dataset``.

    Every class gets the superclass that its training pictures have. Raises ``DataError`` where the
    files hold something else than pictures of 32 x 32, labels within the names, and one superclass
    for every class. Never runs code that a file brings along.
    """
    meta = unpickle("meta", members["meta"])
    class_names = _names(meta, "fine_label_names")
    superclass_names = _names(meta, "coarse_label_names")
    train, test = unpickle("train", members["train"]), unpickle("test", members["test"])
    train_labels = _labels("train", train, "fine_labels", len(class_names))
    test_labels = _labels("test", test, "fine_labels", len(class_names))
    superclasses = _labels("train", train, "coarse_labels", len(superclass_names))
    train_images = _images("train", train, len(train_labels))
    test_images = _images("test", test, len(test_labels))

    pairs = np.unique(np.stack([train_labels, superclasses]), axis=1)
    if pairs[0].tolist() != list(range(len(class_names))):
        raise DataError("train: not every class has exactly one superclass; this is not CIFAR-100")

    return Dataset(
        name="cifar100",
        checksum=checksum(train_images, train_labels, test_images, test_labels),
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=class_names,
        superclass_names=superclass_names,
        superclass_of=tuple(pairs[1].tolist()),
    )


def unpickle(name: str, raw: bytes) -> dict[bytes, Any]:
    """Decode one of the files, a Python 2 pickle of a dict; its strings come as bytes.

    Only uint8 arrays and plain values can be made. Raises ``DataError``, which calls the file
    ``name``, where the pickle asks for anything else or is no pickle of a dict; nothing of it runs.
    """
    try:
        content = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # what a malformed pickle raises is not limited, says its manual
        raise DataError(
            f"{name}: refused to unpickle ({error}); use the original, from {ARCHIVE_URL}"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{name}: holds a {type(content).__name__}, CIFAR-100's files hold a dict")
    return content


def _new_array(kind: object, shape: object, code: object) -> np.ndarray[Any, Any]:
    """NumPy 1's ``_reconstruct``: an empty array, which the pickle then fills."""
    return np.empty(0, np.uint8)


def _new_dtype(code: object, align: object, copy: object) -> np.dtype[Any]:
    if code != b"u1":
        raise pickle.UnpicklingError(f"it holds an array of type {code!r}, expected uint8")
    return np.dtype(np.uint8, copy=True)


_ALLOWED: Final = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _new_dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def _named(path: Path, by: str) -> Path:
    with suppress(RuntimeError):  # ~stranger: there is no such user
        path = path.expanduser()
    if not path.exists():
        raise DataError(f"{path}: named by {by}, but nothing is there; name {FORMS}")
    return path


def _read_folder(source: Path, names: Mapping[str, str]) -> dict[str, bytes]:
    folder = source / FOLDER if (source / FOLDER).is_dir() else source
    files = {name: folder / name for name in names if (folder / name).is_file()}
    for path in files.values():
        _check_size(str(path), path.stat().st_size)
    return {name: path.read_bytes() for name, path in files.items()}


def _read_archive(source: Path, names: Mapping[str, str]) -> dict[str, bytes]:
    wanted = {f"{FOLDER}/{name}": name for name in names}
    members: dict[str, bytes] = {}
    with gzip.open(source) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            if entry.name not in wanted or not entry.isreg():
                continue
            _check_size(f"{source}: {entry.name}", entry.size)
            if content := archive.extractfile(entry):
                members[wanted[entry.name]] = content.read()
            if len(members) == len(wanted):
                break
    return members


def _check_size(what: str, size: int) -> None:
    if size > LARGEST_MEMBER:
        raise DataError(
            f"{what}: {size} bytes, more than the {LARGEST_MEMBER} that CIFAR-100 could need; "
            f"download {ARCHIVE} again from {ARCHIVE_URL}"
        )


def _names(meta: Mapping[bytes, Any], key: str) -> tuple[str, ...]:
    try:
        return tuple(name.decode("ascii") for name in meta[key.encode()])
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise DataError(f"meta: holds no names {key}; this is not CIFAR-100") from None


def _labels(file: str, content: Mapping[bytes, Any], key: str, classes: int) -> Labels:
    labels = content.get(key.encode())
    if not isinstance(labels, list) or not all(
        type(label) is int and 0 <= label < classes for label in labels
    ):
        raise DataError(f"{file}: holds no {key} within 0..{classes - 1}; this is not CIFAR-100")
    return np.array(labels, dtype=np.int64)


def _images(file: str, content: Mapping[bytes, Any], count: int) -> Images:
    """Rows of 1024 red, 1024 green and 1024 blue values, to uint8 [N, 32, 32, 3]."""
    rows = content.get(b"data")
    height, width, channels = IMAGE_SHAPE
    expected = (count, height * width * channels)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape != expected:
        raise DataError(f"{file}: data is not uint8 {list(expected)}; this is not CIFAR-100")
    planes = rows.reshape(count, channels, height, width)
    images = np.empty((count, *IMAGE_SHAPE), np.uint8)
    for channel in range(channels):  # 4 times as fast as a copy of the transposed view
        images[..., channel] = planes[:, channel]
    return images
