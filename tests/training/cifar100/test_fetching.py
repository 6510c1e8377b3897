"""Where CIFAR-100 is taken from, and that a part of a download never passes for the whole."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.training.cifar100.distribution import md5s
from training import cifar100
from training.cifar100 import DataError


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
        said = str(caught.value)
        assert said.startswith(f"{tmp_path}: ")
        assert "the three files train, test, meta" in said
        assert cifar100.ARCHIVE_URL in said
        assert said.endswith(f"name {cifar100.FORMS}")

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
