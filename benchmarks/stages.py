"""What `benchmarks.serving` puts a server under: stretches of one kind of load, and the table that shows that kind."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import load, outcomes, report
from benchmarks.load import MIXED, UNIFORM, Mix
from benchmarks.servers import Server
from benchmarks.texts import Language, News

PATIENCE_S = outcomes.GOOD_WITHIN_S
SHORT = Mix("short", (20, 80), (1, 1))
_SETTLE_S = 2.0  # of a closed loop before topics come beside it
_TOPICS_PER_S = 10.0
_TOPIC_WITHIN_MS = 30
_MIXES = {one.name: one for one in (UNIFORM, MIXED)}


class Stage(ABC):
    """One stretch of load; its fields are numbers and names, which tell it from others in a kept result."""

    duration_s: float

    @abstractmethod
    async def run(self, server: Server, url: str, language: Language | News) -> dict[str, Any]:
        """What was measured."""

    def key(self) -> dict[str, Any]:
        """Of its results; how long it lasted is no part."""
        return {name: value for name, value in asdict(self).items() if name != "duration_s"}  # type: ignore[call-overload]


@dataclass(frozen=True)
class OpenLoop(Stage):
    """Requests come at `rate` a second, whatever becomes of those before."""

    mix: str
    rate: float
    duration_s: float

    async def run(self, server: Server, url: str, language: Language | News) -> dict[str, Any]:
        arrivals = load.poisson(_MIXES[self.mix], self.rate, self.duration_s, language)
        return outcomes.summary(await load.send(server, url, arrivals, PATIENCE_S), self.duration_s)


@dataclass(frozen=True)
class ClosedLoop(Stage):
    """So many clients, each asking again once it is answered."""

    mix: str
    clients: int
    duration_s: float

    async def run(self, server: Server, url: str, language: Language | News) -> dict[str, Any]:
        seen = await load.repeat(server, url, _MIXES[self.mix], self.clients, self.duration_s, language)
        return outcomes.closed_summary(seen, self.duration_s)


@dataclass(frozen=True)
class TopicsBeside(Stage):
    """Topics as interactive beside `clients` that ask for summaries in a closed loop, as `priority`."""

    priority: str
    clients: int
    duration_s: float

    async def run(self, server: Server, url: str, language: Language | News) -> dict[str, Any]:
        arrivals = load.poisson(SHORT, _TOPICS_PER_S, self.duration_s, language)
        topics, summaries = server.topics().of_priority("interactive"), server.of_priority(self.priority)
        lasts_s = self.duration_s + _SETTLE_S
        beside = asyncio.create_task(load.repeat(summaries, url, MIXED, self.clients, lasts_s, language))
        await asyncio.sleep(_SETTLE_S)
        measured = outcomes.summary(await load.send(topics, url, arrivals, PATIENCE_S), self.duration_s)
        return measured | {"summaries": outcomes.closed_summary(await beside, lasts_s)}


@dataclass(frozen=True)
class Kind:
    """One kind of load: its table's `name` (of the file and of the place in README.md), and what is measured.

    `of_bundled`: the bundled model on all cores but one, the client on that one; else random weights on every core.
    """

    name: str
    full: tuple[Stage, ...]
    quick: tuple[Stage, ...]
    header: tuple[str, ...]
    line: Callable[[Mapping[str, Any]], list[str]]
    order: Callable[[Mapping[str, Any]], Any]
    legend: str
    stage: Callable[[str, str, float], Stage]
    of_bundled: bool = False

    def parse(self, text: str) -> Stage:
        """A stage of this kind from MIX:RATE:SECONDS, MIX:CLIENTS:SECONDS or, of topics, PRIORITY:CLIENTS:SECONDS.

        Raises:
            ValueError: it is none.
        """
        name, number, seconds = text.split(":")
        return self.stage(name, number, float(seconds))

    def markdown(self, data: Mapping[str, Any]) -> str:
        """The table: a line for every server and stage."""
        lines = [self.line(one) for one in sorted(data["results"], key=self.order)]
        notes = "\n".join(f"- {name}: {text}" for name, text in data["notes"].items())
        return f"{report.caption(data['facts'])}\n{report.table(self.header, lines)}\n\n{self.legend}\n\n{notes}\n"


def _described(mixes: Sequence[Mix]) -> str:
    return "; ".join(
        f"{m.name}: {m.words[0]}–{m.words[1]} words, {m.new_tokens[0]}–{m.new_tokens[1]} new tokens" for m in mixes
    )


def _shown(seconds: float | None, unit: float = 1.0, digits: int = 2) -> str:
    return "–" if seconds is None else f"{seconds * unit:.{digits}f}"


def _open_line(one: Mapping[str, Any]) -> list[str]:
    return [
        one["mix"],
        f"{one['rate']:g}",
        one["server"],
        *(_shown(one[key]) for key in ("p50_s", "p95_s", "p99_s")),
        *(f"{one[key]:.1f}" for key in ("answered_per_s", "goodput_per_s")),
        str(one["refused"]),
        str(one["failed"] + one["unanswered"]),
    ]


def _closed_line(one: Mapping[str, Any]) -> list[str]:
    return [
        one["mix"],
        str(one["clients"]),
        one["server"],
        f"{one['answered_per_s']:.1f}",
        *(_shown(one[key]) for key in ("p50_s", "p90_s")),
        str(one["answered"]),
        str(one["refused"] + one["failed"]),
    ]


def _topics_line(one: Mapping[str, Any]) -> list[str]:
    summaries = one["summaries"]
    beside = f"{one['clients']} clients, {one['priority']}" if one["clients"] else "nothing"
    return [
        one["server"],
        beside,
        *(_shown(one[key], 1000, 1) for key in ("p50_s", "p95_s", "p99_s")),
        str(one["offered"]),
        *((f"{summaries['answered_per_s']:.1f}", _shown(summaries["p50_s"])) if one["clients"] else ("", "")),
        str(sum(part[key] for part in (one, summaries) for key in ("refused", "failed")) + one["unanswered"]),
    ]


OPEN = Kind(
    "serving",
    full=tuple(OpenLoop(mix, rate, 20) for mix, rate in (("uniform", 4), ("mixed", 3), ("uniform", 16), ("mixed", 8))),
    quick=(OpenLoop("uniform", 4, 3), OpenLoop("mixed", 4, 3)),
    header=("load", "offered/s", "server", "p50 s", "p95 s", "p99 s", "answered/s", "good/s", "refused", "lost"),
    line=_open_line,
    order=lambda one: (one["mix"] != "uniform", one["rate"]),
    legend=f"{_described((UNIFORM, MIXED))}. answered/s: in the last two thirds of the load, the pace at saturation. "
    f"good/s: answered within {outcomes.GOOD_WITHIN_S:g} s. lost: failed, or unanswered {PATIENCE_S:g} s after the "
    "load's end. A percentile that falls among those is –.",
    stage=lambda mix, rate, seconds: OpenLoop(_MIXES[mix].name, float(rate), seconds),
)
CLOSED = Kind(
    "serving-closed",
    full=(ClosedLoop("uniform", 8, 20), ClosedLoop("uniform", 32, 30), ClosedLoop("uniform", 64, 45)),
    quick=(ClosedLoop("uniform", 2, 2), ClosedLoop("mixed", 4, 2)),
    header=("load", "clients", "server", "requests/s", "p50 s", "p90 s", "answered", "refused or failed"),
    line=_closed_line,
    order=lambda one: (one["mix"] != "uniform", one["clients"]),
    legend=f"{_described((UNIFORM, MIXED))}. Each client asks again once it is answered. Measured is what is answered "
    "in the last two thirds of a stage.",
    stage=lambda mix, clients, seconds: ClosedLoop(_MIXES[mix].name, int(clients), seconds),
)
TOPICS = Kind(
    "serving-topics",
    full=(TopicsBeside("batch", 0, 20), TopicsBeside("batch", 32, 20), TopicsBeside("interactive", 32, 20)),
    quick=(TopicsBeside("batch", 0, 2), TopicsBeside("batch", 4, 2), TopicsBeside("interactive", 4, 2)),
    header=(
        *("server", "summaries beside", "topic p50 ms", "p95 ms", "p99 ms", "topics"),
        *("summaries/s", "p50 s", "refused, failed or late"),
    ),
    line=_topics_line,
    order=lambda one: (one["server"], one["clients"], one["priority"]),
    legend=f"Topics of texts of {SHORT.words[0]}–{SHORT.words[1]} words arrive at random, {_TOPICS_PER_S:g} a second "
    f"and as interactive, beside clients in a closed loop of summaries ({_described((MIXED,))}). The bundled model on "
    f"all cores but one, the clients on that one. Target: a topic under {_TOPIC_WITHIN_MS} ms.",
    stage=lambda priority, clients, seconds: TopicsBeside(priority, int(clients), seconds),
    of_bundled=True,
)
KINDS = {"open": OPEN, "closed": CLOSED, "topics": TOPICS}
