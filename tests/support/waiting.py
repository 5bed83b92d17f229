"""Waiting for what can be observed, with an end: a test that orders itself so depends on no scheduler's turns."""

import asyncio
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Block until `condition` holds."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"it did not happen within {within_s:g} s"
        time.sleep(0.02)


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """`wait_for`, while the event loop runs on."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"it did not happen within {within_s:g} s"
        await asyncio.sleep(0.001)
