"""What a person sees while training: a bar with losses, tokens a second and time left; plain lines in a log file."""

import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class TrainingProgress:
    """A bar on a terminal; where the output is not one, a line an update."""

    def __init__(self, total: int, done: int, *, quiet: bool) -> None:
        self._console = Console(quiet=quiet)
        self._total, self._done, self._start = total, done, time.monotonic()
        self._bar = _Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, figures: dict[str, float]) -> None:
        """Show `figures` at `step`."""
        text = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        self._bar.figures = Text(text)
        self._bar.update(self._task, completed=step)
        if not self._console.is_terminal:
            left = (time.monotonic() - self._start) / max(1, step - self._done) * (self._total - step)
            self.say(f"step {step}/{self._total}  {text}  left {left / 60:.0f} min")

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._console.print(line, highlight=False, soft_wrap=True)


class _Bar(Progress):
    """The figures stand below the bar: next to it they would push the time left off a terminal of 80 columns."""

    figures = Text()

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield self.figures


def _short(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.01 or not value else f"{value:.1e}"  # a learning rate
