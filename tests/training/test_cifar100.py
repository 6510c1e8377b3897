"""CIFAR-100 is read whole and unchanged or not at all, and a strange pickle never runs."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import shutil
import socket
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest

from training import cifar100
from training.cifar100 import DataError

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


@pytest.fixture(scope="session")
def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8),
        "train_labels": rng.permutation(np.repeat(np.arange(CLASSES), 2)),
        "test_images": rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8),
        "test_labels": rng.permutation(CLASSES),
    }


@pytest.fixture(scope="session")
def contents(pictures: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    return {
        "train": split(pictures["train_images"], pictures["train_labels"]),
        "test": split(pictures["test_images"], pictures["test_labels"]),
        "meta": {
            "fine_label_names": [f"class {index}" for index in range(CLASSES)],
            "coarse_label_names": [f"superclass {index}" for index in range(SUPERCLASSES)],
        },
    }


@pytest.fixture(scope="session")
def members(contents: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    return {name: python2_pickle(content) for name, content in contents.items()}


@pytest.fixture(scope="session")
def digests(members: dict[str, bytes]) -> dict[str, str]:
    return md5s(members)


@pytest.fixture
def parent(tmp_path: Path, members: dict[str, bytes]) -> Path:
    folder = tmp_path / "data" / cifar100.FOLDER
    folder.mkdir(parents=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)
    return folder.parent


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's own data, cache or proxy, and none reaches the real server."""
    folder = tmp_path / "cache"
    monkeypatch.delenv(cifar100.VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder)
    monkeypatch.setattr(cifar100, "ARCHIVE_URL", f"http://127.0.0.1:{closed_port()}/archive")
    return folder


def md5s(members: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(content).hexdigest() for name, content in members.items()}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


@pytest.fixture
def archive(tmp_path: Path, members: dict[str, bytes]) -> Path:
    path = tmp_path / cifar100.ARCHIVE
    path.write_bytes(archive_of(official(members)))
    return path


class TestForms:
    def test_folder_parent_and_archive_hold_the_same(
        self, parent: Path, archive: Path, members: dict[str, bytes], digests: dict[str, str]
    ) -> None:
        for source in (parent / cifar100.FOLDER, parent, archive):
            assert cifar100.read_members(source, digests) == members

    def test_reading_an_archive_writes_nothing(
        self, archive: Path, digests: dict[str, str], tmp_path: Path
    ) -> None:
        before = sorted(tmp_path.rglob("*"))
        cifar100.read_members(archive, digests)
        assert sorted(tmp_path.rglob("*")) == before

    def test_pixels_labels_and_names_arrive_unchanged(
        self, members: dict[str, bytes], pictures: dict[str, np.ndarray]
    ) -> None:
        dataset = cifar100.decode(members)
        assert dataset.name == "cifar100"
        for field, expected in pictures.items():
            array = getattr(dataset, field)
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == (np.uint8 if field.endswith("images") else np.int64)
        assert dataset.class_names[7] == "class 7"
        assert dataset.superclass_of == tuple(index % SUPERCLASSES for index in range(CLASSES))
        assert dataset.superclasses[47] == "superclass 7"

    def test_checksum_covers_pixels_and_labels_in_order(
        self, members: dict[str, bytes], pictures: dict[str, np.ndarray]
    ) -> None:
        everything = b"".join(
            [
                pictures["train_images"].tobytes(),
                pictures["train_labels"].astype("<i8").tobytes(),
                pictures["test_images"].tobytes(),
                pictures["test_labels"].astype("<i8").tobytes(),
            ]
        )
        assert cifar100.decode(members).checksum == hashlib.sha256(everything).hexdigest()


