"""A GPU that fails while it serves: sessions that say they are on CUDA, and compute on the CPU."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import requests

from service.gpu import Gpu
from service.models.model import Model
from service.models.runtime import CPU, CUDA, why_no_gpu
from tests.service.clients import connect, head_of
from tests.service.engines import Fake, answer, looped, make_engine, pictures, submit, until
from tests.service.processes import workers
from tests.service.test_operations import wait_for_workers
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import encode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ILLEGAL = (
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered ; "
    "GPU=0 ; hostname=vm ; expr=cudaStreamSynchronize(stream);"
)
CAUSE = "the GPU has failed: CUDA failure 700: an illegal memory access was encountered"
ENDS = f"{CAUSE}; this worker ends, and another starts"


def on(provider: str, failing: Exception | None = None) -> Fake:
    model = Fake()
    model.provider, model.failing = provider, failing
    return model


def settle() -> None:
    """Wait for whatever is being looked into."""
    for thread in threading.enumerate():
        if thread.daemon and "_try" in thread.name:
            thread.join(DEADLINE)


@pytest.mark.parametrize("threads", [0, 2])
@looped
async def test_an_error_that_stays_is_told_once_and_its_requests_get_it(
    threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    gpu, model = Gpu(), on(CUDA, RuntimeError(ILLEGAL))
    engine = make_engine(threads=threads, max_batch=1, failed=gpu.failed)
    calls = [submit(engine, (model, pictures(value))) for value in range(5)]
    for call in calls:
        with pytest.raises(RuntimeError, match="illegal memory"):
            await answer(call)
    await until(lambda: gpu.fault is not None)
    settle()
    assert gpu.fault == CAUSE
    assert [(each.levelname, each.message) for each in caplog.records] == [("ERROR", ENDS)]


def test_without_a_loop_it_is_found_out_too() -> None:
    gpu, model = Gpu(), on(CUDA, RuntimeError(ILLEGAL))
    with pytest.raises(RuntimeError, match="illegal memory"):
        make_engine(failed=gpu.failed).run([(cast(Model, model), pictures(1))], deadline=1e99)
    settle()
    assert gpu.fault == CAUSE


class Short(Fake):
    """A model that has memory for one picture at a time."""

    def run(self, images: np.ndarray) -> np.ndarray:
        if len(images) > 1:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 268435456")
        return super().run(images)


@pytest.mark.parametrize("model", [Short(), on(CPU, RuntimeError(ILLEGAL))], ids=["short", "cpu"])
@looped
async def test_want_of_memory_and_what_fails_on_a_cpu_end_no_worker(
    model: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(model, Short):
        model.provider = CUDA
    gpu = Gpu()
    engine = make_engine(failed=gpu.failed)
    with pytest.raises(RuntimeError):
        await answer(submit(engine, (model, pictures(1, 2))))
    settle()
    assert gpu.fault is None
    assert caplog.records == []


SERVICE = """
import pathlib, sys, time
from service import server, worker
from service.__main__ import cli
from service.models import repository
from service.models.runtime import CUDA

gone, worker.LEAST_SECONDS = pathlib.Path(sys.argv.pop(1)), float(sys.argv.pop(1))
create, failed = repository.create_session, []

class OnGpu:
    def __init__(self, session):
        self.session = session

    def run(self, outputs, inputs):
        pictures = inputs["images"]
        if (pictures == 255).all(axis=(1, 2, 3)).any():
            failed.append(True)
        if failed:
            raise RuntimeError("ILLEGAL")
        if (pictures == 254).all(axis=(1, 2, 3)).any():
            raise RuntimeError("Failed to allocate memory for requested buffer of size 268435456")
        if (pictures == 253).all(axis=(1, 2, 3)).any():
            time.sleep(1e6)
        return self.session.run(outputs, inputs)

    def get_providers(self):
        return [CUDA, "CPUExecutionProvider"]

    def __getattr__(self, name):
        return getattr(self.session, name)

def create_session(data, options):
    return create(data, options) if gone.exists() else OnGpu(create(data))

repository.create_session, server.try_gpu = create_session, lambda: None
cli()
""".replace("ILLEGAL", ILLEGAL)
"""The service on a GPU: a white picture is its end, and the next worker has another.

