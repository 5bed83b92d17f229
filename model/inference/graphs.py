"""A decode step in shapes that stay the same, so that a GPU can replay it: CUDA graphs by documents and length.

Launching a step's kernels one by one takes longer than they run. A graph is launched at once, but its shapes and
addresses are fixed: documents and source lengths are rounded up to buckets, and the cache must not move meanwhile.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from weakref import WeakSet

import torch
from torch import Tensor

from model.inference.backend import Backend
from model.inference.kv_cache import KVCache

logger = logging.getLogger(__name__)

_SOURCE_BUCKETS = (64, 128, 256, 512)  # beyond: all that there is room for
_WARM_UP_RUNS = 2  # libraries choose and allocate at first; that must not be recorded

Work = Callable[[], None]
Replay = Callable[[], None]
Capture = Callable[[Work, Work], Replay]


@dataclass(frozen=True)
class _Recorded:
    token_ids: Tensor  # (R,) input of the replay
    logits: Tensor  # (R, V) its output
    replay: Replay


class StepGraphs:
    """The backend's step on one cache at a time, recorded when a bucket is first met, or before by `prepare`.

    `capture(work, rehearse)` turns work on the device into its replay; `rehearse` does the same and leaves no trace.
    Where it fails, the step runs eagerly from then on, and `works` is False.
    """

    def __init__(self, backend: Backend, capture: Capture | None = None) -> None:
        self._backend = backend
        self._capture = capture or _CudaCapture(backend.device)
        self._recorded: dict[tuple[int, ...], _Recorded] = {}
        self.works = True

    @property
    def num_recorded(self) -> int:
        """Graphs held."""
        return len(self._recorded)

    def step(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """As `Backend.step` on `cache` alone: (R,) to (R, V)."""
        if not self.works:
            return self._backend.step(token_ids, [cache])
        num_rows = cache.num_rows
        cache.window = _window(cache)
        try:
            recorded = self._find(cache)
            if recorded is None:
                cache.window = None
                return self._backend.step(token_ids, [cache])
            recorded.token_ids[:num_rows] = token_ids
            recorded.replay()
            cache.count_step()
            return recorded.logits[:num_rows].clone()  # rules write into it, and the next replay
        finally:
            cache.window = None

    def forget(self, num_beams: int) -> None:
        """Drop what was recorded on a cache of this width, which is to be dropped too."""
        self._recorded = {key: recorded for key, recorded in self._recorded.items() if key[0] != num_beams}

    def prepare(self, cache: KVCache) -> None:
        """Record every bucket that an empty `cache` has room for, so that no request waits for it."""
        documents, source, target = cache.capacity
        for count in _up_to(documents, _powers_of_two(documents)):
            for length in _up_to(source, _SOURCE_BUCKETS):
                cache.window = (count, length, target)
                if self.works:
                    self._find(cache)
        cache.window = None

    def _find(self, cache: KVCache) -> _Recorded | None:
        assert cache.window is not None
        key = (cache.num_beams, cache.generation, *cache.window)
        if key not in self._recorded:
            stale = [k for k in self._recorded if k[0] == cache.num_beams and k[1] != cache.generation]
            for k in stale:  # their arrays are gone
                del self._recorded[k]
            try:
                self._recorded[key] = self._record(cache)
            except RuntimeError as error:
                logger.warning("a decode step cannot be captured, decoding goes on without CUDA graphs: %s", error)
                self.works = False
                self._recorded.clear()
                return None
        return self._recorded[key]

    def _record(self, cache: KVCache) -> _Recorded:
        token_ids = torch.zeros(cache.num_rows, dtype=torch.int64, device=self._backend.device)
        logits = torch.empty(cache.num_rows, self._backend.config.vocab_size, device=self._backend.device)

        def step() -> None:
            logits.copy_(self._backend.compute_step(token_ids, [cache]))

        # Trying a step writes keys at each row's place, which the step itself will overwrite, and moves the places.
        positions = cache.positions.clone()

        def rehearse() -> None:
            step()
            cache.positions.copy_(positions)

        try:
            return _Recorded(token_ids, logits, self._capture(step, rehearse))
        finally:
            cache.positions.copy_(positions)


class _CudaCapture:
    """Records on a stream of its own, into the memory pool of the graphs that there are, since no two run at once."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def __call__(self, work: Work, rehearse: Work) -> Replay:
        device, graph = self._stream.device, torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.device(device):
                with torch.cuda.stream(self._stream):  # here too, so that libraries have their memory before
                    for _ in range(_WARM_UP_RUNS):
                        rehearse()
                torch.cuda.synchronize(device)
                pool = next((other.pool() for other in self._graphs), None)  # a pool ends with its last graph
                # Other threads may ask the driver something meanwhile, as the one that publishes the metrics does.
                with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
                    work()
        finally:  # a capture that fails leaves its stream behind as the current one
            torch.cuda.set_stream(current)
        current.wait_stream(self._stream)
        self._graphs.add(graph)
        return graph.replay


def _window(cache: KVCache) -> tuple[int, int, int]:
    documents, source, target = cache.capacity
    count, length = cache.num_documents, cache.source_length
    return (
        next(size for size in _up_to(documents, _powers_of_two(documents)) if size >= count),
        next(size for size in _up_to(source, _SOURCE_BUCKETS) if size >= length),
        target,
    )


@cache
def _up_to(limit: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (*(size for size in sizes if size < limit), limit)


@cache
def _powers_of_two(limit: int) -> tuple[int, ...]:
    return tuple(1 << exponent for exponent in range(limit.bit_length()))
