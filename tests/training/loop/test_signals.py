"""Requests to stop, by real signals to this process: noted, carried out where nothing is lost, handlers as before."""

import os
import signal
from collections.abc import Iterator

import pytest

from training.loop.signals import Stop, StopRequest, stop_signals

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def received() -> Iterator[list[int]]:
    """Signals that nobody noted: a second one must reach the handler of before."""
    found: list[int] = []
    before = {number: signal.signal(number, lambda number, _: found.append(number)) for number in SIGNALS}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_nothing_is_interrupted(number: signal.Signals, received: list[int]) -> None:
    with stop_signals() as request:
        assert request.signal is None
        os.kill(os.getpid(), number)
        assert request.signal == number
    assert received == []


def test_a_second_signal_has_the_effect_of_before(received: list[int]) -> None:
    with stop_signals() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == signal.SIGTERM
    assert received == [signal.SIGINT]


def test_what_is_interruptible_is_left_at_once() -> None:
    steps = []

    def work(request: StopRequest) -> None:
        with request.interruptible():
            steps.append("begun")
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("unreachable")

    with stop_signals() as request:
        with pytest.raises(Stop):
            work(request)
        assert request.signal == signal.SIGTERM
    assert steps == ["begun"]


def test_a_signal_of_before_interrupts_as_soon_as_that_is_possible() -> None:
    with stop_signals() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stop), request.interruptible():
            pytest.fail("work was begun that would be thrown away")


def test_after_the_interruptible_part_a_signal_is_noted_again() -> None:
    with stop_signals() as request:
        with request.interruptible():
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # no Stop
        assert request.signal == signal.SIGTERM


def test_handlers_are_those_of_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_signals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(ValueError, match="within"), stop_signals():
        raise ValueError("within")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_stop_is_no_exception_that_a_compiler_would_handle() -> None:
    assert not issubclass(Stop, Exception)
    with pytest.raises(Stop):
        StopRequest(_interruptible=True).receive(signal.SIGTERM)
