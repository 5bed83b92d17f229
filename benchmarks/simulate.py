"""What a scheduling policy does to users, without a model or a GPU: a trace of arrivals against a cost model.

    python -m benchmarks.simulate [--rate 3] [--seconds 300] [--costs cpu|h200] [--max-stall-s 0.25]… [--trace FILE]

Drives the real `app.engine.scheduler.Scheduler` on a simulated clock, as the engine's worker does, and beside it what
most servers do: batches that run whole. A trace is JSON lines: {"at_s", "source_tokens", "new_tokens", "beams"?}.
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.engine.request import EngineRequest, Job
from app.engine.scheduler import Decode, Encode
from benchmarks import report
from benchmarks.policies import Continuous, Policy, WholeBatches
from model.inference.decoding.options import DecodingOptions


@dataclass(frozen=True)
class Costs:
    """Seconds of an encoder batch by its padded tokens, and of a decode step by its rows."""

    encode_s: float
    encode_s_per_token: float
    step_s: float
    step_s_per_row: float

    def encode(self, padded_tokens: int) -> float:
        """Seconds to encode."""
        return self.encode_s + self.encode_s_per_token * padded_tokens

    def step(self, num_rows: int) -> float:
        """Seconds of one step."""
        return self.step_s + self.step_s_per_row * num_rows


# flan-t5-base. CPU: two cores in bfloat16, measured on an early eager form (8 x 256 tokens encoded in 0.66 s; 76, 396
# and 780 tokens/s decoded at 1, 8 and 32 rows). H200: the floor that its bandwidth sets, 2,000 documents/s encoded.
COSTS = {"cpu": Costs(0.005, 0.32e-3, 12.5e-3, 0.9e-3), "h200": Costs(50e-6, 1e-6, 52e-6, 4.2e-6)}


@dataclass(frozen=True)
class Request:
    """One arrival; without new tokens it only wants to be classified."""

    at_s: float
    source_tokens: int
    new_tokens: int
    beams: int = 1


@dataclass
class Story:
    """What happened: times by request (absent: expired unanswered), and what the batches were like."""

    requests: Sequence[Request]
    encoded_at: dict[int, float]
    answered_at: dict[int, float]
    expired: set[int]
    stalls: list[float]  # seconds that rows in flight stood still for an encoder batch
    step_rows: list[int]
    source_tokens: int = 0
    padded_tokens: int = 0


def simulate(requests: Sequence[Request], policy: Policy, costs: Costs, deadline_s: float = math.inf) -> Story:
    """Run `requests`, in order of arrival, through `policy` until nothing is left."""
    story = Story(requests, {}, {}, set(), [], [])
    left: dict[int, int] = {}  # new tokens still to come of what decodes
    arriving, now = 0, 0.0
    while True:
        while arriving < len(requests) and requests[arriving].at_s <= now:
            policy.add(_job(arriving, requests[arriving], deadline_s))
            arriving += 1
        for key in policy.expired(now):
            policy.remove(key)
            left.pop(key, None)
            story.expired.add(key)
        match policy.decide(now):
            case Encode(keys):
                padded = max(requests[key].source_tokens for key in keys) * len(keys)
                seconds = costs.encode(padded)
                policy.record_encoding(padded, seconds)
                story.encoded_at |= dict.fromkeys(keys, now)
                story.stalls += [seconds] if left else []
                story.source_tokens += sum(requests[key].source_tokens for key in keys)
                story.padded_tokens += padded
                now += seconds
                left |= {key: requests[key].new_tokens for key in keys if requests[key].new_tokens}
                story.answered_at |= {key: now for key in keys if not requests[key].new_tokens}
            case Decode():
                story.step_rows.append(policy.num_rows)
                now += costs.step(policy.num_rows)
                left = {key: count - 1 for key, count in left.items()}
                finished = [key for key, count in left.items() if count <= 0]
                for key in policy.finish(finished):
                    story.answered_at[key] = now
                    del left[key]
            case _ if arriving < len(requests):
                now = max(now, requests[arriving].at_s)
            case _:
                return story


def poisson(rate: float, seconds: float, seed: int = 0) -> list[Request]:
    """The mixed load of `benchmarks.serving`: 20 to 350 words, 8 to 128 new tokens."""
    draw = random.Random(seed)
    requests: list[Request] = []
    at_s = draw.expovariate(rate)
    while at_s < seconds:
        requests.append(Request(at_s, round(1.4 * draw.randint(20, 350)) + 5, draw.randint(8, 128)))
        at_s += draw.expovariate(rate)
    return requests


def read_trace(path: Path) -> list[Request]:
    """A recorded trace, in order of arrival."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return sorted((Request(**json.loads(line)) for line in lines if line.strip()), key=lambda request: request.at_s)


