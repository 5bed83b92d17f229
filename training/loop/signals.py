"""SIGTERM and Ctrl-C as a request to stop, carried out where nothing is lost; a second one ends the process at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Stop(BaseException):
    """A signal came within `StopRequest.interruptible`. No `Exception`, which a running compiler would handle."""


@dataclass
class StopRequest:
    """`signal` is the number of the one that came, or None."""

    signal: int | None = None
    _interruptible: bool = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around what may be interrupted anywhere, since it is repeated: a signal raises `Stop` there."""
        self._interruptible = True
        try:
            if self.signal is not None:
                raise Stop
            yield
        finally:
            self._interruptible = False

    def receive(self, number: int) -> None:
        """Note the signal `number`.

        Raises:
            Stop: within `interruptible`.
        """
        self.signal = number
        if self._interruptible:
            raise Stop


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Within the block the two signals are only noted."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        request.receive(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
