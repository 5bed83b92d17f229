"""Calls that fail for a while: made again in order, left out when that is in vain, and nobody waits for them."""

import logging
import threading

import pytest

from training.tracking import retrying
from training.tracking.retrying import RetryingCalls


class Flaky:
    """Fails so many times, then notes its name."""

    def __init__(self, done: list[str], name: str, failures: int = 0, error: Exception | None = None) -> None:
        self.done, self.name, self.left, self.calls = done, name, failures, 0
        self.error = error or ConnectionError("not reachable")

    def __call__(self) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        self.done.append(self.name)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_PAUSES_S", (0.0,))


def calls() -> RetryingCalls:
    return RetryingCalls("place", lambda error: isinstance(error, ValueError))


def test_a_call_is_made_again_and_the_next_ones_wait_for_it(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    queue, first = calls(), Flaky(done, "first", failures=4)
    queue.submit("figures", first)
    queue.submit("more", Flaky(done, "second"))
    assert queue.wait(30)
    assert (done, first.calls) == (["first", "second"], 5)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]  # once, not each time
    assert "place: figures not kept yet, which is tried again (not reachable)" in caplog.text
    queue.stop()


def test_a_call_with_a_number_of_tries_is_left_out_after_them(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    queue, artefact = calls(), Flaky(done, "artefact", failures=99)
    queue.submit("a file", artefact, tries=3)
    queue.submit("figures", Flaky(done, "figures"))
    assert queue.wait(30)
    assert (done, artefact.calls) == (["figures"], 3)
    assert "place: a file left out (not reachable)" in caplog.text
    queue.stop()


def test_an_error_that_stays_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    queue, bad = calls(), Flaky(done, "bad", failures=99, error=ValueError("never valid"))
    queue.submit("figures", bad)
    assert queue.wait(30)
    assert (done, bad.calls) == ([], 1)
    assert "left out (never valid)" in caplog.text
    queue.stop()


def test_submitting_does_not_wait_for_a_call_that_hangs() -> None:
    queue, release, entered = calls(), threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        assert release.wait(30)

    queue.submit("slow", hang)
    assert entered.wait(30)
    done: list[str] = []
    queue.submit("figures", Flaky(done, "figures"))
    assert not queue.wait(0.0)
    assert done == []
    release.set()
    assert queue.wait(30)
    assert done == ["figures"]
    queue.stop()


def test_after_stop_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_PAUSES_S", (3600.0,))
    failed = threading.Event()
    done: list[str] = []

    def fail() -> None:
        failed.set()
        raise ConnectionError("gone")

    queue = calls()
    queue.submit("figures", fail)
    queue.submit("more", Flaky(done, "more"))
    assert failed.wait(30)
    queue.stop()  # also ends the hour's pause
    [thread] = [one for one in threading.enumerate() if one.name == "place" and one.is_alive()] or [None]
    if thread is not None:
        thread.join(30)
        assert not thread.is_alive()
    assert done == []
