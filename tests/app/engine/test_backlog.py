"""When to retry, by rates on a clock of the test's own; tested by doing so."""

from app.engine.backlog import Backlog


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_known_is_a_second() -> None:
    backlog = Backlog(Clock())
    assert backlog.retry_after_s() == 1
    backlog.add_stage().accept(100)
    assert backlog.retry_after_s() == 1


def test_time_follows_the_rate_of_the_busy_time() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    stage = backlog.add_stage()
    stage.accept(1)
    clock.now = 1.0
    stage.finish(1)
    clock.now = 500.0  # idle until now, which must not count
    stage.accept(14)
    for _ in range(4):
        clock.now += 1.5
        stage.finish(1)
    assert backlog.retry_after_s() == 15, "ten wait, one is answered in 1.5 s"


def test_start_of_a_burst_uses_the_rate_of_the_busy_time_before() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    stage = backlog.add_stage()
    stage.accept(20)
    for _ in range(20):
        clock.now += 0.5
        stage.finish(1)
    clock.now = 100.0
    stage.accept(40)
    assert backlog.retry_after_s() == 20, "forty at two a second"


def test_time_does_not_depend_on_the_moment_within_a_batch() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    stage = backlog.add_stage()
    stage.accept(3000 + 5 * 256)
    for _ in range(5):  # batches of 256 answers, 4 s apart
        clock.now += 4.0
        for _ in range(256):
            stage.finish(1)
    for later in (0.01, 1.0, 3.9):
        clock.now = 20.0 + later
        assert 46 <= backlog.retry_after_s() <= 57, "3,000 wait, 64 a second are answered"


def test_stages_follow_each_other_and_what_is_dropped_takes_no_time() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    tokenizer, engine = backlog.add_stage(), backlog.add_stage()
    tokenizer.accept(3000)
    engine.accept(30)
    clock.now = 1.0
    tokenizer.finish(1000)
    engine.finish(10)
    assert backlog.retry_after_s() == 4
    engine.drop(20)
    assert backlog.retry_after_s() == 2


def test_time_is_never_longer_than_a_minute() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    stage = backlog.add_stage()
    stage.accept(10)
    clock.now = 1000.0
    stage.finish(1)
    assert backlog.retry_after_s() == 60


def test_who_retries_then_finds_room() -> None:
    """A service of 50 places and 7 answers a second; a burst of 400 arrives and each retries when it may."""
    clock = Clock()
    backlog = Backlog(clock)
    stage = backlog.add_stage()
    coming = [0.0] * 400
    num_refusals: list[int] = []
    served = 0.0
    while coming or stage.amount:
        for due in [due for due in coming if due <= clock.now]:
            coming.remove(due)
            if stage.amount < 50:
                stage.accept(1)
            else:
                num_refusals.append(backlog.retry_after_s())
                coming.append(clock.now + num_refusals[-1])
        clock.now += 0.1
        served += 0.7
        while served >= 1 and stage.amount:
            stage.finish(1)
            served -= 1
    assert clock.now < 1.6 * 400 / 7, "places seldom stand empty while somebody waits to come again"
    assert len(num_refusals) < 2500, "a second for everybody makes over 9,000"
