"""ONNX Runtime sessions: on the GPU where one works, else on the CPUs the process may use.

In: a model's bytes and ``RuntimeOptions``. Out: an ``InferenceSession``. The only module that
imports ONNX Runtime, because that must happen with its telemetry switched off.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

# Since 1.29 ONNX Runtime reports to its maker from Linux too, keeps an identifier on disk, and
# looks at this variable only when it is imported (microsoft/onnxruntime pull request 27379).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

onnxruntime.disable_telemetry_events()

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
CUDNN = "libcudnn.so.9"

_SHAPE = b"\x12\x16\n\x14\x08\x01\x12\x10" + 4 * b"\n\x02\x08\x01"
_TRIAL = (
    b'\x08\x08:[\n\x0f\n\x01x\n\x01x\x12\x01c"\x04Conv\n\x0b\n\x01c\x12\x01y"\x03Neg\x12\x01g'
    b"Z\x1b\n\x01x" + _SHAPE + b"b\x1b\n\x01y" + _SHAPE + b"B\x04\n\x00\x10\x0e"
)
"""A model to try a GPU with, by cuDNN and by ONNX Runtime itself: y = -Conv(x, x).

Both are float32 [1, 1, 1, 1].
"""

_NOT_STARTED = "ONNX Runtime could not start CUDA"
_SAID = f"{_NOT_STARTED}; its own message is above"

_FAILURE = re.compile(r"[A-Z_]+ failure -?[0-9]+: [^;\n]*[^; \n]")
"""What fails in CUDA, in the middle of what ONNX Runtime says of it.

Around it are a few hundred characters of C++. Source: ONNX Runtime's CudaCall.
"""

_failed: dict[str, str] = {}
"""Why a provider that was tried did not start; it is not tried again for every model."""

log = logging.getLogger(__name__)


class GpuError(Exception):
    """A GPU is required and none works; the message names the cause."""


@dataclass(frozen=True)
class RuntimeOptions:
    """``threads`` are one run's, on a CPU; the memory limit is in bytes.

    ``max_batch`` is the largest batch that is run at once on a GPU, 0 the default there.
    """

    threads: int = 1
    max_batch: int = 0
    require_gpu: bool = False
    gpu_memory_limit: int = 1 << 30


DEFAULT_OPTIONS = RuntimeOptions()


def create_session(model: bytes, options: RuntimeOptions = DEFAULT_OPTIONS) -> Any:
    """An ``InferenceSession`` on CUDA, or on the CPU if CUDA does not work here.

    Raises ``GpuError`` if a GPU is required, and ONNX Runtime's own errors for a model that it
    cannot load. A session on CUDA, or of several threads, does not survive a fork; one of a single
    thread on the CPU does.
    """
    cause = _failed.get(CUDA) or why_no_gpu()
    if cause is None:
        try:
            session = _session(model, options, [(CUDA, _cuda_options(options)), CPU])
            if session.get_providers()[0] == CUDA:
                return session
            cause = _SAID
        except Exception as error:  # its bindings raise a dozen unrelated types
            cause = f"{_NOT_STARTED}: {first_line(error)}"
        log.warning("no GPU: %s", cause)
        _failed[CUDA] = cause
    if options.require_gpu:
        raise GpuError(f"REQUIRE_GPU=1, but no GPU works: {cause}")
    return _session(model, options, [CPU])


@cache
def why_no_gpu() -> str | None:
    """What stands in the way of CUDA on this machine, or None if nothing is known to.

    Asked before CUDA is, because ONNX Runtime writes warnings to stderr when it fails to start.
    """
    cause = _why_no_driver()
    if cause is not None:
        return cause
    driver = ctypes.CDLL("libcuda.so.1")
    status = driver.cuInit(0)
    if status:
        return f"the NVIDIA driver does not start (cuInit returns {status})"
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return "the NVIDIA driver shows no device; see CUDA_VISIBLE_DEVICES"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    failures = [line for line in said.getvalue().splitlines() if line.startswith("Failed")]
    try:
        ctypes.CDLL(CUDNN)  # which is loaded by the first convolution, and not missed before
    except OSError as error:
        failures.append(str(error))
    if not failures:
        return None
    return f"CUDA's libraries are incomplete: {failures[0]}; requirements/service-gpu.txt has them"


def first_line(error: Exception) -> str:
    """What has failed, in a line of at most 300 characters, by an error of ONNX Runtime's."""
    found = _FAILURE.search(str(error))
    line = found[0] if found else (str(error).splitlines() or [type(error).__name__])[0]
    return line[:300]


def try_gpu() -> str | None:
    """Why CUDA does not work, or None where it does, as asked by a process that is going to fork.

    A child asks, and computes something: CUDA that has begun survives no fork, and a driver that is
    too old for it, or a GPU, shows only then. Where it fails, neither this process nor those that
    it forks try it again.
    """
    cause = _why_no_driver()
    if cause is not None:
        return cause
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        cause = "the process that tried it failed"
        try:
            cause = why_no_gpu() or _why_no_cuda() or ""
        finally:
            os.write(writing, cause.encode()[:4096])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        cause = said.read().decode(errors="replace")
    status = os.waitpid(child, 0)[1]
    if status:
        cause = f"the process that tried it ended with status {status}"
    if not cause:
        return None
    log.warning("no GPU: %s", cause)
    _failed[CUDA] = cause
    return cause


def _why_no_cuda() -> str | None:
    """Why ONNX Runtime does not compute on the GPU, or None where it does."""
    try:
        session = _session(_TRIAL, DEFAULT_OPTIONS, [(CUDA, _cuda_options(DEFAULT_OPTIONS)), CPU])
        if session.get_providers()[0] != CUDA:
            return _SAID
        session.run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})
    except Exception as error:  # its bindings raise a dozen unrelated types
        return f"{_NOT_STARTED}: {first_line(error)}"
    return None


def _why_no_driver() -> str | None:
    """What stands in the way of asking the driver."""
    if CUDA not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider; install onnxruntime-gpu"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1 is not there); in a container, pass the GPU to it"
    return None


@cache
def _share_arena() -> None:
    """One arena for the CPU memory of all sessions; each would keep its own peak otherwise.

    Four variants in batches of 16 then take 50 MB in place of 113.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)


def _session(model: bytes, options: RuntimeOptions, providers: list[Any]) -> Any:
    _share_arena()
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.use_env_allocators", "1")
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # A pattern is one allocation for a whole run, as large as the largest batch needs; without,
    # runs share what is free, in 18 MB less and no more time.
    settings.enable_mem_pattern = False
    # A model is one file: weights that it keeps in another were never hashed, and are not found.
    settings.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    return onnxruntime.InferenceSession(model, settings, providers=providers, enable_fallback=0)


def _cuda_options(options: RuntimeOptions) -> dict[str, str]:
    return {
        # EXHAUSTIVE, the default, times every algorithm again for every batch size.
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": str(options.gpu_memory_limit),
        "arena_extend_strategy": "kSameAsRequested",
        # TF32 rounds inputs to 10 bits: the answers would no longer be those whose parity the
        # model card records.
        "use_tf32": "0",
    }
