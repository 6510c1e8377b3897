"""The real server, as a process: real sockets, real clients, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import requests

from service.models.runtime import why_no_gpu
from service.server import AddressError, free_address
from tests.service.hostile import PHOTO
from tests.service.tiny import encode, oracle

LIMIT = 1 << 20
DEADLINE = 30


@dataclass
class Running:
    """``log`` is its standard output: a file, as a pipe that nobody reads would fill."""

    process: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        text = os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0)
        return [json.loads(line) for line in text.splitlines()]

    def send(self, data: bytes, *, hang_up: bool) -> bytes:
        """Send raw bytes, end the sending if need be, and read until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            connection.sendall(data)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer


@contextlib.contextmanager
def started(
    models_dir: Path,
    *,
    command: Sequence[str] = (sys.executable, "-m", "service"),
    stdout: int | None = None,
    **variables: str,
) -> Iterator[Running]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "MODELS_DIR": str(models_dir),
        "PORT": str(port),
        "ORT_THREADS": "1",
        "MAX_BODY_BYTES": str(LIMIT),
        **variables,
    }
    with tempfile.TemporaryFile() as log:
        output = log if stdout is None else stdout
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.PIPE)
        try:
            yield Running(process, port, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.communicate(timeout=DEADLINE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()


def wait_until_alive(server: Running) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{server.url}/health/live", timeout=DEADLINE).raise_for_status()
            return
        time.sleep(0.05)
    raise AssertionError("the server did not come up")


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Running]:
    with started(models_dir) as running:
        wait_until_alive(running)
        yield running


def test_real_clients_get_real_answers(server: Running, pixels: np.ndarray) -> None:
    png, jpeg = encode(pixels[0]), encode(PHOTO, "JPEG")
    assert requests.get(f"{server.url}/health/ready", timeout=DEADLINE).status_code == 200
    answer = requests.post(f"{server.url}/predict", data=png, timeout=DEADLINE).json()
    expected = oracle("sigmoid_without_bn", pixels[:1])[0]
    best = answer["images"][0]["top"][0]
    assert best["index"] == expected.argmax()
    assert best["probability"] == pytest.approx(expected.max(), abs=1e-6)
    headers = {"Content-Type": "image/jpeg"}
    sent = requests.post(f"{server.url}/predict", data=jpeg, headers=headers, timeout=DEADLINE)
    assert sent.status_code == 200
    files = [("image", ("a.png", png)), ("image", ("b.jpg", jpeg))]
    form = requests.post(f"{server.url}/predict", files=files, timeout=DEADLINE).json()
    assert [image["name"] for image in form["images"]] == ["a.png", "b.jpg"]
    assert form["images"][0]["top"] == answer["images"][0]["top"]
    assert form["images"][1]["top"] == sent.json()["images"][0]["top"]


def test_as_many_connections_as_the_system_allows(models_dir: Path) -> None:
    command = ("sh", "-c", f"ulimit -Sn 256; exec '{sys.executable}' -m service")
    with started(models_dir, command=command, WEB_CONCURRENCY="1") as server:
        wait_until_alive(server)
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    soft, hard = next(line for line in limits.splitlines() if "open files" in line).split()[3:5]
    assert soft == hard != "256"


def test_threads_answer_each_client_with_its_own_picture(
    server: Running, pixels: np.ndarray
) -> None:
    def ask(index: int) -> int:
        picture = encode(pixels[index % 8])
        answer = requests.post(f"{server.url}/predict", data=picture, timeout=DEADLINE).json()
        best: int = answer["images"][0]["top"][0]["index"]
        return best

    expected = oracle("sigmoid_without_bn", pixels).argmax(axis=1)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(64))) == [expected[i % 8] for i in range(64)]


@pytest.mark.parametrize("size", [LIMIT + 1, 5 * LIMIT])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_answered_with_413(
    server: Running, size: int, chunked: bool
) -> None:
    body = bytes(size)
    data = iter([body[i : i + 65536] for i in range(0, size, 65536)]) if chunked else body
    response = requests.post(f"{server.url}/predict", data=data, timeout=DEADLINE)
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"
    assert f"larger than the {LIMIT:,} bytes" in response.json()["detail"]


def test_a_chunked_picture_is_answered(server: Running) -> None:
    data = encode(PHOTO)
    parts = iter([data[:10], data[10:]])
    assert requests.post(f"{server.url}/predict", data=parts, timeout=DEADLINE).status_code == 200


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        ("", encode(PHOTO), 400),  # neither a length nor chunks: there is no body
        ("Content-Length: 5\r\n", b"hello", 415),
        ("Content-Length: nonsense\r\n", b"hello", 400),
        ("Content-Length: -1\r\n", b"hello", 400),
        (f"Content-Length: {10**18}\r\n", b"hello", 413),
        ("Transfer-Encoding: chunked\r\n", b"zz\r\nnot a chunk\r\n", 400),
    ],
)
def test_broken_framing_is_the_clients_fault(
    server: Running, head: str, body: bytes, status: int
) -> None:
    start = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n"
    answer = server.send(start.encode() + body, hang_up=False)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]
    kind = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"content-type: application/problem+json" in kind
    assert requests.get(f"{server.url}/health/live", timeout=DEADLINE).status_code == 200


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 1000\r\n", b"cut off"),
        ("Transfer-Encoding: chunked\r\n", b"ffff\r\ncut off"),
    ],
)
def test_a_client_that_hangs_up_before_it_is_done_gets_no_answer_and_harms_nobody(
    server: Running, head: str, body: bytes
) -> None:
    start = f"POST /predict HTTP/1.1\r\nHost: localhost\r\n{head}\r\n"
    assert server.send(start.encode() + body, hang_up=True) == b""
    assert requests.get(f"{server.url}/health/live", timeout=DEADLINE).status_code == 200