There is no memory for a picture of 254 throughout, and one of 253 hangs. Workers that start once
there is a file called ``gone`` have no GPU.
"""

PICTURE, WHITE, SHORT, HANGING = (encode(each) for each in pictures(7, 255, 254, 253))


@contextmanager
def on_a_gpu(
    models_dir: Path, tmp_path: Path, least: float = 1, **variables: str
) -> Iterator[Running]:
    command = (sys.executable, "-c", SERVICE, str(tmp_path / "gone"), str(least))
    with started(models_dir, command=command, WEB_CONCURRENCY="", **variables) as server:
        wait_until_alive(server)
        yield server


def ask(server: Running, picture: bytes = PICTURE) -> requests.Response:
    return requests.post(f"{server.url}/predict", data=picture, timeout=DEADLINE)


def ready(server: Running) -> tuple[int, str]:
    answer = requests.get(f"{server.url}/health/ready", timeout=DEADLINE)
    return answer.status_code, answer.json().get("detail", "")


def wait_until_not_ready(server: Running) -> str:
    end = time.monotonic() + DEADLINE
    while (found := ready(server))[0] == 200:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert found[0] == 503
    return found[1]


def said(server: Running, words: str) -> list[dict[str, Any]]:
    return [line for line in server.lines() if words in line.get("message", "")]


def test_a_worker_whose_gpu_fails_says_so_and_makes_way_for_one_that_computes(
    models_dir: Path, tmp_path: Path
) -> None:
    with on_a_gpu(models_dir, tmp_path, least=2) as server, connect(server) as slow:
        slow.sendall(head_of(len(PICTURE)) + PICTURE[:10])
        before = ask(server)
        assert (before.status_code, before.json()["provider"]) == (200, CUDA)
        (worker,) = workers(server)
        failed = ask(server, WHITE)
        assert (failed.status_code, failed.json()["title"]) == (500, "Internal Server Error")
        assert wait_until_not_ready(server) == f"no model can be served: {CAUSE}"
        assert ask(server).status_code == 503  # and not 500: it may be asked again
        assert workers(server) == [worker]
        slow.sendall(PICTURE[10:])  # what is under way is answered
        assert slow.recv(100).startswith(b"HTTP/1.1 503 ")
        wait_for_workers(server, 1, without=worker)
        after = ask(server)
        assert after.json() == before.json()
        assert ready(server)[0] == 200
        (line,) = said(server, "the GPU has failed")
        assert (line["level"], line["message"]) == ("error", ENDS)
        server.process.terminate()
        _, err = server.process.communicate(timeout=DEADLINE)
    assert (server.process.returncode, err) == (0, b"")


def test_a_batch_that_finds_no_memory_costs_itself_alone(models_dir: Path, tmp_path: Path) -> None:
    with on_a_gpu(models_dir, tmp_path) as server:
        before = workers(server)
        assert ask(server, SHORT).status_code == 500
        time.sleep(2)
        assert ask(server).status_code == ready(server)[0] == 200
        assert workers(server) == before
        assert said(server, "the GPU has failed") == []


def test_a_gpu_that_fails_over_and_over_starts_no_worker_after_the_other(
    models_dir: Path, tmp_path: Path
) -> None:
    with on_a_gpu(models_dir, tmp_path, least=3) as server:
        statuses, end = set(), time.monotonic() + DEADLINE
        while len(begun := said(server, "Booting worker")) < 3:
            assert time.monotonic() < end
            statuses.add(ask(server, WHITE).status_code)
    assert statuses == {500, 503}
    first, second, third = (datetime.fromisoformat(line["time"]) for line in begun)
    assert min(second - first, third - second) >= timedelta(seconds=3)


def test_a_run_that_hangs_on_a_gpu_that_fails_holds_up_no_end(
    models_dir: Path, tmp_path: Path
) -> None:
    with on_a_gpu(models_dir, tmp_path, DEADLINE_SECONDS="1") as server:
        (worker,) = workers(server)
        assert ask(server, HANGING).status_code == 504
        assert ask(server, WHITE).status_code == 500
        wait_for_workers(server, 1, without=worker)
        assert ask(server).status_code == 200


@pytest.mark.skipif(why_no_gpu() is None, reason="a GPU works here")
@pytest.mark.parametrize("required", ["0", "1"])
def test_where_no_gpu_is_left_the_next_worker_computes_on_the_cpu_or_the_service_ends(
    models_dir: Path, tmp_path: Path, required: str
) -> None:
    with on_a_gpu(models_dir, tmp_path, REQUIRE_GPU=required) as server:
        (worker,) = workers(server)
        (tmp_path / "gone").touch()
        assert ask(server, WHITE).status_code == 500
        if required == "1":
            _, err = server.process.communicate(timeout=DEADLINE)
            assert server.process.returncode != 0
            assert err.decode().startswith("REQUIRE_GPU=1, but no GPU works: ")
            assert len(err.splitlines()) == 1
            return
        wait_for_workers(server, 1, without=worker)
        answer = ask(server)
        assert (answer.status_code, answer.json()["provider"]) == (200, CPU)
