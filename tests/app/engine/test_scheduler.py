"""The scheduler's promises, one by one and as properties over random arrivals; no torch, no threads, no clock."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.job_queue import queue_rank
from app.engine.request import EngineRequest, Job, Priority
from app.engine.scheduler import BATCH_TURN, QUIET_S, Decode, Encode, Idle, Scheduler
from model.inference.decoding.options import DecodingOptions


def job(
    key: int,
    num_tokens: int = 10,
    num_rows: int = 0,
    *,
    source: int | None = None,
    deadline: float = 1e9,
    place: int = 0,
    priority: Priority = "interactive",
) -> Job:
    options = DecodingOptions(num_beams=num_rows) if num_rows else None
    request = EngineRequest((key if source is None else source,), deadline, options=options, priority=priority)
    return Job(key, request, num_tokens, place=place)


def scheduler(
    *jobs: Job, batch_tokens: int = 100, rows: int = 4, stall_s: float = 1.0, batch_work_rows: int = 2
) -> Scheduler:
    made = Scheduler(
        max_batch_tokens=batch_tokens,
        max_decode_rows=rows,
        max_stall_s=stall_s,
        max_batch_work_rows=batch_work_rows,
    )
    for one in jobs:
        made.add(one)
    return made


def test_deadlines_of_finished_jobs_do_not_pile_up() -> None:
    policy = scheduler(*(job(key, deadline=100.0 + key) for key in range(3)), batch_tokens=10)
    for key in range(3, 50_000):
        policy.add(job(key, deadline=3600.0))
        policy.remove(key)
    assert len(policy._deadlines) < 5_000
    assert policy.expired(101.0) == [0, 1]
    assert policy.expired(4000.0) == [2]


def test_nothing_queued_is_idle() -> None:
    assert scheduler().decide(0.0) == Idle()


def test_whatever_is_queued_goes_in_together() -> None:
    policy = scheduler(job(1), job(2, num_rows=1), job(3))
    assert policy.decide(0.0) == Encode((1, 2, 3))


def test_padded_batch_keeps_the_token_budget() -> None:
    policy = scheduler(*(job(key, num_tokens=30) for key in range(5)))
    assert [policy.decide(0.0), policy.decide(0.0)] == [Encode((0, 1, 2)), Encode((3, 4))]


def test_padding_counts_against_the_budget() -> None:
    policy = scheduler(job(1, num_tokens=30), job(2, num_tokens=50), job(3, num_tokens=30), batch_tokens=80)
    assert policy.decide(0.0) == Encode((1, 3)), "30 x 2 fits, 50 x 3 would not"


def test_oldest_leads_and_takes_its_like_along() -> None:
    policy = scheduler(job(1, 500), job(2, 80), job(3, 510), job(4, 90), batch_tokens=4000)
    assert [policy.decide(0.0), policy.decide(0.0)] == [Encode((1, 3)), Encode((2, 4))]


def test_request_of_many_leaves_room_for_those_of_one() -> None:
    many = [job(key, 10, 4, place=key) for key in range(20)]
    policy = scheduler(*many, rows=4, batch_tokens=10)
    order = []
    for arriving in range(20, 60):
        decision = policy.decide(0.0)
        if isinstance(decision, Encode):
            order += decision.keys
        for key in policy.decoding:
            policy.remove(key)
        policy.add(job(arriving, num_rows=1))
    assert order[0] == 0
    assert order[1] == 20, "who arrived after the twenty is second"
    assert 1 in order, "and the others of the twenty come among those that follow"
    while isinstance(decision := policy.decide(0.0), Encode):
        order += decision.keys
        for key in policy.decoding:
            policy.remove(key)
    assert sorted(order) == list(range(60))


def test_short_sources_share_a_batch_whatever_their_ratio() -> None:
    assert scheduler(job(1, 60), job(2, 3), batch_tokens=4000).decide(0.0) == Encode((1, 2))


def test_source_over_the_budget_goes_alone() -> None:
    policy = scheduler(job(1, num_tokens=1000), job(2, num_tokens=900))
    assert [policy.decide(0.0), policy.decide(0.0), policy.decide(0.0)] == [Encode((1,)), Encode((2,)), Idle()]


@pytest.mark.parametrize("num_tokens", [90, 900])
def test_equal_sources_cost_the_budget_once_even_over_it(num_tokens: int) -> None:
    policy = scheduler(*(job(key, num_tokens, source=7) for key in range(5)))
    assert policy.decide(0.0) == Encode((0, 1, 2, 3, 4))


def test_rows_are_limited() -> None:
    policy = scheduler(*(job(key, num_rows=1) for key in range(6)), rows=4)
    assert policy.decide(0.0) == Encode((0, 1, 2, 3))
    assert [policy.decide(0.0), policy.decide(0.0)] == [Decode(), Decode()]
    policy.remove(2)
    assert policy.decide(0.0) == Encode((4,))


def test_more_rows_than_there_are_go_alone() -> None:
    policy = scheduler(job(1, num_rows=1), job(2, num_rows=8), rows=4)
    assert [policy.decide(0.0), policy.decide(0.0)] == [Encode((1,)), Decode()]
    policy.remove(1)
    assert policy.decide(0.0) == Encode((2,))
    assert policy.num_rows == 8


def test_classification_passes_those_that_wait_for_rows() -> None:
    policy = scheduler(job(1, num_rows=4), job(2, num_rows=1), job(3))
    assert policy.decide(0.0) == Encode((1, 3))
    policy.add(job(4))
    assert [policy.decide(0.0), policy.decide(0.0)] == [Decode(), Encode((4,))]


def test_wide_beams_are_not_passed_by_narrow_ones() -> None:
    policy = scheduler(job(1, num_rows=2))
    policy.decide(0.0)
    policy.add(job(2, num_rows=4))
    policy.add(job(3, num_rows=1))
    assert [policy.decide(0.0), policy.decide(0.0)] == [Decode(), Decode()]
    policy.remove(1)
    assert policy.decide(0.0) == Encode((2,))


def test_each_encoder_batch_is_followed_by_a_step_while_rows_decode() -> None:
    policy = scheduler(job(1, num_rows=1))
    policy.decide(0.0)
    for key in range(2, 5):
        policy.add(job(key))
        assert [policy.decide(0.0), policy.decide(0.0)] == [Decode(), Encode((key,))]


def test_encoding_holds_up_decoding_no_longer_than_the_limit() -> None:
    policy = scheduler(job(0, num_rows=1), batch_tokens=1000, stall_s=0.5)
    policy.decide(0.0)
    policy.record_encoding(padded_tokens=100, seconds=1.0)  # so 50 tokens take half a second
    policy.decide(0.0)
    for key in range(1, 10):
        policy.add(job(key))
    assert policy.decide(0.0) == Encode((1, 2, 3, 4, 5))


def test_stall_limit_does_not_bind_when_nothing_decodes() -> None:
    policy = scheduler(*(job(key) for key in range(8)), stall_s=0.0)
    policy.record_encoding(padded_tokens=100, seconds=1.0)
    assert policy.decide(0.0) == Encode(tuple(range(8)))


def test_expired_jobs_are_returned_once_whether_queued_or_decoding() -> None:
    policy = scheduler(job(1, num_rows=4, deadline=5.0))
    policy.decide(0.0)
    policy.add(job(2, num_rows=1, deadline=4.0))
    policy.add(job(3, deadline=6.0))
    assert policy.expired(3.9) == []
    assert policy.expired(5.0) == [2, 1]
    assert policy.expired(5.0) == []


def test_removed_job_frees_its_rows_and_never_expires() -> None:
    policy = scheduler(job(1, num_rows=4, deadline=1.0), job(2, deadline=1.0))
    policy.decide(0.0)
    policy.remove(1)
    policy.remove(99)
    assert policy.num_rows == 0
    assert policy.expired(2.0) == []
    assert policy.decide(0.0) == Idle()


def test_interactive_work_goes_first_and_batch_work_fills_what_it_leaves() -> None:
    policy = scheduler(job(1, priority="batch"), job(2, num_rows=1, priority="batch"), job(3), rows=4)
    assert policy.decide(0.0) == Encode((3,))
    assert policy.decide(0.0) == Encode((1, 2))
    policy.add(job(4, num_rows=1, priority="batch"))
    policy.add(job(5, num_rows=1))
    assert [policy.decide(0.0) for _ in range(3)] == [Decode(), Encode((5,)), Decode()]
    policy.remove(5)
    assert policy.decide(0.0) == Encode((4,))


def test_batch_work_is_encoded_once_in_eight_while_interactive_rows_decode() -> None:
    policy = scheduler(job(0, num_rows=1), *(job(key, 10, priority="batch") for key in (1, 2)), batch_tokens=10)
    decisions = [policy.decide(0.0) for _ in range(2 * BATCH_TURN)]
    assert [number for number, one in enumerate(decisions) if isinstance(one, Encode)] == [0, 7, 15]


def test_batch_work_gets_one_encoder_batch_in_eight() -> None:
    policy = scheduler(*(job(key, 10) for key in range(20)), batch_tokens=10)
    for key in range(20, 23):
        policy.add(job(key, 10, priority="batch"))
    order = [decision.keys[0] for _ in range(23) if isinstance(decision := policy.decide(0.0), Encode)]
    assert [order.index(key) for key in range(20, 23)] == [BATCH_TURN - 1, 2 * BATCH_TURN - 1, 22]


def test_batch_work_stays_small_while_interactive_work_comes() -> None:
    bulk = [job(key, 10, num_rows=key % 2, priority="batch") for key in range(1, 13)]
    policy = scheduler(job(0), *bulk, rows=8, batch_tokens=1000, batch_work_rows=2)
    assert [policy.decide(0.0), policy.decide(1.0)] == [Encode((0,)), Encode((1, 2))]
    assert [policy.decide(1.0), policy.decide(1.0)] == [Decode(), Encode((3, 4))], "the third row would be too many"
    assert [policy.decide(1.0), policy.decide(1.0)] == [Decode(), Encode((6, 8))]
    policy.remove(1)
    policy.remove(3)
    assert policy.decide(QUIET_S) == Encode((5, 7))
    assert policy.decide(QUIET_S) == Decode()
    assert policy.decide(QUIET_S + 0.5) == Encode((9, 10, 11, 12)), "nothing interactive since 0.0"


def test_long_sources_of_batch_work_go_alone_while_interactive_work_comes() -> None:
    policy = scheduler(job(0), *(job(key, 100, priority="batch") for key in (1, 2)), batch_tokens=1000)
    assert [policy.decide(0.0) for _ in range(3)] == [Encode((0,)), Encode((1,)), Encode((2,))]


def test_batch_work_takes_no_longer_than_the_stall_limit_even_in_the_quiet() -> None:
    policy = scheduler(*(job(key, 10, priority="batch") for key in range(9)), batch_tokens=1000, stall_s=0.5)
    policy.record_encoding(padded_tokens=100, seconds=1.0)
    assert policy.decide(0.0) == Encode((0, 1, 2, 3, 4))


def test_rows_for_which_interactive_work_waits_do_not_go_to_batch_work() -> None:
    policy = scheduler(job(1, num_rows=3, priority="batch"), rows=4, batch_work_rows=4)
    policy.decide(0.0)
    policy.add(job(2, num_rows=1, priority="batch"))
    policy.add(job(3, num_rows=4))
    policy.add(job(4, priority="batch"))
    assert [policy.decide(0.0), policy.decide(0.0)] == [Decode(), Encode((4,))]
    assert [policy.decide(0.0), policy.decide(0.0)] == [Decode(), Decode()]
    policy.remove(1)
    assert policy.decide(0.0) == Encode((3,))


def test_batch_work_gets_its_rows_when_its_turn_has_come_however_much_interactive_work_waits() -> None:
    policy = scheduler(*(job(key, num_rows=1) for key in range(100)), rows=4, batch_tokens=10)
    policy.add(job(200, num_rows=4, priority="batch"))
    started: list[int] = []
    while 200 not in started:
        decision = policy.decide(0.0)
        if isinstance(decision, Encode):
            started += decision.keys
        elif len(policy.decoding) == 4 or len(started) >= 4:
            policy.remove(policy.decoding[0])  # the oldest is done
    assert len(started) <= BATCH_TURN, "the rows of those that end meanwhile are kept for it"
    assert policy.decoding == (200,)


@dataclass(frozen=True)
class Arrival:
    at: int
    num_tokens: int
    num_rows: int
    steps: int
    source: int
    cancelled_at: int | None
    priority: Priority


arrivals = st.lists(
    st.builds(
        Arrival,
        at=st.integers(0, 40),
        num_tokens=st.integers(1, 250),
        num_rows=st.sampled_from([0, 0, 1, 1, 1, 4, 8]),
        steps=st.integers(1, 12),
        source=st.integers(0, 20),
        cancelled_at=st.none() | st.integers(0, 60),
        priority=st.sampled_from(["interactive", "interactive", "batch"]),
    ),
    max_size=40,
)


class Replay:
    """Plays arrivals against a scheduler in a world where a decision takes one tick; keeps what it saw."""

    def __init__(self, trace: list[Arrival], policy: Scheduler) -> None:
        self.policy = policy
        self.jobs = {
            key: (
                job(
                    key,
                    one.num_tokens,
                    one.num_rows,
                    source=one.source * 1000 + one.num_tokens,
                    place=key % 4,
                    priority=one.priority,
                ),
                one,
            )
            for key, one in enumerate(sorted(trace, key=lambda one: one.at))
        }
        self.queued: dict[int, Job] = {}
        self.decoding: dict[int, int] = {}  # key -> steps left
        self.encoded: list[int] = []
        self.batches: list[tuple[tuple[Job, ...], bool]] = []  # jobs of a batch, whether rows were in flight
        self.decisions: list[Encode | Decode | Idle] = []
        self.interactive_at = -1000
        self.is_quiet = True

    def rows(self, priority: Priority | None = None) -> int:
        jobs = (self.jobs[key][0] for key in self.decoding)
        return sum(one.num_rows for one in jobs if priority in (None, one.request.priority))

    def run(self) -> "Replay":
        pending = dict(self.jobs)
        for tick in range(10_000):
            for key in [key for key, (_, one) in pending.items() if one.at <= tick]:
                self.queued[key] = pending.pop(key)[0]
                self.policy.add(self.queued[key])
            self.cancel(tick)
            if not pending and not self.queued and not self.decoding:
                assert self.policy.decide(tick) == Idle()
                return self
            if any(self.jobs[key][1].priority == "interactive" for key in (*self.queued, *self.decoding)):
                self.interactive_at = tick
            self.is_quiet = tick - self.interactive_at > QUIET_S
            self.apply(self.policy.decide(tick))
        raise AssertionError("some job never ended")

    def cancel(self, tick: int) -> None:
        for key in [*self.queued, *self.decoding]:
            if self.jobs[key][1].cancelled_at == tick:
                self.queued.pop(key, None)
                self.decoding.pop(key, None)
                self.policy.remove(key)

    def apply(self, decision: Encode | Decode | Idle) -> None:
        self.decisions.append(decision)
        if isinstance(decision, Encode):
            jobs = tuple(self.queued.pop(key) for key in decision.keys)  # a KeyError: twice, or unknown
            self.batches.append((jobs, bool(self.decoding)))
            self.encoded += decision.keys
            self.decoding |= {one.key: self.jobs[one.key][1].steps for one in jobs if one.num_rows}
        elif isinstance(decision, Decode):
            assert self.decoding, "a step with nothing in flight"
            self.decoding = {key: left - 1 for key, left in self.decoding.items()}
            for key in [key for key, left in self.decoding.items() if left == 0]:
                del self.decoding[key]
                self.policy.remove(key)
        else:
            assert not self.queued | self.decoding, "idle with work at hand"
        assert self.policy.num_rows == self.rows()
        assert self.rows() <= 6 or len([key for key in self.decoding if self.jobs[key][0].num_rows]) == 1


def replay(trace: list[Arrival], tokens_per_s: float | None = None) -> Replay:
    policy = scheduler(batch_tokens=300, rows=6, stall_s=1.0)
    if tokens_per_s is not None:
        policy.record_encoding(padded_tokens=int(tokens_per_s), seconds=1.0)
    return Replay(trace, policy).run()


@given(arrivals)
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_nothing_goes_twice_and_rows_stay_in_bounds(trace: list[Arrival]) -> None:
    seen = replay(trace)  # asserts the bounds as it goes
    assert len(seen.encoded) == len(set(seen.encoded))
    assert {key for key, (_, one) in seen.jobs.items() if one.cancelled_at is None} <= set(seen.encoded)


@given(arrivals, st.sampled_from([None, 120.0]))
@settings(max_examples=200, deadline=None)
def test_batches_keep_their_budget_unless_one_source_alone_exceeds_it(
    trace: list[Arrival], tokens_per_s: float | None
) -> None:
    for jobs, was_decoding in replay(trace, tokens_per_s).batches:
        sources = {one.source for one in jobs}
        budget = min(300, tokens_per_s) if was_decoding and tokens_per_s else 300
        assert len(sources) == 1 or max(one.num_tokens for one in jobs) * len(sources) <= budget


@given(arrivals)
@settings(max_examples=200, deadline=None)
def test_running_rows_never_wait_for_two_encoder_batches(trace: list[Arrival]) -> None:
    policy = scheduler(batch_tokens=300, rows=6)
    seen = Replay(trace, policy)
    decode_before: list[bool] = []
    apply = seen.apply

    def watched(decision: Encode | Decode | Idle) -> None:
        decode_before.append(bool(seen.decoding))
        apply(decision)

    seen.apply = watched  # type: ignore[method-assign]
    seen.run()
    for first, second, running in zip(seen.decisions, seen.decisions[1:], decode_before[1:], strict=False):
        assert not (isinstance(first, Encode) and running) or isinstance(second, Decode)


@given(arrivals)
@settings(max_examples=200, deadline=None)
def test_first_in_turn_that_may_go_is_in_every_batch(trace: list[Arrival]) -> None:
    policy = scheduler(batch_tokens=300, rows=6)
    seen = Replay(trace, policy)
    apply = seen.apply

    def first_with_rows(priority: Priority) -> Job | None:
        ones = [one for one in seen.queued.values() if one.request.priority == priority and one.num_rows]
        return min(ones, key=queue_rank, default=None)

    def watched(decision: Encode | Decode | Idle) -> None:
        if isinstance(decision, Encode):
            (priority,) = {seen.queued[key].request.priority for key in decision.keys}
            rows, own, first = seen.rows(), seen.rows(priority), first_with_rows(priority)
            other = first_with_rows("batch" if priority == "interactive" else "interactive")
            is_kept = other is not None and rows and rows + other.num_rows > 6  # for the other, which may be in turn
            most = 6 if priority == "interactive" or seen.is_quiet else 2
            free = first is not None and (not rows or rows + first.num_rows <= 6)
            free = free and (priority == "interactive" or not own or own + first.num_rows <= most)
            queued = sorted((one for one in seen.queued.values() if one.request.priority == priority), key=queue_rank)
            may_go = [one.key for one in queued if not one.num_rows or free]
            assert may_go[0] in decision.keys or (is_kept and seen.queued[may_go[0]].num_rows)
            assert free or all(not seen.queued[key].num_rows for key in decision.keys)
        apply(decision)

    seen.apply = watched  # type: ignore[method-assign]
    seen.run()


@given(arrivals)
@settings(max_examples=200, deadline=None)
def test_batch_work_is_bounded_unless_no_interactive_work_has_come_for_long(trace: list[Arrival]) -> None:
    seen = Replay(trace, scheduler(batch_tokens=300, rows=6))
    apply = seen.apply

    def watched(decision: Encode | Decode | Idle) -> None:
        apply(decision)
        if not isinstance(decision, Encode) or seen.is_quiet:
            return
        jobs = [seen.jobs[key][0] for key in decision.keys]
        if jobs[0].request.priority == "batch":
            assert len({one.source for one in jobs}) <= 2
            started = sum(one.num_rows for one in jobs)
            assert not started or seen.rows("batch") <= 2 or seen.rows("batch") == max(one.num_rows for one in jobs)

    seen.apply = watched  # type: ignore[method-assign]
    seen.run()


@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 1, 4]), st.sampled_from(["interactive", "batch"])), max_size=60),
    st.integers(1, 6),
)
@settings(max_examples=200, deadline=None)
def test_batch_work_that_waits_is_passed_by_seven_batches_at_most(
    kinds: list[tuple[int, Priority]], num_steps: int
) -> None:
    jobs = [job(key, 10, num_rows, priority=priority) for key, (num_rows, priority) in enumerate(kinds)]
    policy = scheduler(*jobs, batch_tokens=10, rows=4)  # a source a batch
    queued, steps_left, num_passed = {one.key: one for one in jobs}, dict[int, int](), 0
    while not isinstance(decision := policy.decide(0.0), Idle):
        if isinstance(decision, Encode):
            waits = any(one.request.priority == "batch" and not one.num_rows for one in queued.values())
            (one,) = [queued.pop(key) for key in decision.keys]
            num_passed = num_passed + 1 if waits and one.request.priority == "interactive" else 0
            assert num_passed < BATCH_TURN
            steps_left |= {one.key: num_steps} if one.num_rows else {}
        else:
            steps_left = {key: left - 1 for key, left in steps_left.items()}
            for key in [key for key, left in steps_left.items() if not left]:
                del steps_left[key]
                policy.remove(key)
    assert not queued


@pytest.mark.parametrize("num_rows", [0, 1])
def test_one_decision_over_a_long_queue_leaves_the_rest_queued(num_rows: int) -> None:
    policy = scheduler(*(job(key, 10, num_rows) for key in range(2000)), batch_tokens=50_000, rows=5000)
    seen: list[int] = []
    while isinstance(decision := policy.decide(0.0), Encode) or (num_rows and len(seen) < 2000):
        seen += decision.keys if isinstance(decision, Encode) else ()
    assert seen == list(range(2000))
