"""What this process computes with, for the records: tools, device, arithmetic, and its rate."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from service.cpus import usable_cpus
from training.backend import JAX_THREADS, THREADS, loaded_backend, threads_told

TOOLS = ("keras", "tensorflow", "jax", "numpy", "onnx", "tf2onnx", "onnxruntime-gpu", "onnxruntime")

BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # processors' flags: either one computes in it

# Dense TFLOP/s of the makers' data sheets, by what JAX and TensorFlow call the device: float32
# without TensorFloat-32, and bfloat16 of the tensor cores.
PEAKS = {
    "NVIDIA H200": (67, 989),
    "NVIDIA H100 80GB HBM3": (67, 989),
    "NVIDIA H100 PCIe": (51, 756),
    "NVIDIA A100-SXM4-80GB": (19.5, 312),
    "NVIDIA A100-SXM4-40GB": (19.5, 312),
    "NVIDIA L4": (30.3, 121),
}


def achieved(images_per_second: float, flop: float, device: str, precision: str) -> str:
    """The rate in words: images/s, arithmetic of ``flop`` an image, and the share of the peak."""
    rate = images_per_second * flop
    said = f"{images_per_second:,.0f} img/s, {rate / 1e9:,.0f} GFLOP/s"
    if device not in PEAKS:
        return said
    peak = PEAKS[device][precision == "bfloat16"]
    return f"{said}, {rate / 1e12 / peak:.1%} of the {peak} TFLOP/s of {device} in {precision}"


def versions() -> dict[str, str]:
    """Versions of Python and of the tools that are installed."""
    found = {"python": platform.python_version()}
    for tool in TOOLS:
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def arithmetic(precision: str) -> str:
    """In what a fit by a recipe of ``precision`` computes here.

    float32 takes bfloat16's place on a processor without instructions for it, where TensorFlow
    would compute it number by number: 15 pictures/s in place of 147 on two cores with AVX2.
    """
    return precision if precision == "float32" or _has_bfloat16() else "float32"


def _has_bfloat16() -> bool:
    if _accelerator() is not None:
        return True
    # Without oneDNN, TensorFlow has no kernels for the instructions.
    return not _is_off("TF_ENABLE_ONEDNN_OPTS") and not BFLOAT16.isdisjoint(_flags())


def _is_off(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("0", "false")


def _accelerator() -> str | None:
    """What Keras' backend computes with, by name; None: the processor."""
    backend = loaded_backend()
    if backend == "jax":
        device = sys.modules["jax"].devices()[0]
        return None if device.platform == "cpu" else str(device.device_kind)
    if backend == "tensorflow":
        config = sys.modules["tensorflow"].config
        for gpu in config.list_physical_devices("GPU"):
            return str(config.experimental.get_device_details(gpu).get("device_name", gpu.name))
    return None


def hardware() -> str:
    """The accelerator Keras' backend uses; or the processor, how many cores this process may use,
    and with how many threads, where those were set to fewer.
    """
    accelerator = _accelerator()
    if accelerator is not None:
        return accelerator
    cores = usable_cpus()
    said = f"{_processor()}, {cores} core{'s' * (cores > 1)}"
    threads = _threads(loaded_backend())
    if threads is not None and threads < cores:
        said += f", {threads} thread{'s' * (threads > 1)}"
    return said


def _threads(backend: str | None) -> int | None:
    """With how many threads ``backend`` was told to compute on a CPU; None where it was not."""
    told = 0
    if backend == "tensorflow":
        told = sys.modules[backend].config.threading.get_intra_op_parallelism_threads()
    return told or threads_told(JAX_THREADS if backend == "jax" else THREADS)


def _processor() -> str:
    return _told_by_linux("model name") or platform.processor() or platform.machine()


def _flags() -> set[str]:
    """What the processor can, by Linux' names; elsewhere none."""
    return set(_told_by_linux("flags").split())


def _told_by_linux(name: str) -> str:
    """What ``/proc/cpuinfo`` says of the first core; empty where it does not."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return ""