class TestDamage:
    @pytest.mark.parametrize("name", ["train", "test", "meta"])
    def test_one_changed_byte_is_refused_by_name(
        self, parent: Path, digests: dict[str, str], name: str
    ) -> None:
        path = parent / cifar100.FOLDER / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} has MD5 \w+, the original has") as caught:
            cifar100.read_members(parent, digests)
        assert str(parent) in str(caught.value)
        assert "download" in str(caught.value)

    def test_the_real_digests_are_the_default(self, parent: Path) -> None:
        with pytest.raises(DataError, match=cifar100.MEMBER_MD5["train"]):
            cifar100.read_members(parent)

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
    def test_a_truncated_archive_is_refused(
        self, archive: Path, digests: dict[str, str], share: float
    ) -> None:
        whole = archive.read_bytes()
        archive.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match="not a whole") as caught:
            cifar100.read_members(archive, digests)
        assert str(archive) in str(caught.value)

    def test_an_archive_with_a_damaged_middle_is_refused(
        self, archive: Path, digests: dict[str, str]
    ) -> None:
        content = bytearray(archive.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
        archive.write_bytes(content)
        with pytest.raises(DataError, match=r"not a whole|has MD5"):
            cifar100.read_members(archive, digests)

    @pytest.mark.parametrize("content", [b"", b"not an archive", gzip.compress(b"not a tar")])
    def test_a_file_that_is_no_archive_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "anything"
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a whole"):
            cifar100.read_members(path)

    @pytest.mark.parametrize("name", ["train", "test", "meta"])
    def test_a_missing_member_is_named(
        self, parent: Path, archive: Path, members: dict[str, bytes], name: str
    ) -> None:
        rest = {other: content for other, content in members.items() if other != name}
        (parent / cifar100.FOLDER / name).unlink()
        archive.write_bytes(
            archive_of({f"{cifar100.FOLDER}/{other}": rest[other] for other in rest})
        )
        for source in (parent, archive):
            with pytest.raises(DataError, match=f"holds no regular file {name}"):
                cifar100.read_members(source, md5s(members))

    def test_a_member_of_absurd_size_is_refused_unread(
        self, parent: Path, archive: Path, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cifar100, "LARGEST_MEMBER", 100_000)
        for source in (parent, archive):
            with pytest.raises(DataError, match="more than the 100000"):
                cifar100.read_members(source, digests)


class TestStrangeArchives:
    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_a_link_never_stands_for_a_member(
        self, archive: Path, members: dict[str, bytes], tmp_path: Path, kind: bytes
    ) -> None:
        (tmp_path / "outside").write_bytes(members["train"])
        entries: dict[str, Any] = dict(official(members))
        link = tarfile.TarInfo(f"{cifar100.FOLDER}/train")
        link.type = kind
        link.linkname = str(tmp_path / "outside")
        entries[link.name] = link
        archive.write_bytes(archive_of(entries))
        with pytest.raises(DataError, match="holds no regular file train"):
            cifar100.read_members(archive, md5s(members))

    @pytest.mark.parametrize("prefix", ["../", "/", f"{cifar100.FOLDER}/../", "elsewhere/"])
    def test_only_the_official_path_counts(
        self, archive: Path, members: dict[str, bytes], tmp_path: Path, prefix: str
    ) -> None:
        entries = official(members)
        entries[f"{prefix}train"] = entries.pop(f"{cifar100.FOLDER}/train")
        archive.write_bytes(archive_of(entries))
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(DataError, match="holds no regular file train"):
            cifar100.read_members(archive, md5s(members))
        assert sorted(tmp_path.rglob("*")) == before


class Foreign:
    """Pickles as a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


class TestForeignPickles:
    @pytest.fixture
    def marker(self, tmp_path: Path) -> Path:
        return tmp_path / "it-ran"

    @pytest.fixture
    def foreign(self, marker: Path) -> bytes:
        return pickle.dumps({"data": Foreign(f"echo > '{marker}'")}, protocol=2)

    def test_the_attack_would_work(self, foreign: bytes, marker: Path) -> None:
        pickle.loads(foreign)
        assert marker.exists()

    def test_the_unpickler_refuses_even_where_the_md5_agrees(
        self, parent: Path, members: dict[str, bytes], foreign: bytes, marker: Path
    ) -> None:
        (parent / cifar100.FOLDER / "train").write_bytes(foreign)
        read = cifar100.read_members(parent, md5s({**members, "train": foreign}))
        with pytest.raises(DataError, match=r"train: refused to unpickle .*system"):
            cifar100.decode(read)
        assert not marker.exists()

    def test_the_md5_refuses_before_the_unpickler_looks(
        self,
        parent: Path,
        digests: dict[str, str],
        foreign: bytes,
        marker: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (parent / cifar100.FOLDER / "train").write_bytes(foreign)
        monkeypatch.setattr(cifar100, "unpickle", lambda *_: pytest.fail("unpickled"))
        with pytest.raises(DataError, match="train has MD5"):
            cifar100.decode(cifar100.read_members(parent, digests))
        with pytest.raises(DataError, match="train has MD5"):
            cifar100.load(parent)
        assert not marker.exists()

    @pytest.mark.parametrize(
        "wanted", ["builtins\neval", "__builtin__\neval", "numpy\nload", "numpy.core.multiarray\nx"]
    )
    def test_a_global_outside_the_three_is_refused(self, wanted: str) -> None:
        raw = f"c{wanted}\n.".encode()
        with pytest.raises(DataError, match=r"it asks for .*" + wanted.split("\n")[1]):
            cifar100.unpickle("test", raw)

    def test_only_bytes_can_fill_an_array(self, contents: dict[str, dict[str, Any]]) -> None:
        floats = contents["test"] | {"data": np.zeros((100, 3072), np.float32)}
        with pytest.raises(DataError, match="expected uint8"):
            cifar100.unpickle("test", python2_pickle(floats))

    @pytest.mark.parametrize("raw", [b"", b"\x80\x02", b"].", b"garbage"])
    def test_what_is_no_pickle_of_a_dict_is_refused(self, raw: bytes) -> None:
        with pytest.raises(DataError, match="meta: "):
            cifar100.unpickle("meta", raw)


class TestContents:
    def decode(self, contents: dict[str, dict[str, Any]], name: str, **changes: Any) -> None:
        changed = contents | {name: contents[name] | changes}
        cifar100.decode({file: python2_pickle(content) for file, content in changed.items()})

    def test_a_class_of_two_superclasses_is_refused(self, contents: dict[str, Any]) -> None:
        coarse = list(contents["train"]["coarse_labels"])
        coarse[0] = (coarse[0] + 1) % SUPERCLASSES
        with pytest.raises(DataError, match="exactly one superclass"):
            self.decode(contents, "train", coarse_labels=coarse)

    def test_a_class_without_pictures_is_refused(self, contents: dict[str, Any]) -> None:
        names = [*contents["meta"]["fine_label_names"], "one more"]
        with pytest.raises(DataError, match="exactly one superclass"):
            self.decode(contents, "meta", fine_label_names=names)

    @pytest.mark.parametrize("label", [-1, 100])
    def test_a_label_without_a_name_is_refused(self, contents: dict[str, Any], label: int) -> None:
        labels = [label, *contents["test"]["fine_labels"][1:]]
        with pytest.raises(DataError, match=r"test: holds no fine_labels within 0\.\.99"):
            self.decode(contents, "test", fine_labels=labels)

    def test_pictures_of_another_size_are_refused(self, contents: dict[str, Any]) -> None:
        with pytest.raises(DataError, match=r"test: data is not uint8 \[100, 3072\]"):
            self.decode(contents, "test", data=np.zeros((100, 3071), np.uint8))

    def test_missing_names_are_refused(self, contents: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="meta: holds no names coarse_label_names"):
            self.decode(contents, "meta", coarse_label_names=3)


class TestWhere:
    def test_the_argument_comes_before_the_environment_before_the_cache(
        self, parent: Path, archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cached = cache / cifar100.ARCHIVE
        cached.parent.mkdir()
        shutil.copy(archive, cached)
        monkeypatch.setattr(cifar100, "ARCHIVE_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
        assert cifar100.locate() == cached
        monkeypatch.setenv(cifar100.VARIABLE, "")
        assert cifar100.locate() == cached
        monkeypatch.setenv(cifar100.VARIABLE, str(parent))
        assert cifar100.locate() == parent
        assert cifar100.locate(archive) == archive

    def test_a_named_path_that_is_missing_is_an_error_not_a_download(
        self, tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cifar100, "fetch", lambda *_: pytest.fail("fell through"))
        missing = tmp_path / "missing"
        monkeypatch.setenv(cifar100.VARIABLE, str(missing))
        with pytest.raises(DataError, match=r"missing: named by CIFAR100_DIR"):
            cifar100.load()
        monkeypatch.setenv(cifar100.VARIABLE, str(parent))
        with pytest.raises(DataError, match=r"missing: named by --data"):
            cifar100.load(missing)

    def test_a_named_folder_without_the_data_is_an_error_not_a_download(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cifar100, "fetch", lambda *_: pytest.fail("fell through"))
        with pytest.raises(DataError, match="holds no regular file train") as caught:
            cifar100.load(tmp_path)
        assert str(tmp_path) in str(caught.value)

    def test_a_home_folder_may_be_written_with_a_tilde(
        self, parent: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(parent.parent))
        monkeypatch.setenv("USERPROFILE", str(parent.parent))
        assert cifar100.locate(Path("~/data")) == parent

    def test_no_network_names_the_three_ways(self, cache: Path) -> None:
        with pytest.raises(DataError) as caught:
            cifar100.load()
        message = str(caught.value)
        for way in (
            "--data",
            cifar100.VARIABLE,
            str(cache / cifar100.ARCHIVE),
            cifar100.ARCHIVE_URL,
        ):
            assert way in message
        assert "has no copy" in message

    def test_a_damaged_copy_in_the_cache_is_said_to_be_one(self, cache: Path) -> None:
        cache.mkdir()
        (cache / cifar100.ARCHIVE).write_bytes(b"half an archive")
        with pytest.raises(DataError, match="holds a damaged copy"):
            cifar100.load()


class Server(ThreadingHTTPServer):
    """Serves ``body``, but only its first ``sent`` bytes, and claims ``length`` bytes if told."""

    body = b""
    sent = 0
    claims_length = True
    requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        if self.server.claims_length:
            self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body[: self.server.sent])

    def log_message(self, *args: object) -> None:
        pass


class TestDownload:
    @pytest.fixture
    def server(self, archive: Path) -> Iterator[Server]:
        with Server(("127.0.0.1", 0), Handler) as server:
            server.body = archive.read_bytes()
            thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
            thread.start()
            yield server
            server.shutdown()
            thread.join()

    @pytest.mark.parametrize("claims_length", [True, False])
    def test_a_part_never_passes_for_the_whole(
        self, server: Server, cache: Path, members: dict[str, bytes], claims_length: bool
    ) -> None:
        url = f"http://127.0.0.1:{server.server_port}/{cifar100.ARCHIVE}"
        md5 = hashlib.md5(server.body).hexdigest()
        server.claims_length = claims_length

        server.sent = len(server.body) // 2
        with pytest.raises(DataError, match="the download failed"):
            cifar100.fetch(cache, url, md5)
        assert list(cache.iterdir()) == []

        server.sent = len(server.body)
        path = cifar100.fetch(cache, url, md5)
        assert cifar100.read_members(path, md5s(members)) == members
        assert [entry.name for entry in cache.iterdir()] == [cifar100.ARCHIVE]

        cifar100.fetch(cache, url, md5)
        assert server.requests == 2, "a whole archive in the cache is not downloaded again"

    def test_a_damaged_copy_is_replaced(self, server: Server, cache: Path) -> None:
        cache.mkdir()
        (cache / cifar100.ARCHIVE).write_bytes(server.body[:1000])
        server.sent = len(server.body)
        url = f"http://127.0.0.1:{server.server_port}/{cifar100.ARCHIVE}"
        path = cifar100.fetch(cache, url, hashlib.md5(server.body).hexdigest())
        assert path.read_bytes() == server.body


REAL = os.environ.get("CIFAR100_DIR")


@pytest.fixture(scope="module")
def dataset() -> cifar100.Dataset:
    return cifar100.load(Path(str(REAL)))  # checks the MD5s of all three files


@pytest.mark.skipif(not REAL, reason="CIFAR100_DIR does not name the real CIFAR-100")
class TestTheRealThing:
    def test_counts(self, dataset: cifar100.Dataset) -> None:
        assert dataset.train_images.shape == (50_000, 32, 32, 3)
        assert dataset.test_images.shape == (10_000, 32, 32, 3)
        assert np.bincount(dataset.train_labels).tolist() == [500] * 100
        assert np.bincount(dataset.test_labels).tolist() == [100] * 100
        assert np.bincount(dataset.superclass_of).tolist() == [5] * 20

    def test_first_pictures(self, dataset: cifar100.Dataset) -> None:
        first_train, first_test = dataset.train_labels[0], dataset.test_labels[0]
        assert (first_train, dataset.class_names[first_train]) == (19, "cattle")
        assert (first_test, dataset.class_names[first_test]) == (49, "mountain")
        assert dataset.superclasses[19] == "large_omnivores_and_herbivores"

    def test_pixels(self, dataset: cifar100.Dataset) -> None:
        assert hashlib.sha256(dataset.train_images.tobytes()).hexdigest() == (
            "4e457917601a66aed021f5fa37957b56c6319557c0a8ed5484de3c390af45430"
        )
        assert hashlib.sha256(dataset.test_images.tobytes()).hexdigest() == (
            "4cb8e5d9309da489bf6b19cc10cd96c3ae6f8daf225380b605aaee4c0d6aee19"
        )

    def test_training_mean_is_exact(self, dataset: cifar100.Dataset) -> None:
        total = sum(sum(image.tobytes()) for image in dataset.train_images)
        assert total == 18_729_378_732
        # float32 arithmetic says 121.936066
        assert dataset.training_mean == total / 153_600_000 == 121.936059453125
