"""Returns freed memory to the system: the C library keeps it for later and, when fragmented, for good."""

import ctypes
from collections.abc import Callable


class Heap:
    """The C library's free memory, returned to the system at intervals; without glibc nothing is done.

    A cache, an encoder batch and logits are tens of megabytes each, of every size, so the next one seldom fits into
    what was freed.
    """

    def __init__(self, clock: Callable[[], float], every_s: float, trim: Callable[[], object] | None = None) -> None:
        """Not more often than `every_s`, since it takes milliseconds in which nothing is computed."""
        self._clock = clock
        self._every_s = every_s
        self._trim = trim or _trim
        self._next_at = clock() + every_s

    def trim(self) -> None:
        """Return what is free if the interval has passed."""
        if self._clock() >= self._next_at:
            self._trim()
            self._next_at = self._clock() + self._every_s


def release_free_memory() -> None:
    """Return now what is free, which takes milliseconds."""
    _trim()


def _find_trim() -> Callable[[], object]:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return lambda: None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return lambda: trim(0)


_trim = _find_trim()
