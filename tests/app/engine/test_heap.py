"""Freed memory goes back to the system, not too often."""

import ctypes
import resource
import sys
from pathlib import Path

import pytest

from app.engine.heap import Heap


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_memory_is_given_back_at_intervals() -> None:
    clock, trimmed_at = Clock(), list[float]()
    heap = Heap(clock, 10.0, lambda: trimmed_at.append(clock.now))
    for clock.now in range(35):
        heap.trim()
    assert trimmed_at == [10.0, 20.0, 30.0]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_lies_between_pieces_in_use_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("not glibc")
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        (ctypes.c_size_t,),
        (ctypes.c_void_p,),
    )
    size, count = 100_000, 2_000
    pieces = [libc.malloc(size) for _ in range(count)]
    for piece in pieces:
        ctypes.memset(piece, 1, size)
    for number, piece in enumerate(pieces):
        if number % 50:  # as answers and options stay between caches that go
            libc.free(piece)
    before = resident_bytes()
    clock = Clock()
    heap = Heap(clock, 1.0)
    clock.now = 2.0
    heap.trim()
    given_back = before - resident_bytes()
    for piece in pieces[::50]:
        libc.free(piece)
    assert given_back > size * count // 2
