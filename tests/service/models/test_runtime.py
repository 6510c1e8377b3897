"""What is tried before a GPU is counted on, where none is; with one, ``test_repository`` has it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from service.models.runtime import _TRIAL, create_session, first_line, why_no_gpu

TRIAL = """
from service.models import runtime

# As where a driver answers and CUDA's libraries are there, but ONNX Runtime cannot start it.
runtime._why_no_driver = runtime.why_no_gpu = lambda: None
cause = runtime.try_gpu()
assert cause is not None
print(cause)
tried = []
session = runtime._session
runtime._session = lambda model, options, providers: tried.append(providers) or session(
    model, options, providers
)
runtime.create_session(runtime._TRIAL)
print(tried)
"""

DRIVER = """
import ctypes
from types import SimpleNamespace
from service.models import runtime

class Driver:
    def cuInit(self, flags):
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

def load(name):
    return Driver() if name == "libcuda.so.1" else ctypes.CDLL(name)

runtime.ctypes = SimpleNamespace(CDLL=load, c_int=ctypes.c_int, byref=ctypes.byref)
print(runtime.why_no_gpu())
"""


CUDA_CALL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, "
    "void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, "
    "SUCCTYPE, const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; "
    "SUCCTYPE = cudaError; std::conditional_t<THRW, void, common::Status> = void] "
)
"""As ONNX Runtime 1.31.1 has it of a driver for CUDA 12, and twice."""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            f"{CUDA_CALL}{CUDA_CALL}CUDA failure 35: CUDA driver version is insufficient for CUDA "
            "runtime version ; GPU=-1 ; hostname=vm ; expr=cudaSetDevice(info_.device_id); \n\n",
            "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
        ),
        (
            f"[ONNXRuntimeError] : 1 : FAIL : Status Message: {CUDA_CALL}CUDNN_FE failure 4: "
            "CUDNN_STATUS_INTERNAL_ERROR ; GPU=0 ; hostname=vm",
            "CUDNN_FE failure 4: CUDNN_STATUS_INTERNAL_ERROR",
        ),
        (
            "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF\nmore",
            "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF",
        ),
        ("", "RuntimeError"),
    ],
)
def test_what_has_failed_is_said_in_a_line(said: str, line: str) -> None:
    assert first_line(RuntimeError(said)) == line


def test_what_a_gpu_is_tried_with_is_a_model() -> None:
    (rows,) = create_session(_TRIAL).run(None, {"x": np.full((1, 1, 1, 1), 3, np.float32)})
    assert rows.tolist() == [[[[-9]]]]


@pytest.mark.skipif(why_no_gpu() is None, reason="a GPU works here")
def test_a_gpu_whose_cuda_does_not_start_does_not_count_and_is_tried_once() -> None:
    """Else one worker alone would compute on one CPU, in the place of one on each."""
    done = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cause, tried = done.stdout.splitlines()
    assert cause.startswith("ONNX Runtime could not start CUDA")
    assert tried == "[['CPUExecutionProvider']]"


@pytest.mark.skipif(why_no_gpu() is None, reason="a GPU works here")
def test_where_cuda_is_not_installed_it_is_said_what_brings_it() -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CUDA's libraries are incomplete: Failed to load libcublasLt")
    assert done.stdout.endswith("; requirements/service-gpu.txt has them\n")
