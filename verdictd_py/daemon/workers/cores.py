"""Number of cores that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final, Literal

from verdictd_py.config import MAX_WORKERS

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def worker_count(workers: int | Literal["auto"]) -> int:
    """Return the number of workers of a setting; `auto` is one for each core, within the maximum.

    With one, guests and operators are served by the same process.
    """
    return min(usable_cores(), MAX_WORKERS) if workers == "auto" else workers


def usable_cores(quota: Path = _QUOTA) -> int:
    """Return how many cores this process may use: its affinity, and the limit of its container.

    Args:
        quota: file `cpu.max` of the process's control group (version 2): microseconds and period.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        limit, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(limit) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no limit: "max"
        return cores
