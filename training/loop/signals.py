"""SIGTERM and Ctrl-C as a wish that the loop grants where nothing is lost; a second one ends the process at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Stop(BaseException):
    """A signal came within `Wish.granted_at_once`. No `Exception`, which a compiler at work would take for its own."""


@dataclass
class Wish:
    """`signal` is the number of the one that came, or None."""

    signal: int | None = None
    _at_once: bool = False

    @contextmanager
    def granted_at_once(self) -> Iterator[None]:
        """Around what may be broken off anywhere, since it is done again: a signal raises `Stop` there."""
        self._at_once = True
        try:
            if self.signal is not None:
                raise Stop
            yield
        finally:
            self._at_once = False

    def come(self, number: int) -> None:
        """Note the signal `number`.

        Raises:
            Stop: within `granted_at_once`.
        """
        self.signal = number
        if self._at_once:
            raise Stop


@contextmanager
def stop_signals() -> Iterator[Wish]:
    """Within the block the two signals are only noted."""
    wish = Wish()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        wish.come(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
