"""Time by part: parts may lie within each other, and each is given only the time that is its own."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch


class Stopwatch:
    """Seconds by part. On a GPU every change of part waits for the device: slower as a whole, but true by part."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs within is of this part, but for what is of a part within it."""
        self._credit()
        self._open.append(name)
        try:
            yield
        finally:
            self._credit()
            self._open.pop()

    @contextmanager
    def watching(self, targets: Sequence[tuple[str, object, str]]) -> Iterator[None]:
        """Within, each call of (part, owner, method) is timed."""
        with ExitStack() as patches:
            for name, owner, method in targets:
                timed = self._timed(name, getattr(owner, method))
                patches.enter_context(mock.patch.object(owner, method, timed))
            yield

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    def _credit(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
