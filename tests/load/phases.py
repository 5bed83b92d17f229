"""The phases of a run of open-loop load, what came of each, and what that says. Knows nothing of Locust."""

from collections.abc import Sequence
from dataclasses import dataclass, field

STEPS = 10
_KEEPS_PACE = 0.9  # answers to arrivals, in one phase


@dataclass
class Phase:
    """A time of one rate, and what came of the requests that arrived in it."""

    start_s: float
    end_s: float
    rate: int  # arrivals a second
    answered_ms: list[float] = field(default_factory=list)
    completed: int = 0  # answers in it, to whichever request
    refused: int = 0
    wrong: int = 0

    @property
    def arrived(self) -> int:
        """Requests that have ended one way or another."""
        return len(self.answered_ms) + self.refused + self.wrong

    @property
    def keeps_pace(self) -> bool:
        """Whether answers come as fast as requests: none is refused, and what is in flight does not grow."""
        return not self.refused and not self.wrong and self.completed >= _KEEPS_PACE * self.arrived > 0

    def add(self, took_ms: float, *, refused: bool, wrong: bool) -> None:
        """Count a request that came in it."""
        if wrong:
            self.wrong += 1
        elif refused:
            self.refused += 1
        else:
            self.answered_ms.append(took_ms)

    def percentile_ms(self, share: float) -> float:
        """The time that this share of the answers takes at most; 0 without any."""
        ordered = sorted(self.answered_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def schedule(arrivals: str, rate: int, seconds: float) -> list[Phase]:
    """The phases of a run."""
    if arrivals == "constant":
        rates = [(1.0, rate)]
    elif arrivals == "ramp":
        rates = [(1 / STEPS, max(1, round(rate * step / STEPS))) for step in range(1, STEPS + 1)]
    else:
        rates = [(0.4, max(1, rate // 2)), (0.2, rate), (0.4, max(1, rate // 2))]
    phases, start_s = [], 0.0
    for share, of_phase in rates:
        phases.append(Phase(start_s, start_s + share * seconds, of_phase))
        start_s = phases[-1].end_s
    return phases


def knee(phases: Sequence[Phase]) -> int:
    """Arrivals a second of the last phase before the first that does not keep pace; 0 if none does."""
    found = 0
    for phase in phases:
        if not phase.keeps_pace:
            break
        found = phase.rate
    return found


def violations(phases: Sequence[Phase], max_p95_ms: float, max_refused: float) -> list[str]:
    """Why the run has failed; empty if it has not."""
    arrived = sum(phase.arrived for phase in phases)
    wrong = sum(phase.wrong for phase in phases)
    refused = sum(phase.refused for phase in phases) / max(1, arrived)
    everything = Phase(0, 0, 0, [took_ms for phase in phases for took_ms in phase.answered_ms])
    p95_ms = everything.percentile_ms(0.95)
    found = []
    if not everything.answered_ms:
        found.append("nothing was answered")
    if wrong:
        found.append(f"{wrong} of {arrived} answers are wrong")
    if p95_ms > max_p95_ms:
        found.append(f"95 % of the answers take {p95_ms:.0f} ms; {max_p95_ms:.0f} are allowed (--max-p95-ms)")
    if refused > max_refused:
        found.append(f"{refused:.1%} are refused; {max_refused:.1%} are allowed (--max-refused)")
    return found


def table(phases: Sequence[Phase]) -> str:
    """What came of each phase; of several, the knee."""
    lines = ["arrivals/s  answers/s  p50 ms  p95 ms  p99 ms  refused  wrong"]
    for phase in phases:
        rate = phase.completed / (phase.end_s - phase.start_s)
        times = "".join(f"{phase.percentile_ms(share):8.0f}" for share in (0.5, 0.95, 0.99))
        lines.append(f"{phase.rate:10}{rate:11.1f}{times}{phase.refused:9}{phase.wrong:7}")
    if len({phase.rate for phase in phases}) > 2:  # a ramp
        lines.append(f"knee: {knee(phases)} arrivals/s")
    return "\n".join(lines) + "\n"
