"""Answers in the order of their rows, with enough rows at the engine at once that its batches are full."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import TypeVar

from app.bulk.rows import Row

A = TypeVar("A")

MAX_ROWS = 1024  # the engine examines 256 sources for similar lengths, and decodes 64 rows by default
MAX_CHARS = 4_000_000


async def answered(
    rows: AsyncIterable[Row],
    answer: Callable[[Row], Awaitable[A]],
    max_rows: int = MAX_ROWS,
    max_chars: int = MAX_CHARS,
) -> AsyncGenerator[tuple[Row, A], None]:
    """Each of `rows` with its answer, in order, as soon as it is there.

    At most `max_rows`, and of them `max_chars` or one alone, are read ahead of the row that is yielded. What reading or
    answering raises is raised here. Closing the generator cancels what has begun.
    """
    begun: asyncio.Queue[tuple[Row, asyncio.Task[A]] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[A]] = set()
    window = _Window(max_rows, max_chars)

    async def begin(row: Row) -> A:
        return await answer(row)

    async def feed() -> None:
        try:
            async for row in rows:
                await window.enter(len(row.text))
                task = asyncio.create_task(begin(row))
                tasks.add(task)
                begun.put_nowait((row, task))
        finally:
            begun.put_nowait(None)

    feeding = asyncio.create_task(feed())
    try:
        while (one := await begun.get()) is not None:
            row, task = one
            result = await task
            tasks.discard(task)
            yield row, result
            window.leave(len(row.text))
        await feeding
    finally:
        for left in (feeding, *tasks):
            left.cancel()
        await asyncio.gather(feeding, *tasks, return_exceptions=True)


class _Window:
    """How much is begun and not yielded."""

    def __init__(self, max_rows: int, max_chars: int) -> None:
        self._max_rows, self._max_chars = max_rows, max_chars
        self._num_rows = self._num_chars = 0
        self._has_room = asyncio.Event()

    async def enter(self, num_chars: int) -> None:
        """Wait until there is room for a text of this length, and count it."""
        while self._num_rows and (self._num_rows >= self._max_rows or self._num_chars + num_chars > self._max_chars):
            self._has_room.clear()
            await self._has_room.wait()
        self._num_rows += 1
        self._num_chars += num_chars

    def leave(self, num_chars: int) -> None:
        """A text of this length was yielded."""
        self._num_rows -= 1
        self._num_chars -= num_chars
        self._has_room.set()
