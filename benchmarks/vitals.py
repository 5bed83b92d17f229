"""What a process holds (memory, descriptors, threads) over time, and whether it grows. Linux: reads /proc."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# Medians of resident memory differ by as much without a leak: what a reload frees returns to the system in pieces.
_SPARE_MB = 48.0
_SPARE = 1.05


@dataclass(frozen=True)
class Vitals:
    """One look: seconds since the start, resident megabytes, open descriptors, threads."""

    at_s: float
    resident_mb: float
    descriptors: int
    threads: int


def look(pid: int, at_s: float) -> Vitals:
    """The process `pid` now."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")

    def number(name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
        assert found, name
        return int(found[1])

    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Vitals(at_s, number("VmRSS") / 1024, descriptors, number("Threads"))


def resident_early_and_late(looks: Sequence[Vitals]) -> tuple[float, float]:
    """Median resident megabytes of the second fifth, by which all is warm, and of the last."""
    end = looks[-1].at_s
    early = [one.resident_mb for one in looks if end / 5 <= one.at_s < end * 2 / 5]
    late = [one.resident_mb for one in looks if one.at_s >= end * 4 / 5]
    return median(early), median(late)


def growth(looks: Sequence[Vitals], before: Vitals, after: Vitals) -> list[str]:
    """What has grown: memory over the load's time, descriptors and threads from one quiet moment to another."""
    early, late = resident_early_and_late(looks)
    grown = []
    if late > early * _SPARE + _SPARE_MB:
        grown.append(f"resident memory from {early:.0f} to {late:.0f} MB")
    for name, least, most in (
        ("descriptors", before.descriptors, after.descriptors),
        ("threads", before.threads, after.threads),
    ):
        if most > least:
            grown += [f"{name} from {least} to {most}"]
    return grown
