"""How many cores there are for this process: no more threads than that."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(cpu_max: Path = CPU_MAX) -> int:
    """The cores that the process may be scheduled on, or the container's share of CPU time if that is less.

    A container limited to 2 CPUs of 64 may be scheduled on all 64 until its share is used up, and then on none for the
    rest of the period: 64 threads would wait for each other most of the time.

    Args:
        cpu_max: of control groups version 2: `QUOTA PERIOD` in microseconds, the quota `max` where there is no limit.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # No such file, or no limit.
        return cores
