"""Open-loop load: requests come at a given rate whether or not those before are answered, as from many strangers.

    locust -f tests/load/shapes.py --headless --host http://127.0.0.1:8000 --arrivals ramp --rate 40 --seconds 120

`constant`: `--rate` arrivals a second. `ramp`: from a tenth of it in ten steps to all of it; the last step with which
answers keep pace is the knee. `spike`: half of the rate, all of it for the middle fifth of the time, half again. The
run fails on a wrong answer, and on more than `--max-p95-ms` or a larger share of refusals than `--max-refused`.
What is asked, and how answers are checked, is in locustfile.py.
"""

import functools
import random
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

import gevent
import gevent.pool
import locustfile
from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import WorkerRunner
from phases import Phase, schedule, table, violations

MOST_CONNECTIONS = 1000


class Arrivals(locustfile.Reader):
    """One arrival a second, at the random intervals of a Poisson process; each asks what a reader asks."""

    concurrency = MOST_CONNECTIONS

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.in_flight = gevent.pool.Group()

    def wait_time(self) -> float:
        """Seconds until the next arrival."""
        return random.expovariate(1.0)

    def on_stop(self) -> None:
        """Wait for what is in flight."""
        self.in_flight.join()


def without_waiting(ask: Callable[[Any], None]) -> Callable[[Arrivals], None]:
    """The task, whose user goes on before its answer has come."""

    @functools.wraps(ask)  # its tags as well
    def arrive(user: Arrivals) -> None:
        user.in_flight.spawn(ask, user)

    return arrive


Arrivals.tasks = [without_waiting(one) for one in locustfile.Reader.tasks]


class Schedule(LoadTestShape):
    """As many users as arrivals a second."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[Phase] = []

    def tick(self) -> tuple[int, float] | None:
        """The users of now; None at the end."""
        now_s = self.get_run_time()
        for phase in self.phases:
            if now_s < phase.end_s:
                return phase.rate, phase.rate
        return None


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--arrivals", choices=("constant", "ramp", "spike"), default="constant")
    parser.add_argument("--rate", type=int, default=10, help="most arrivals a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--max-p95-ms", type=float, default=float("inf"))
    parser.add_argument("--max-refused", type=float, default=1.0, help="share of all requests")


@events.init.add_listener
def _prepare(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is None or isinstance(environment.runner, WorkerRunner):
        return
    shape = environment.shape_class
    assert isinstance(shape, Schedule)
    shape.phases = schedule(options.arrivals, options.rate, options.seconds)

    def count(start_time: float, response_time: float, name: str, exception: object, **_: Any) -> None:
        arrived_s = start_time - environment.stats.start_time
        completed_s = arrived_s + response_time / 1000
        phase = next((one for one in shape.phases if arrived_s < one.end_s), shape.phases[-1])
        phase.add(response_time, refused=name.endswith("(refused)"), wrong=exception is not None)
        for one in shape.phases:
            one.completed += one.start_s <= completed_s < one.end_s

    def finish(**_: Any) -> None:
        sys.stdout.write(table(shape.phases))
        found = violations(shape.phases, options.max_p95_ms, options.max_refused)
        environment.process_exit_code = 1 if found else 0
        for line in found:
            sys.stderr.write(f"{line}\n")

    events.request.add_listener(count)
    events.quitting.add_listener(finish)
