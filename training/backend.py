"""Keras' backends: loaded quietly, with a number of threads, and with the settings recipes rely on.

Only ``import_quietly`` imports Keras; the rest looks for it in ``sys.modules``.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile

BACKENDS = ("tensorflow", "jax")  # that steps are written for
THREADS = "TF_NUM_INTRAOP_THREADS"  # how many TensorFlow computes with; unset: one a core
JAX_THREADS = "NPROC"  # and JAX, on a CPU


def loaded_backend() -> str | None:
    """Keras' backend, by the environment or by Keras' own file; None where Keras is not loaded."""
    return str(sys.modules["keras"].backend.backend()) if "keras" in sys.modules else None


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


def keep_float32() -> None:
    """Let float32 be float32 in this process: TensorFloat-32, with 10 bits for 23, is off.

    GPUs put it in float32's place by default. What is traced before this keeps it.
    """
    backend = loaded_backend()
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


def with_threads(count: int) -> dict[str, str]:
    """The environment in which TensorFlow, and JAX on a CPU, compute with ``count`` threads."""
    return {THREADS: str(count), JAX_THREADS: str(count)}


def threads_told(variable: str) -> int | None:
    """How many threads the environment's ``variable`` says; None where it says none."""
    value = os.environ.get(variable, "")
    return int(value) or None if value.isdecimal() else None
