"""What a person sees while data come: a bar of bytes or rows on a terminal, plain lines in a log file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class DownloadProgress:
    """A bar for what is under way; where the output is no terminal, a line when it begins and one when it ends."""

    def __init__(self) -> None:
        self._console = Console()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> "DownloadProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def fetching(self, name: str, size: int) -> Iterator[Callable[[int], None]]:
        """A file of `size` bytes; the function takes how many there are."""
        self._log(f"fetching {name}, {size / 1e6:,.1f} MB")
        bar = self._bars.add_task(name, total=size, done="")

        def advance(bytes_there: int) -> None:
            done = f"{bytes_there / 1e6:,.1f} of {size / 1e6:,.1f} MB"
            self._bars.update(bar, completed=bytes_there, done=done)

        try:
            yield advance
        finally:
            self._bars.remove_task(bar)
        self.say(f"fetched {name}")

    @contextmanager
    def writing(self, name: str) -> Iterator[Callable[[int], None]]:
        """A split being written; the function takes how many rows were read."""
        self._log(f"checking and writing {name}")
        bar = self._bars.add_task(name, total=None, done="")
        try:
            yield lambda rows: self._bars.update(bar, completed=rows, done=f"{rows:,} rows")
        finally:
            self._bars.remove_task(bar)

    def _log(self, line: str) -> None:
        if not self._console.is_terminal:
            self.say(line)
