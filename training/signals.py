"""SIGTERM and Ctrl-C as a wish that the loop grants between two steps; a second one ends the process at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Wish:
    """`signal` is the number of the one that came, or None."""

    signal: int | None = None


@contextmanager
def stop_signals() -> Iterator[Wish]:
    """Within the block the two signals are only noted."""
    wish = Wish()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: FrameType | None) -> None:
        wish.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
