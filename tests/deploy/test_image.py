"""The service's image, built for real and run as an orchestrator would; see ``container``."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.image import sizes
from benchmarks.processes import proportional_megabytes
from service.app import create_app
from service.settings import Settings
from tests.deploy.container import (
    LIMIT,
    ROOT,
    Container,
    Image,
    base_image,
    built,
    running,
    wait_until_ready,
    why_not,
)
from tests.service.hostile import PHOTO
from tests.service.tiny import encode

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

PORT = 8123
"""Not the default, so that PORT is seen to be honoured; each container has a network of its own."""

URL = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with built("service") as each:
        yield each


@pytest.fixture(scope="module")
def service(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    bundle = tmp_path_factory.mktemp("bundle")
    with running(image, bundle, variables={"PORT": str(PORT)}) as container:
        wait_until_ready(container, PORT)
        yield container


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """What the repository's own service answers to the same picture."""
    settings = Settings.from_environment({"MODELS_DIR": str(ROOT / "exported_models")})
    answer = create_app(settings).test_client().post("/compare?top_k=100", data=encode(PHOTO))
    assert answer.status_code == 200
    found: dict[str, Any] = answer.get_json()
    return found


def test_the_container_answers_as_the_repositorys_own_service_does(
    service: Container, expected: dict[str, Any]
) -> None:
    with service.network():
        answer = requests.post(f"{URL}/compare?top_k=100", data=encode(PHOTO), timeout=LIMIT)
    assert answer.status_code == 200
    (ours,), (theirs,) = answer.json()["images"], expected["images"]
    assert ours["variants"].keys() == theirs["variants"].keys()
    assert len(theirs["variants"]) == 4
    for variant, guesses in theirs["variants"].items():
        probabilities = {each["label"]: each["probability"] for each in guesses}
        answered = {each["label"]: each["probability"] for each in ours["variants"][variant]}
        assert len(answered) == 100
        assert answered == pytest.approx(probabilities, abs=1e-5)


