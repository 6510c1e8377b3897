"""``--ray``: two real machines of one cluster; what they are told; what is kept when gathering."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import pytest
from click.testing import CliRunner

import training.data
from tests.training.commands import (
    ENVIRONMENT,
    STEPS,
    WORDS,
    kill_when_fitting,
    record_of,
    start,
)
from tests.training.nodes import start_node
from tests.training.trials import make_recipe
from training import cluster
from training.cli import main
from training.cluster import pack, run_on_ray, unpack
from training.fit import fit
from training.freeze import freeze
from training.spread import DEATHS
from training.trial import Trial, TrialError, read_record
from training.variants import VARIANTS


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def two_machines(tmp_path: Path) -> Iterator[tuple[str, list[Path]]]:
    """A Ray cluster of two nodes on 127.0.0.1, a CPU each, every one in a folder of its own."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    bounds = [
        "--num-cpus=1",
        "--num-gpus=0",
        "--object-store-memory=80000000",
        "--memory=2000000000",
    ]
    folders = [tmp_path / "one", tmp_path / "two"]
    nodes = []
    where = ["--head", "--port=0", "--include-dashboard=false", "--disable-usage-stats"]
    try:
        for folder in folders:
            folder.mkdir()
            words = [*ray, "start", *where, "--node-ip-address=127.0.0.1", *bounds, "--block"]
            node, said = start_node(words, folder)
            nodes.append(node)
            if len(nodes) == 1:
                found = re.search(r"--address='(\S+:\d+)'", said)
                assert found, said
                address = found[1]
                where = [f"--address={address}"]
        yield address, folders
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            node.communicate(timeout=60)


def test_two_ray_machines_share_the_trials_and_survive_a_killed_worker(
    two_machines: tuple[str, list[Path]], tmp_path: Path
) -> None:
    address, machines = two_machines
    with start(tmp_path, "--seeds", "0", "--ray", address, KERAS_BACKEND="jax") as first:
        output, _ = first.communicate(timeout=240)
        assert first.returncode == 0, output
    before = record_of(tmp_path, 0)
    assert before["backend"] == "jax"  # which the machines were not started with
    with start(tmp_path, "--seeds", "0-2", "--ray", address) as second:
        kill_when_fitting("ray::", machines, seed=2)
        output, _ = second.communicate(timeout=240)
        assert second.returncode == 0, output
    assert "seed-0: done already" in output
    assert record_of(tmp_path, 0) == before
    for seed in (1, 2):
        assert output.count(f"seed-{seed}: done on") == 1
    worked = [
        [seed for seed in range(3) if record_of(m, seed)["status"] == "frozen"] for m in machines
    ]
    assert all(worked)  # both machines did some
    assert sorted(worked[0] + worked[1]) == [0, 1, 2]  # and no seed was run on both
    for seed in range(3):
        gathered = tmp_path / f"runs/demo/relu_without_bn/seed-{seed}"
        assert read_record(gathered)["outcome"]["steps"] == STEPS
        assert (gathered / "frozen.keras").stat().st_size > 1_000_000
    again = start(tmp_path, "--seeds", "0-2", "--ray", address)
    output, _ = again.communicate(timeout=120)
    assert output.count("done already") == 3


def test_without_ray_the_option_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = [*shlex.split(WORDS)[:-1], str(tmp_path), "--ray", "auto"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "pip install ray" in done.output


def test_what_is_gathered_is_what_was_left(relu_without_bn: Any, tmp_path: Path) -> None:
    files = pack(relu_without_bn.folder)
    unpack(files, tmp_path / "seed-0", print)
    assert pack(tmp_path / "seed-0") == files
    configuration = relu_without_bn.record["configuration"]
    assert read_record(tmp_path / "seed-0")["configuration"] == configuration


class Ray:
    """A cluster of one worker, which runs a task at once, in another folder, as another machine."""

    exceptions = SimpleNamespace(RayError=ConnectionError)

    def __init__(self, machine: Path) -> None:
        self.machine, self.options = machine, {}
        self.asked: list[tuple[Any, ...]] = []

    def init(self, **_: Any) -> None: ...
    def shutdown(self) -> None: ...

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1.0}}]

    def remote(self, **options: Any) -> Callable[..., Any]:
        self.options = options
        return lambda task: SimpleNamespace(remote=lambda *asked: self.run(task, asked))

    def run(self, task: Callable[..., Any], asked: tuple[Any, ...]) -> Future[Any]:
        self.asked.append(asked)
        done: Future[Any] = Future()
        here = Path.cwd()
        os.chdir(self.machine)
        try:
            done.set_result(task(*asked))
        except TrialError as error:
            done.set_exception(error)
        finally:
            os.chdir(here)
        return done

    def wait(self, pending: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return pending[:num_returns], pending[num_returns:]

    def get(self, done: Future[Any]) -> Any:
        return done.result()


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_dataset: Any) -> Ray:
    (tmp_path / "machine").mkdir()
    (tmp_path / "driver").mkdir()
    monkeypatch.chdir(tmp_path / "driver")
    fake = Ray(tmp_path / "machine")
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(cluster, "_check_reachable", lambda _: None)
    monkeypatch.setattr(training.data, "load", lambda *_: small_dataset)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # what a task sets stays its own
    return fake


