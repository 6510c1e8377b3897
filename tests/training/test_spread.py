"""Many trials at once: commands, processes that die, two Ray machines, and an Indexed Job."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import training.data
import training.fit
from training.cli import main
from training.recipes import RECIPES
from training.spread import command, left_to_do, pack, unpack
from training.trial import Trial, override, read_record
from training.variants import VARIANTS

ROOT = Path(__file__).parents[2]
STEPS = 100
WORDS = f"train --recipe demo --variants relu_without_bn --steps {STEPS} --batch 4 --runs runs"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # nobody else on this network may run tasks here
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "training", *shlex.split(WORDS), *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def record_of(folder: Path, seed: int) -> dict[str, Any]:
    record = read_record(folder / f"runs/demo/relu_without_bn/seed-{seed}")
    return record or {"status": "absent"}


def kill_when_fitting(marker: str, folders: list[Path], seed: int, seconds: float = 120) -> int:
    """Kill the process whose command line holds ``marker``, once it is at work on ``seed``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for folder in folders:
            if record_of(folder, seed)["status"] == "fitting":
                for pid in holders(folder / f"runs/demo/relu_without_bn/seed-{seed}/.lock"):
                    name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                    if marker.encode() in name:
                        os.kill(pid, signal.SIGKILL)
                        return pid
        time.sleep(0.02)
    raise AssertionError(f"no {marker} was seen at work on seed {seed}")


def holders(path: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.readlink() == path.resolve() for link in (folder / "fd").iterdir()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_trials_command_asks_for_that_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Trial] = []

    def fit(trial: Trial, dataset: Any, say: Any) -> dict[str, str]:
        asked.append(trial)
        return {"status": "frozen"}

    monkeypatch.setattr(training.fit, "fit", fit)
    monkeypatch.setattr(training.data, "load", lambda *_: None)
    recipe = override("demo", steps=70, batch=7, learning_rate=0.00123)
    trial = Trial(recipe, VARIANTS["sigmoid_with_bn"], 11, tmp_path, 200, True, 3)
    words = command(trial, data=None)
    assert words[:3] == [sys.executable, "-m", "training"]
    done = CliRunner().invoke(main, words[3:], catch_exceptions=False)
    assert done.exit_code == 0
    assert asked == [trial]


def test_an_index_picks_one_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kubernetes sets it in every pod of an Indexed Job."""
    asked: list[tuple[str, int]] = []

    def fit(trial: Trial, dataset: Any, say: Any) -> dict[str, str]:
        asked.append((trial.variant.name, trial.seed))
        return {"status": "frozen"}

    monkeypatch.setattr(training.fit, "fit", fit)
    monkeypatch.setattr(training.data, "load", lambda *_: None)
    arguments = ["train", "--recipe", "demo", "--seeds", "0-2", "--runs", str(tmp_path)]
    for index in range(12):
        environment = {"JOB_COMPLETION_INDEX": str(index)}
        done = CliRunner().invoke(main, arguments, env=environment, catch_exceptions=False)
        assert done.exit_code == 0
    assert asked == [(name, seed) for seed in (0, 1, 2) for name in VARIANTS]
    done = CliRunner().invoke(main, arguments, env={"JOB_COMPLETION_INDEX": "12"})
    assert done.exit_code == 1
    assert "there are 12 trials, 0 to 11" in done.output


def test_the_indexed_jobs_manifest_has_a_pod_a_trial() -> None:
    manifest = (ROOT / "deploy/kubernetes/training-indexed-job.yaml").read_text()
    (words,) = re.findall(r"args: \[(.*)\]", manifest)
    parsed = main.commands["train"].make_context("train", words.split(", ")).params
    (completions,) = re.findall(r"completions: (\d+)", manifest)
    assert len(parsed["variants"]) * len(parsed["seeds"]) == int(completions)
    assert "completionMode: Indexed" in manifest
    (program,) = re.findall(r"command: \[(.*)\]", manifest)
    assert program.split(", ") == ["python3", "-m", "training", "train"]


def test_what_is_gathered_is_what_was_left(relu_without_bn: Any, tmp_path: Path) -> None:
    files = pack(relu_without_bn.folder)
    unpack(files, tmp_path / "seed-0")
    assert pack(tmp_path / "seed-0") == files
    configuration = relu_without_bn.record["configuration"]
    assert read_record(tmp_path / "seed-0")["configuration"] == configuration


def test_a_killed_process_loses_no_finished_trial_and_no_seed_runs_twice(tmp_path: Path) -> None:
    with start(tmp_path, "--seeds", "0", "--jobs", "2") as first:
        output, _ = first.communicate(timeout=240)
        assert first.returncode == 0, output
    before = record_of(tmp_path, 0)
    with start(tmp_path, "--seeds", "0-2", "--jobs", "2") as second:
        kill_when_fitting("--seeds 1 ", [tmp_path], seed=1)
        output, _ = second.communicate(timeout=240)
        assert second.returncode == 0, output
    assert "seed-0: done already" in output
    assert "seed-1: killed by signal 9, goes on" in output
    assert record_of(tmp_path, 0) == before  # to the second that it took: it did not run again
    for seed in range(3):
        record = record_of(tmp_path, seed)
        assert (record["status"], record["outcome"]["steps"]) == ("frozen", STEPS)
    assert output.count(f"step {STEPS}, ") == 2  # seeds 1 and 2, once each


def test_a_failure_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    spoilt = tmp_path / "runs/demo/relu_without_bn/seed-0"
    spoilt.mkdir(parents=True)
    (spoilt / "checkpoint.npz").write_bytes(b"no checkpoint")
    with start(tmp_path, "--seeds", "0-1", "--jobs", "2") as run:
        output, _ = run.communicate(timeout=240)
    assert run.returncode == 1
    assert "1 of 2 trials failed" in output
    assert "checkpoint.npz: does not fit this trial" in output.splitlines()[-1]
    assert record_of(tmp_path, 1)["status"] == "frozen"


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
            node = subprocess.Popen(
                [*ray, "start", *where, "--node-ip-address=127.0.0.1", *bounds, "--block"],
                cwd=folder,
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            nodes.append(node)
            assert node.stdout is not None
            said = ""
            for line in node.stdout:
                said += line
                if "To terminate the Ray runtime" in line:
                    break
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
    with start(tmp_path, "--seeds", "0", "--ray", address) as first:
        output, _ = first.communicate(timeout=240)
        assert first.returncode == 0, output
    before = record_of(tmp_path, 0)
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
    assert "pip install 'batchnorm-service[ray]'" in done.output


def test_what_is_frozen_as_asked_is_not_left_to_do(relu_without_bn: Any) -> None:
    record = relu_without_bn.record
    runs = relu_without_bn.folder.parents[2]
    from training.trial import recipe_of

    trial = Trial(recipe_of(record), VARIANTS["relu_without_bn"], 0, runs)
    assert left_to_do([trial], lambda _: None) == []
    other = Trial(RECIPES["demo"], VARIANTS["relu_without_bn"], 0, runs)
    assert left_to_do([other], lambda _: None) == [other]
    assert json.dumps(record)
