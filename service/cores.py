"""How many cores there are for this process: no more threads than that."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """The cores that the process may be scheduled on, or the container's share of CPU time if that is less.

    A container limited to 2 CPUs of 64 may be scheduled on all 64 until its share is used up, and then on none for the
    rest of the period: 64 threads would wait for each other most of the time.

    Args:
        cgroup: the container's control group, of version 2 or 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _quota(cgroup)
        return max(1, min(cores, math.ceil(quota / period))) if quota > 0 else cores
    except (OSError, ValueError, ZeroDivisionError):  # No such file, or no limit.
        return cores


def _quota(cgroup: Path) -> tuple[int, int]:
    """Microseconds of CPU time in a period, and those of the period; the quota of version 1 is -1 without a limit, and
    that of version 2 is no number."""
    if (both := cgroup / "cpu.max").is_file():
        quota, period = both.read_text().split()
        return int(quota), int(period)
    old = cgroup / "cpu"
    return int((old / "cpu.cfs_quota_us").read_text()), int((old / "cpu.cfs_period_us").read_text())
