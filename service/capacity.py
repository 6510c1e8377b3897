"""How many processes, and how large a batch: by the settings, or else by the machine.

In: the settings, and the CPUs that may be used. Out: numbers, at least 1 unless stated otherwise.
"""

from __future__ import annotations

from service.cpus import usable_cpus
from service.models.model import GPU_BATCH
from service.settings import Settings

CPU_BATCH = 16
"""A picture costs the same in a batch of any size, and its neighbours wait for all of them."""

GPU_THREADS = 2
"""One batch computes while the next is on its way."""


def worker_processes(settings: Settings, *, gpu: bool = False) -> int:
    """Worker processes: on CPUs, as many as these have room for; a GPU is best fed by one."""
    if settings.web_concurrency:
        return settings.web_concurrency
    return 1 if gpu else max(1, usable_cpus() // settings.ort_threads)


def engine_threads(*, gpu: bool) -> int:
    """Runs beside the event loop in each worker; 0: the loop runs them itself."""
    return GPU_THREADS if gpu else 0


def decoding_share(settings: Settings) -> int:
    """Most pictures of one request that wait at a time to be decoded, on CPUs whatever computes."""
    return engine_batch(settings, gpu=False)


def engine_batch(settings: Settings, *, gpu: bool) -> int:
    """Most pictures in one run."""
    return settings.max_batch or (GPU_BATCH if gpu else CPU_BATCH)
