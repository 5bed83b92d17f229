"""How far something is, for who waits: a bar on a terminal, a line now and then elsewhere. On standard error."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_AFTER_S = 1.0  # what is over sooner needs no bar
_LINE_EVERY_S = 60.0


class Bar:
    """What is shown."""

    def advance(self, num: int) -> None:
        """Count `num` more of the total."""

    def describe(self, doing: str) -> None:
        """Say what is being done now."""


@contextmanager
def progress(doing: str, total: float | None = None, *, is_counted: bool = True) -> Iterator[Bar]:
    """A bar of `total`; without a total, something only moves.

    It shows numbers if `is_counted`, else the share alone. It comes after a second.
    """
    if not sys.stderr.isatty():
        yield _Lines(doing, total) if total and is_counted else Bar()
        return
    counts = [MofNCompleteColumn()] if total and is_counted else []
    times = [TimeElapsedColumn(), *([TextColumn("left"), TimeRemainingColumn()] if total else [])]
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        *times,
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(doing, total=total)
    timer = threading.Timer(_AFTER_S, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield _RichBar(bar, task)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


class _RichBar(Bar):
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def advance(self, num: int) -> None:
        self._bar.advance(self._task, num)

    def describe(self, doing: str) -> None:
        self._bar.update(self._task, description=doing)


class _Lines(Bar):
    def __init__(self, doing: str, total: float) -> None:
        self._doing, self._total = doing, total
        self._num = 0
        self._printed_at = time.monotonic()

    def advance(self, num: int) -> None:
        """Count `num` more, and print a line if the last is a minute old."""
        self._num += num
        if time.monotonic() - self._printed_at >= _LINE_EVERY_S:
            self._printed_at = time.monotonic()
            print(f"leximind: {self._doing}: {self._num} of {self._total:g}", file=sys.stderr, flush=True)  # noqa: T201
