"""How much memory this process may still take: what is free on the machine and in its container."""

from collections.abc import Iterator
from pathlib import Path

from app.cores import cgroups, read_file


def available_bytes(root: Path = Path("/")) -> int | None:
    """The least of what the kernel says is available and what each cgroup leaves; None where neither can be read.

    `root` is where `proc` and `sys` are.
    """
    return min([*_of_machine(root), *_of_cgroups(root)], default=None)


def _of_machine(root: Path) -> Iterator[int]:
    for line in read_file(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) * 1024


def _of_cgroups(root: Path) -> Iterator[int]:
    for group, is_v2 in cgroups(root, "memory"):
        limit = read_file(group / ("memory.max" if is_v2 else "memory.limit_in_bytes")).strip()
        used = read_file(group / ("memory.current" if is_v2 else "memory.usage_in_bytes")).strip()
        if limit.isdigit() and used.isdigit():
            yield max(0, int(limit) - int(used) + _cached(group, is_v2))


def _cached(group: Path, is_v2: bool) -> int:
    """Bytes of files that count as used and are given back when they are needed."""
    name = "inactive_file" if is_v2 else "total_inactive_file"
    for line in read_file(group / "memory.stat").splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    return 0