def summary(story: Story) -> dict[str, float]:
    """What a user feels, and how full the batches were. Unanswered requests count as infinitely late."""
    latencies = [story.answered_at.get(key, math.inf) - one.at_s for key, one in enumerate(story.requests)]
    waits = [at_s - story.requests[key].at_s for key, at_s in story.encoded_at.items()]
    end = max(story.answered_at.values(), default=0.0)
    return {
        "answered/s": len(story.answered_at) / end if end else 0.0,
        "wait p50": _percentile(waits, 50),
        "wait p95": _percentile(waits, 95),
        "p50": _percentile(latencies, 50),
        "p95": _percentile(latencies, 95),
        "p99": _percentile(latencies, 99),
        "stall p99": _percentile(story.stalls, 99),
        "stall max": max(story.stalls, default=0.0),
        "rows/step": sum(story.step_rows) / max(len(story.step_rows), 1),
        "padding": 1 - story.source_tokens / max(story.padded_tokens, 1),
        "expired": float(len(story.expired)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate every policy on one trace, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=3.0, help="arrivals a second")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long they arrive")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", type=Path, help="replay these instead")
    parser.add_argument("--costs", choices=COSTS, default="cpu")
    parser.add_argument("--deadline-s", type=float, default=60.0)
    parser.add_argument("--max-stall-s", type=float, action="append", help="one policy each [default: 0.1 0.25 1.0]")
    parser.add_argument("--max-decode-rows", type=int, default=64)
    parser.add_argument("--max-batch-tokens", type=int, default=8192)
    parser.add_argument(
        "--whole-batch", type=int, default=16, help="the batch size of the policy that runs whole batches"
    )
    args = parser.parse_args(argv)
    requests = read_trace(args.trace) if args.trace else poisson(args.rate, args.seconds, args.seed)
    policies: dict[str, Policy] = {
        f"in flight, max_stall_s {max_stall_s:g}": Continuous(
            max_batch_tokens=args.max_batch_tokens,
            max_decode_rows=args.max_decode_rows,
            max_stall_s=max_stall_s,
            max_batch_work_rows=args.max_decode_rows,
        )
        for max_stall_s in args.max_stall_s or (0.1, 0.25, 1.0)
    }
    policies[f"whole batches of {args.whole_batch}"] = WholeBatches(args.whole_batch)
    lines = []
    for name, policy in policies.items():
        columns = summary(simulate(requests, policy, COSTS[args.costs], args.deadline_s))
        lines.append([name, *(f"{value:.3g}" for value in columns.values())])
    print(report.table([f"{len(requests)} requests, {args.costs}", *columns], lines))


def _job(key: int, request: Request, deadline_s: float) -> Job:
    options = DecodingOptions(num_beams=request.beams) if request.new_tokens else None
    return Job(key, EngineRequest((key,), request.at_s + deadline_s, options=options), request.source_tokens)


def _percentile(values: Sequence[float], percent: int) -> float:
    if not values:
        return 0.0
    return sorted(values)[max(math.ceil(percent / 100 * len(values)), 1) - 1]


if __name__ == "__main__":
    main()
