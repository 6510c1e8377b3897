"""Where something was run, as the records say it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

from training import environment
from training.backend import with_threads
from training.environment import achieved, hardware

ON_AN_H100 = """
import types
import jax, keras
jax.devices = lambda: [types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")]
from training.environment import hardware
print(hardware())
"""


def test_the_hardware_is_that_of_the_backend_wherever_it_was_chosen(tmp_path: Path) -> None:
    """In Keras' own file, where KERAS_BACKEND is not set."""
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("KERAS_BACKEND", None)
    done = subprocess.run(
        [sys.executable, "-c", ON_AN_H100],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "NVIDIA H100 80GB HBM3", done.stderr


@pytest.mark.parametrize(
    ("cores", "threads", "says"),
    [
        (2, None, "2 cores"),
        (2, 1, "2 cores, 1 thread"),
        (8, 2, "8 cores, 2 threads"),
        (2, 2, "2 cores"),
        (2, 64, "2 cores"),  # a quota of two CPUs is what they are throttled to
        (1, 1, "1 core"),
    ],
)
def test_the_cores_are_those_that_may_be_used_and_the_threads_where_they_are_fewer(
    cores: int, threads: int | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in with_threads(1):
        monkeypatch.delenv(name, raising=False)
    for name, value in with_threads(threads).items() if threads else ():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(environment, "usable_cpus", lambda: cores)
    monkeypatch.setattr(environment, "_processor", lambda: "EPYC")
    jax = SimpleNamespace(devices=lambda: [SimpleNamespace(platform="cpu")])
    monkeypatch.setitem(sys.modules, "jax", jax)
    for backend in ("tensorflow", "jax"):
        monkeypatch.setattr(keras.backend, "backend", lambda name=backend: name)
        assert hardware() == f"EPYC, {says}"


def test_the_share_of_the_peak_is_that_of_the_precision() -> None:
    """NVIDIA's data sheet of the H100 SXM: 67 TFLOP/s in float32, 989 in bfloat16 (dense)."""
    device = "NVIDIA H100 80GB HBM3"
    for precision, share in (("float32", "50.0% of the 67"), ("bfloat16", "3.4% of the 989")):
        said = achieved(100_000, 335e6, device, precision)
        assert said == (
            f"100,000 img/s, 33,500 GFLOP/s, {share} TFLOP/s of {device} in {precision}"
        )
    assert achieved(100.4, 1e9, "AMD EPYC, 2 cores", "float32") == "100 img/s, 100 GFLOP/s"


@pytest.mark.parametrize(
    ("flags", "onednn", "computes_in"),
    [
        ("fpu avx512f avx512_bf16", None, "bfloat16"),
        ("fpu amx_bf16 amx_tile", "1", "bfloat16"),
        ("fpu avx512f avx512_bf16", "0", "float32"),  # nothing else knows the instructions
        ("fpu avx2 fma avx512f avx512_vnni", None, "float32"),
        (None, None, "float32"),  # not Linux, or not an x86
    ],
)
def test_bfloat16_is_computed_where_the_processor_has_it(
    flags: str | None,
    onednn: str | None,
    computes_in: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In software it would take ten times as long as float32."""
    told = tmp_path / "cpuinfo"
    lines = ["processor\t: 0", "model name\t: EPYC: 2", "", "processor\t: 1"]
    lines[2:2] = [f"flags\t\t: {flags}"] if flags is not None else []
    told.write_text("\n".join(lines))
    monkeypatch.setattr(environment, "Path", lambda _: told)
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if onednn is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
    assert environment.arithmetic("bfloat16") == computes_in
    assert environment.arithmetic("float32") == "float32"
    assert hardware().startswith("EPYC: 2, ")


def test_a_gpu_has_bfloat16_whatever_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA L4")
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(devices=lambda: [gpu]))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(environment, "_flags", set)
    assert environment.arithmetic("bfloat16") == "bfloat16"


def test_another_tools_threads_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setenv("NPROC", "1")
    monkeypatch.setattr(environment, "usable_cpus", lambda: 2)
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    assert hardware().endswith(", 2 cores")
