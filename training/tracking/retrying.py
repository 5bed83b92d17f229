"""Calls that may fail for a while, made in order by a thread of their own: nobody waits for them or ends by them.

Knows nothing of what the calls do.
"""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

_log = logging.getLogger(__name__)

_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)  # before each further attempt; the last one for all that follow


class RetryingCalls:
    """A queue of calls to `place`, each made again until it succeeds; what fails for good is left out with a warning.

    `is_final` says of an error whether another attempt is in vain.
    """

    def __init__(self, place: str, is_final: Callable[[Exception], bool]) -> None:
        self._place, self._is_final = place, is_final
        self._calls: SimpleQueue[tuple[str, Callable[[], object], int | None]] = SimpleQueue()
        self._stopped = threading.Event()
        # A daemon: an attempt that hangs must not keep the process alive.
        threading.Thread(target=self._work, name=place, daemon=True).start()

    def submit(self, what: str, call: Callable[[], object], tries: int | None = None) -> None:
        """Make `call` after all that were submitted before, at most `tries` times (None: without limit)."""
        self._calls.put((what, call, tries))

    def wait(self, timeout_s: float | None) -> bool:
        """Whether all that was submitted is done, or left out, within `timeout_s` (None: however long it takes)."""
        done = threading.Event()
        self.submit("", done.set)
        return done.wait(timeout_s)

    def stop(self) -> None:
        """No further attempt; what is not done by now is left out."""
        self._stopped.set()
        self.submit("", bool)  # wakes the thread

    def _work(self) -> None:
        while not self._stopped.is_set():
            self._make(*self._calls.get())

    def _make(self, what: str, call: Callable[[], object], tries: int | None) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                call()
            except Exception as error:  # clients of databases and servers raise all kinds, and none may end a run
                failures += 1
                if failures == tries or self._is_final(error):
                    _log.warning("%s: %s left out (%s)", self._place, what, error)
                    return
                if failures == 1:
                    _log.warning("%s: %s not kept yet, which is tried again (%s)", self._place, what, error)
                self._stopped.wait(_PAUSES_S[min(failures, len(_PAUSES_S)) - 1])
            else:
                return