def make_trial(steps: int, **changes: Any) -> Trial:
    recipe = replace(make_recipe(steps, 5), freeze_images=100, freeze_batch=50, **changes)
    return Trial(recipe, VARIANTS["relu_without_bn"], 0, Path("runs"))


def asked_of_ray(trial: Trial) -> list[str]:
    said: list[str] = []
    run_on_ray([trial], None, "auto", 0.0, said.append)
    return said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_another_trial_and_a_longer_one_are_not_overwritten(ray: Ray, small_dataset: Any) -> None:
    trial = make_trial(3)
    fit(trial, small_dataset)
    freeze(trial.folder, small_dataset)
    before = contents(trial.folder)
    with pytest.raises(TrialError, match=r"holds another trial \(recipe.batch is 4 there and 8"):
        asked_of_ray(make_trial(3, batch=8))
    assert asked_of_ray(make_trial(2)) == [
        f"{trial.folder}: done already (3 steps), nothing to fit"
    ]
    assert contents(trial.folder) == before
    assert not ray.asked


def test_what_came_meanwhile_is_not_overwritten_either(ray: Ray, small_dataset: Any) -> None:
    """The folder is looked at again, and held, when the files are there."""
    short, long, other = make_trial(2), make_trial(3), make_trial(2, batch=8)
    for trial in (short, other):
        there = replace(trial, runs=ray.machine / str(trial.recipe.batch))
        fit(there, small_dataset)
        freeze(there.folder, small_dataset)
    fit(long, small_dataset)
    before = contents(long.folder)
    unpack(pack(ray.machine / "4" / short.folder.relative_to("runs")), long.folder, print)
    assert contents(long.folder) == before
    with pytest.raises(TrialError, match=r"holds another trial"):
        unpack(pack(ray.machine / "8" / short.folder.relative_to("runs")), long.folder, print)
    assert contents(long.folder) == before


def test_a_gathered_trial_is_taken_further_here_and_there(ray: Ray, small_dataset: Any) -> None:
    asked_of_ray(make_trial(2))
    said: list[str] = []
    fit(make_trial(3), small_dataset, say=said.append)
    assert "goes on from step 2 of 3" in said[0]
    shutil.rmtree(ray.machine / "runs")  # the next task comes to a machine that never saw it
    assert "done on" in asked_of_ray(make_trial(4))[-1]
    record = read_record(make_trial(4).folder)
    assert record is not None
    assert (record["status"], record["outcome"]["steps"]) == ("frozen", 4)
    rows = (make_trial(4).folder / "history.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["step", "4"]


def test_files_of_another_trial_do_not_stay_beside_a_gathered_record(
    relu_without_bn: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "seed-0"
    folder.mkdir()
    for name in ("checkpoint.npz", "model.keras"):
        (folder / name).write_bytes(b"of a trial whose record is gone")
    files = pack(relu_without_bn.folder)
    unpack(files, folder, print)
    assert pack(folder) == files
    assert (folder / "model.keras").read_bytes() == files["model.keras"]


def test_a_worker_is_told_backend_threads_and_where_the_data_is(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial(1)
    run_on_ray([trial], Path("cifar"), "auto", 0.0, print)
    _, data, _, environment = ray.asked[0]
    assert data == Path.cwd() / "cifar"
    assert environment["KERAS_BACKEND"] == keras.backend.backend()
    assert environment["TF_NUM_INTRAOP_THREADS"] == environment["NPROC"] == "1"
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "1"  # and the task heeded it
    assert ray.options["num_cpus"] == 1
    assert ray.options["max_retries"] + 1 == DEATHS  # runs, as many as with --jobs
    monkeypatch.setitem(os.environ, "TF_NUM_INTRAOP_THREADS", "2")
    said: list[str] = []
    run_on_ray([make_trial(2)], None, "auto", 0.0, said.append)
    assert ray.options["num_cpus"] == 2
    assert "no machine of the cluster has 2 CPUs" in said[0]


def test_a_worker_does_not_import_keras_before_it_is_told_the_backend() -> None:
    code = "import sys, training.cluster; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0


def test_an_address_where_no_cluster_is_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = f"127.0.0.1:{free_port()}"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(closed)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    expected = {
        closed: f"--ray {closed}: no Ray cluster answers there",
        "auto": f"joined last, {closed}: no Ray cluster answers there",
        "nonsense": "--ray nonsense: neither auto nor host:port",
        "host:99999999": "no Ray cluster answers there",
    }
    for address, message in expected.items():
        began = time.monotonic()
        arguments = [*shlex.split(WORDS)[:-1], str(tmp_path), "--ray", address]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 1
        assert message in done.output
        assert time.monotonic() - began < 20
    # As Ray has it: the variable is what auto means, and nothing beside an address.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for address, message in (
        (closed, f"--ray {closed}: no Ray"),
        ("auto", "RAY_ADDRESS says is 127.0.0.1:1: no Ray"),
    ):
        arguments = [*shlex.split(WORDS)[:-1], str(tmp_path), "--ray", address]
        assert message in CliRunner().invoke(main, arguments).output
