"""
What the machine has to offer: processors, load, disk space.

A container is often allowed fewer processors than the machine has; `cpu_budget` is what to start
pool processes by.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

__all__ = (
    "AUTO_CONCURRENCY",
    "CpuBudget",
    "available_cpu_count",
    "cgroup_cpu_quota",
    "cpu_budget",
    "df",
    "is_auto_concurrency",
    "load_average",
)

#: The setting that stands for `cpu_budget`.
AUTO_CONCURRENCY = "auto"

CGROUP_ROOT = "/sys/fs/cgroup"
PROC_SELF_CGROUP = "/proc/self/cgroup"


class CpuBudget(NamedTuple):
    """How many processors to use, and why: those available, and the quota (None for none)."""

    count: int  # type: ignore[assignment]  # hides the method, as the public name has to
    available: int
    quota: float | None


def is_auto_concurrency(value: Any) -> bool:
    """Say whether a setting asks for `cpu_budget`."""
    return isinstance(value, str) and value.strip().lower() == AUTO_CONCURRENCY


def available_cpu_count() -> int:
    """Return the number of processors this process may run on."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except (AttributeError, OSError):  # not every system can tell
        return os.cpu_count() or 1


def cpu_budget(use_cgroup_quota: bool = True) -> CpuBudget:
    """Return the number of processors to use: at least one, at most those available."""
    available = available_cpu_count()
    quota = cgroup_cpu_quota() if use_cgroup_quota else None
    count = available if quota is None else max(1, min(math.ceil(quota), available))
    return CpuBudget(count, available, quota)


def cgroup_cpu_quota() -> float | None:
    """Return how many processors' time the control groups of this process allow, or None."""
    quotas = [quota for directory in _cgroups() if (quota := _quota_in(directory)) is not None]
    # Each group is bound by those around it.
    return min(quotas, default=None)


def _cgroups() -> Iterator[str]:
    """Yield the directories of our groups, from the innermost outwards."""
    try:
        with open(PROC_SELF_CGROUP) as content:
            lines = content.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = CGROUP_ROOT
        elif "cpu" in controllers.split(","):
            root = os.path.join(CGROUP_ROOT, controllers)
            if not os.path.isdir(root):
                root = os.path.join(CGROUP_ROOT, "cpu")
        else:
            continue
        # Inside a container the path may be that of the host, where only the root is visible.
        steps = [step for step in path.split("/") if step and step != ".."]
        for depth in range(len(steps), -1, -1):
            yield os.path.join(root, *steps[:depth])


def _quota_in(directory: str) -> float | None:
    combined = _numbers_in(os.path.join(directory, "cpu.max"))
    if combined:
        quota, period = combined[0], combined[1] if len(combined) > 1 else 100000.0
    else:
        first = _numbers_in(os.path.join(directory, "cpu.cfs_quota_us"))
        second = _numbers_in(os.path.join(directory, "cpu.cfs_period_us"))
        if not first or not second:
            return None
        quota, period = first[0], second[0]
    if not math.isfinite(quota) or quota <= 0 or period <= 0:
        return None
    return quota / period


def _numbers_in(path: str) -> list[float]:
    try:
        with open(path) as content:
            words = content.read().split()
        return [math.inf if word == "max" else float(word) for word in words]
    except (OSError, ValueError):
        return []


def load_average() -> tuple[float, ...]:
    """Return the load over the last 1, 5 and 15 minutes, zeros where the system can't tell."""
    try:
        return tuple(round(load, 2) for load in os.getloadavg())
    except (AttributeError, OSError):
        return 0.0, 0.0, 0.0


class df:
    """Space on the file system of a path, in kilobytes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path

    def _kilobytes(self, blocks: int) -> float:
        return blocks * self.stat.f_frsize / 1024

    @property
    def available(self) -> float:
        """What is free for users."""
        return self._kilobytes(self.stat.f_bavail)

    @property
    def total_blocks(self) -> float:
        """All there is."""
        return self._kilobytes(self.stat.f_blocks)

    @property
    def capacity(self) -> int:
        """How full it is for users, in percent."""
        used = self.stat.f_blocks - self.stat.f_bfree
        usable = used + self.stat.f_bavail
        return math.ceil(100 * used / usable) if usable else 0

    @cached_property
    def stat(self) -> os.statvfs_result:
        """The answer of the system, asked once."""
        return os.statvfs(os.path.abspath(self.path))
