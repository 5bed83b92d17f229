"""How many cores this process may use: its affinity and its container's CPU quota, not the machine's processors."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The least of affinity and the quotas of every cgroup above the process, whole, at least 1.

    A quota of 2.5 cores gives 2: a thread more would wait for its time while the others wait for it. `root` is where
    `proc` and `sys` are.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([affinity, *_quotas(root)])))


def cgroups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The folder of each cgroup above the process, from the top, for `controller`; and whether it is of version 2."""
    for line in read_file(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        is_v2 = not controllers
        if not (is_v2 or controller in controllers.split(",")):
            continue
        top = root / "sys/fs/cgroup" / controllers
        folder = top / place.lstrip("/")
        # A container sees its own group at the top, or its whole path.
        for group in dict.fromkeys((top, folder, *folder.parents)):
            if group.is_relative_to(top):
                yield group, is_v2


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each cgroup allows; those that set no limit, or cannot be read, are left out."""
    for group, is_v2 in cgroups(root, "cpu"):
        if quota := _quota_v2(group) if is_v2 else _quota_v1(group):
            yield quota


def _quota_v2(group: Path) -> float | None:
    quota, _, period = read_file(group / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(group: Path) -> float | None:
    return _ratio(read_file(group / "cpu.cfs_quota_us"), read_file(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    quota, period = quota.strip(), period.strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def read_file(path: Path) -> str:
    """The text of a file of the kernel; empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