def test_it_runs_as_a_user_without_rights_on_a_file_system_it_cannot_write(
    image: Image, service: Container
) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{service.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["10001"] * 4
    assert status["Gid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    for folder in ("/", "/app", "/venv", "/tmp", "/var/tmp", "/home"):
        assert service.execute("sh", "-c", f"! touch {folder}/file 2>/dev/null") == 0
    owned = [
        path
        for path in image.root.rglob("*")
        if not path.is_symlink() and path.lstat().st_uid == 10001
    ]
    assert not owned, "the service could change these where the file system can be written"


def test_the_image_compiles_nothing_when_it_starts(service: Container) -> None:
    script = (
        "import sys\n"
        "compiled = []\n"
        "def hook(event, arguments):\n"
        "    if event == 'compile' and str(arguments[1]).endswith('.py'):\n"
        "        compiled.append(arguments[1])\n"
        "sys.addaudithook(hook)\n"
        "import os, service.server\n"
        "from service.app import create_app\n"
        "from service.settings import Settings\n"
        "create_app(Settings.from_environment(os.environ))\n"
        "sys.exit('compiled: ' + ' '.join(compiled) if compiled else 0)\n"
    )
    assert service.execute("python3", "-c", script) == 0


def test_the_image_holds_no_tool_and_no_framework_that_serving_does_not_need(image: Image) -> None:
    (packages,) = image.root.glob("venv/lib/python3*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert {"onnxruntime", "flask", "PIL"} <= names
    assert not names & {"pip", "setuptools", "tensorflow", "keras", "onnx", "jax", "nvidia"}
    assert not list(packages.glob("onnxruntime/capi/*cuda*"))
    held = {path.name for path in (image.root / "app").iterdir()}
    assert held == {"exported_models", "service"}


def test_an_image_of_other_models_holds_these_and_differs_in_nothing_else(
    image: Image, tmp_path: Path
) -> None:
    models = Path(shutil.copytree(ROOT / "exported_models", tmp_path / "of-my-own"))
    for figure in models.glob("comparison.*"):
        figure.unlink()
    with built("service", models) as other:
        held = other.root / "app/exported_models"
        assert contents(held) == contents(models)
        assert contents(held) != contents(image.root / "app/exported_models")
        assert contents(other.root / "app/service") == contents(image.root / "app/service")
        assert other.config == image.config


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_training_images_user_may_read_and_run_it_whatever_the_checkouts_modes(
    tmp_path: Path,
) -> None:
    """Of a checkout that is its owner's alone, as where the umask is 077, and without packages."""
    for each in ("Dockerfile", ".dockerignore", "service", "training", "deploy"):
        if (ROOT / each).is_dir():
            shutil.copytree(ROOT / each, tmp_path / each)
        else:
            shutil.copy(ROOT / each, tmp_path / each)
    for path in tmp_path.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    (command,) = re.findall(
        r'^FROM base AS training$.*?^ENTRYPOINT \["([^"]*)"\]$',
        (tmp_path / "Dockerfile").read_text(),
        re.M | re.S,
    )
    with built("training-app", checkout=tmp_path) as image:
        files = [path for path in (image.root / "app").rglob("*") if path.is_file()]
        assert {"fit.py", "card.py"} <= {path.name for path in files}
        assert [path for path in files if path.stat().st_mode & 0o444 != 0o444] == []
        assert (image.root / command.lstrip("/")).stat().st_mode & 0o555 == 0o555


def test_a_folder_without_models_is_not_built_into_an_image(tmp_path: Path) -> None:
    command = ["make", "image", "ENGINE=buildah", f"MODELS={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"MODELS={tmp_path} has no manifest.json; make export MODELS=" in done.stderr


def test_the_images_size_is_within_its_limits(image: Image) -> None:
    measured = sizes(image.tag, base_image())
    assert measured["unpacked"] < 350
    assert measured["compressed_beyond_base"] < 120


def test_four_models_are_served_in_less_than_250_megabytes(service: Container) -> None:
    with service.network():
        for _ in range(20):
            requests.post(f"{URL}/compare", data=encode(PHOTO), timeout=LIMIT).raise_for_status()
    assert proportional_megabytes(service.pid) < 250


def test_the_health_check_says_whether_the_service_is_ready(
    image: Image, service: Container, tmp_path: Path
) -> None:
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert service.execute(*check) == 0
    broken = {"PORT": str(PORT), "MODELS_DIR": "/nowhere"}
    with running(image, tmp_path, variables=broken) as container:
        deadline = time.monotonic() + LIMIT
        while not _is_alive(container):
            assert time.monotonic() < deadline
        assert container.execute(*check) != 0


def test_several_workers_count_as_one_in_a_container_that_writes_nothing(
    image: Image, tmp_path: Path
) -> None:
    def counted() -> float:
        text = requests.get(f"{URL}/metrics", timeout=LIMIT).text
        series = r'^batchnorm_requests_total\{route="/predict".* ([\d.]+)$'
        return sum(map(float, re.findall(series, text, re.M)))

    variables = {"PORT": str(PORT), "WEB_CONCURRENCY": "2"}
    with running(image, tmp_path, variables=variables) as container:
        wait_until_ready(container, PORT)
        with container.network():
            for _ in range(20):
                requests.post(f"{URL}/predict", data=encode(PHOTO), timeout=LIMIT)
            end = time.monotonic() + LIMIT
            while counted() != 20:  # both workers have counted
                assert time.monotonic() < end
                time.sleep(0.1)
        container.terminate()
        assert container.process.wait(LIMIT) == 0


def test_it_opens_no_connection_but_those_that_it_was_asked_for(
    image: Image, tmp_path: Path
) -> None:
    with running(image, tmp_path, variables={"PORT": str(PORT)}) as container:
        wait_until_ready(container, PORT)
        before = container.counted()
        assert before["TcpActiveOpens"] > 0  # of ours, to see whether it was ready
        with container.network():
            for _ in range(20):
                response = requests.post(f"{URL}/compare", data=encode(PHOTO), timeout=LIMIT)
                response.raise_for_status()
        time.sleep(5)  # telemetry is sent in the background
        after = container.counted()
    assert after["TcpActiveOpens"] - before["TcpActiveOpens"] == 20
    assert after["TcpPassiveOpens"] - before["TcpPassiveOpens"] == 20
    for counter in _SENT_ELSEWHERE:
        assert after[counter] == 0, counter


_SENT_ELSEWHERE = ("UdpOutDatagrams", "Udp6OutDatagrams", "IpOutNoRoutes", "Ip6OutNoRoutes")
"""Names are asked for by UDP, and what is not in the container's network has no route."""


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.getaddrinfo('telemetry.example', 443)",
        "socket.create_connection(('192.0.2.1', 443), 1)",
        "socket.create_connection(('2001:db8::1', 443), 1)",
        # ONNX Runtime's own telemetry, which the service switches off.
        "import onnxruntime as o; o.InferenceSession('exported_models/relu_with_bn/1/model.onnx')",
    ],
    ids=["a name", "an address", "an IPv6 address", "telemetry"],
)
def test_a_connection_that_nobody_asked_for_would_be_seen(
    image: Image, tmp_path: Path, attempt: str
) -> None:
    script = f"import socket, time\ntry:\n {attempt}\nexcept OSError:\n pass\ntime.sleep(60)"
    with running(image, tmp_path, command=["python3", "-c", script]) as container:
        deadline = time.monotonic() + LIMIT
        while not any(container.counted()[counter] for counter in _SENT_ELSEWHERE):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_sigterm_under_load_loses_no_answer(image: Image, tmp_path: Path) -> None:
    variables = {"PORT": str(PORT), "DRAIN_SECONDS": "2"}
    with running(image, tmp_path, variables=variables) as container:
        wait_until_ready(container, PORT)
        load = _Load(container, expect=b'"relu_with_bn"')
        load.start()
        time.sleep(1)
        answered_before = len(load.statuses)
        container.terminate()
        load.stop_when_not_ready()
        status = container.process.wait(LIMIT)
    assert load.lost == []
    assert set(load.statuses) == {200}
    assert answered_before > 0
    assert len(load.statuses) > answered_before
    assert status == 0
    lines = [json.loads(line) for line in (tmp_path / "stdout").read_text().splitlines()]
    logged = sum(line.get("path") == "/compare" for line in lines)
    assert logged == len(load.statuses)
    assert (tmp_path / "stderr").read_text() == ""


class _Load:
    """Clients that ask one question after the other, each on a connection of its own.

    As a load balancer does, they stop asking when /health/ready says 503; every question that was
    asked until then must be answered.
    """

    clients = 8

    def __init__(self, container: Container, *, expect: bytes) -> None:
        self.statuses: list[int] = []
        self.lost: list[str] = []
        self._container = container
        self._expect = expect
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop_when_not_ready(self) -> None:
        with self._container.network():
            for asked in itertools.count():
                ready = requests.get(f"{URL}/health/ready", timeout=LIMIT).status_code
                if ready == 503:
                    break
                assert asked < 1000
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT)

    def _ask(self) -> None:
        body = encode(PHOTO)
        with self._container.network():
            while not self._stop.is_set():
                try:
                    answer = requests.post(f"{URL}/compare", data=body, timeout=LIMIT)
                except requests.RequestException as error:
                    self.lost.append(str(error))
                    continue
                self.statuses.append(answer.status_code)
                if self._expect not in answer.content:
                    self.lost.append(answer.text)


def _is_alive(container: Container) -> bool:
    try:
        with container.network():
            return requests.get(f"{URL}/health/live", timeout=LIMIT).status_code == 200
    except requests.ConnectionError:
        time.sleep(0.05)
        return False
