"""How many CPUs this process may really use, by its affinity and its cgroup's quota.

``os.cpu_count()`` counts the machine's CPUs. With it, a container with a quota of two on a machine
with 64 would start 64 threads and be throttled in the middle of a convolution.
"""

from __future__ import annotations

import os
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs this process may use, at least 1; ``root`` is where /proc and /sys are mounted.

    A fractional quota is rounded down: a thread more than the quota only gets throttled.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas(root)])))


def _quotas(root: Path) -> list[float]:
    """The CPU quotas on the way from this process's cgroup to the top, in CPUs."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, files = root / "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mount, files = root / "sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        group = Path(path.lstrip("/"))
        # In a container the path may be the host's, and then only the mount's own files exist.
        for folder in (group, *group.parents):
            quota = _quota(mount / folder, files)
            if quota is not None:
                quotas.append(quota)
    return quotas


def _quota(folder: Path, files: list[str]) -> float | None:
    """Read one group's quota: version 2 holds "max 100000" or "150000 100000", version 1 two files.

    Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
    """
    try:
        quota, period = " ".join((folder / name).read_text() for name in files).split()
        cpus = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return cpus if cpus > 0 else None
