"""Where and with what something was run, for the records; and the frameworks' quiet import."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
import tempfile
from pathlib import Path

from service.cpus import usable_cpus

BACKENDS = ("tensorflow", "jax")  # Keras' backends that steps are written for
THREADS = "TF_NUM_INTRAOP_THREADS"  # how many TensorFlow computes with; unset: one a core
JAX_THREADS = "NPROC"  # and JAX, on a CPU
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


def keep_float32() -> None:
    """Let float32 be float32 in this process: TensorFloat-32, with 10 bits for 23, is off.

    GPUs put it in float32's place by default. What is traced before this keeps it.
    """
    backend = _backend()
    if backend == "tensorflow":
        sys.modules[backend].config.experimental.enable_tensor_float_32_execution(False)
    elif backend == "jax":
        sys.modules[backend].config.update("jax_default_matmul_precision", "float32")


def keep_defaults() -> None:
    """Let Keras' own file (``~/.keras/keras.json``) choose the backend and nothing of a net.

    What a layer is not told it takes from there: another type of its numbers, or the channels
    first. No recipe asks for that, and no record would say so.
    """
    keras = sys.modules["keras"]
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")


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
    backend = _backend()
    if backend == "jax":
        device = sys.modules["jax"].devices()[0]
        return None if device.platform == "cpu" else str(device.device_kind)
    if backend == "tensorflow":
        config = sys.modules["tensorflow"].config
        for gpu in config.list_physical_devices("GPU"):
            return str(config.experimental.get_device_details(gpu).get("device_name", gpu.name))
    return None


def _backend() -> str | None:
    """Keras' backend, by the environment or by Keras' own file; None where Keras is not loaded."""
    return str(sys.modules["keras"].backend.backend()) if "keras" in sys.modules else None


def hardware() -> str:
    """The accelerator Keras' backend uses; or the processor, how many cores this process may use,
    and with how many threads, where those were set to fewer.
    """
    accelerator = _accelerator()
    if accelerator is not None:
        return accelerator
    cores = usable_cpus()
    said = f"{_processor()}, {cores} core{'s' * (cores > 1)}"
    threads = _threads(_backend())
    if threads is not None and threads < cores:
        said += f", {threads} thread{'s' * (threads > 1)}"
    return said


def threads_told(variable: str) -> int | None:
    """How many threads the environment's ``variable`` says; None where it says none."""
    value = os.environ.get(variable, "")
    return int(value) or None if value.isdecimal() else None


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


def import_quietly(module: str) -> None:
    """Import ``module`` without what TensorFlow's libraries write to stderr as they are loaded.

    ``TF_CPP_MIN_LOG_LEVEL`` does not reach those lines. Where the import fails they are shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            importlib.import_module(module)
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
