"""The images' pins: those that the tests run on, hashed, and each image with one ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
IMAGES = ("service-cpu", "service-gpu", "training-tensorflow", "training-jax")
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
ARM64 = LINUX | {"platform_machine": "aarch64"}
MACOS = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}
MACHINES = {"linux-x86_64": LINUX, "linux-aarch64": ARM64, "darwin-arm64": MACOS}
PYTHONS = ("3.11", "3.12", "3.13")
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}

SETS = (*IMAGES, "service", "training")  # beside dev, which the tests run on


def pins(name: str) -> Iterator[tuple[Requirement, int]]:
    """Each pin of a set, and how many hashes it has."""
    text = (REQUIREMENTS / f"{name}.txt").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            pin, *hashes = line.split(" --hash=")
            yield Requirement(pin.strip()), len(hashes)


def installed(name: str, python: str, machine: dict[str, str] = LINUX) -> dict[str, str]:
    """The versions that pip would install of a set, on 64-bit Linux unless told otherwise."""
    environment = {**machine, "python_version": python, "python_full_version": f"{python}.0"}
    return {
        pin.name: str(pin.specifier)
        for pin, _ in pins(name)
        if pin.marker is None or pin.marker.evaluate(environment)
    }


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_set_holds_the_versions_that_the_tests_run_on(
    name: str, python: str, machine: str
) -> None:
    """Of ONNX Runtime too, whichever of its builds that is."""
    found, tested = installed(name, python, MACHINES[machine]), installed("dev", python)
    (version,) = {tested[name] for name in tested.keys() & RUNTIMES}
    assert {found[name] for name in found.keys() & RUNTIMES} == {version}
    both = found.keys() & tested.keys() - RUNTIMES
    assert {"flask", "gunicorn", "numpy", "pillow"} <= both
    assert {name: found[name] for name in both} == {name: tested[name] for name in both}


@pytest.mark.parametrize("name", [*SETS, "dev"])
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_an_environment_holds_the_one_build_of_onnx_runtime_that_its_machine_can_have(
    name: str, python: str, machine: str
) -> None:
    plain = name in IMAGES and name != "service-gpu"
    # On arm64 the GPU build wants a younger glibc: only an image for a GPU has it there.
    gpu = {"linux-x86_64": not plain, "linux-aarch64": name == "service-gpu"}.get(machine, False)
    expected = {"onnxruntime-gpu" if gpu else "onnxruntime"}
    assert installed(name, python, MACHINES[machine]).keys() & RUNTIMES == expected


@pytest.mark.parametrize("name", [*SETS, "dev"])
def test_every_pin_has_its_hashes_and_names_no_index(name: str) -> None:
    for pin, hashes in pins(name):
        assert str(pin.specifier).startswith("=="), pin
        assert hashes, pin
    assert "://" not in (REQUIREMENTS / f"{name}.txt").read_text()


def test_the_service_on_a_gpu_brings_cuda_13_and_cudnn_9() -> None:
    found = installed("service-gpu", "3.12")
    assert found["nvidia-cuda-runtime"].startswith("==13.")
    assert found["nvidia-cudnn-cu13"].startswith("==9.")


def test_make_sbom_lists_every_pin(tmp_path: Path) -> None:
    stamp = f"{sys.prefix}/.dev"  # this environment is there: it need not be made
    command = ["make", "--old-file", stamp, "sbom", f"VENV={sys.prefix}", f"SBOM={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in IMAGES:
        document = json.loads((tmp_path / f"{name}.cdx.json").read_text())
        assert document["bomFormat"] == "CycloneDX"
        assert document["metadata"]["component"]["name"] == "batchnorm-service"
        listed = {f"{each['name']}=={each['version']}" for each in document["components"]}
        assert listed == {f"{pin.name}{pin.specifier}" for pin, _ in pins(name)}