def test_sigterm_ends_the_server_with_status_0_and_its_log_is_json(models_dir: Path) -> None:
    with started(models_dir, WEB_CONCURRENCY="2") as server:
        wait_until_alive(server)
        requests.post(f"{server.url}/predict", data=encode(PHOTO), timeout=DEADLINE)
        server.process.send_signal(signal.SIGTERM)
        _, err = server.process.communicate(timeout=DEADLINE)
        server.log.seek(0)
        out = server.log.read()
    assert server.process.returncode == 0
    assert err == b""
    lines = [json.loads(line) for line in out.splitlines()]
    (answered,) = [line for line in lines if line.get("path") == "/predict"]
    assert (answered["status"], answered["variant"]) == (200, "sigmoid_without_bn")


def test_a_broken_repository_leaves_the_server_alive_not_ready_and_named_on_stderr(
    tmp_path: Path,
) -> None:
    with started(tmp_path / "exported_models") as server:
        wait_until_alive(server)
        ready = requests.get(f"{server.url}/health/ready", timeout=DEADLINE)
        server.process.send_signal(signal.SIGTERM)
        _, err = server.process.communicate(timeout=DEADLINE)
    assert ready.status_code == 503
    assert "exported_models/manifest.json: there is no such file" in ready.json()["detail"]
    assert f"Not ready: {tmp_path}/exported_models/manifest.json" in err.decode()


def test_an_address_that_is_taken_or_nowhere_is_told_at_once(
    models_dir: Path, server: Running
) -> None:
    for variables, words in (
        ({"PORT": str(server.port)}, f"port {server.port} of 127.0.0.1: Address already in use"),
        ({"HOST": "nowhere.invalid"}, "of nowhere.invalid: "),
        ({"HOST": "127.0..1"}, "of '127.0..1': that is neither an address nor a name; set another"),
        ({"HOST": "caf\udce9"}, r"of 'caf\udce9': that is neither an address nor a name; set a"),
        ({"HOST": "192.0.2.1"}, "of 192.0.2.1: Cannot assign requested address; set another HOST"),
    ):
        with started(models_dir, **variables) as refused:
            _, err = refused.process.communicate(timeout=DEADLINE)
        assert refused.process.returncode == 1
        assert err.decode().startswith("Error: cannot listen on port ")
        assert words in err.decode()
        assert len(err.splitlines()) == 1


LOCALHOST_6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))
LOCALHOST_4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("host", "addresses", "listens"),
    [
        ("localhost", [LOCALHOST_6, LOCALHOST_4], "127.0.0.1:{}"),
        ("localhost", [LOCALHOST_4, LOCALHOST_6], "127.0.0.1:{}"),
        ("ip6-localhost", [LOCALHOST_6], "[::1]:{}"),
        ("127.1", None, "127.0.0.1:{}"),
        ("0.0.0.0", None, "0.0.0.0:{}"),
        ("::", None, "[::]:{}"),
    ],
)
def test_the_address_that_is_tried_is_the_one_that_is_listened_on(
    host: str, addresses: list[Any] | None, listens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if addresses is not None:
        monkeypatch.setattr("service.server.socket.getaddrinfo", lambda *_, **__: addresses)
    family = socket.AF_INET6 if "[" in listens else socket.AF_INET
    try:
        taken = socket.create_server(("::1" if "[" in listens else "127.0.0.1", 0), family=family)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match="already in use; set another PORT"):
            free_address(host, port)
    assert free_address(host, port) == listens.format(port)


def test_a_name_is_listened_on_and_logged_by_its_address(models_dir: Path) -> None:
    with started(models_dir, HOST="localhost") as server:
        wait_until_alive(server)
        said = [line["message"] for line in server.lines() if "message" in line]
    assert any(f"Listening at: http://127.0.0.1:{server.port} " in each for each in said)


@pytest.mark.skipif(why_no_gpu() is None, reason="a GPU works here")
def test_a_required_gpu_that_is_missing_ends_the_server_with_its_cause(models_dir: Path) -> None:
    with started(models_dir, REQUIRE_GPU="1") as server:
        _, err = server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode != 0
    assert b"REQUIRE_GPU=1, but no GPU works: " in err
    assert b"Traceback" not in err
