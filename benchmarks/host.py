"""What the host does for a decode step: its time where the device has nothing to compute.

    python -m benchmarks.host [--rows 32] [--beams 1] [--steps 300] [--profile]

A network that answers with constants takes the place of the model's, and with a vocabulary of 256 the tensors of rules
and choice are so small that their time is that of finding each operation. Steps are replayed and their results come a
step late, as on a GPU, where launching an operation takes a few microseconds more: `operations` says how many there
are beside the replay. Target: 100 µs a step of 32 greedy rows.
"""

import argparse
import cProfile
import pstats
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import ModelConfig
from model.inference.decoding.batch import DecodingBatch
from model.inference.decoding.options import DecodingOptions
from model.inference.graphs import Replay, StepGraphs, Work
from model.inference.kv_cache import KVCache
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind

_CONFIG = ModelConfig(
    vocab_size=256,
    d_model=8,
    num_heads=1,
    d_kv=8,
    d_ff=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    num_tokens=254,
)
_SOURCE_TOKENS = 8
_WARM_UP_STEPS = 20
_VIEWS = ("slice", "view", "unsqueeze", "select", "expand", "detach", "alias", "transpose", "_unsafe_view")


class _Constant(TorchBackend):
    """Always the same logits, whose best is no end; the cache goes on as it does."""

    def compute_step(self, token_ids: Tensor, caches: Sequence[KVCache]) -> Tensor:
        for cache in caches:
            cache.begin_step()
            cache.advance()
        logits = torch.arange(_CONFIG.vocab_size, dtype=torch.float32)
        logits[_CONFIG.eos_id] = -1e9
        return logits.expand(len(token_ids), -1)


class _Operations(TorchDispatchMode):
    """Counts what a device would be given to do: views are the host's alone. Not while a replay `is_paused` it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not self.is_paused and func.overloadpacket.__name__ not in _VIEWS
        return func(*args, **(kwargs or {}))


class _Device:
    """In a GPU's place: what is replayed runs at once, and its time is not counted."""

    def __init__(self) -> None:
        self.operations = _Operations()
        self._replayed_s = 0.0

    def capture(self, work: Work, rehearse: Work) -> Replay:  # noqa: ARG002
        def replay() -> None:
            started_at, self.operations.is_paused = time.thread_time(), True
            work()
            self._replayed_s += time.thread_time() - started_at
            self.operations.is_paused = False

        return replay

    def seconds_without(self, batch: DecodingBatch, num_steps: int) -> list[float]:
        """Of each of so many steps of `batch`, without what was replayed."""
        seconds = []
        for _ in range(num_steps):
            self._replayed_s, started_at = 0.0, time.thread_time()
            batch.step()
            seconds.append(time.thread_time() - started_at - self._replayed_s)
        return seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--no-repeat-ngram-size", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="show where it goes")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    options = DecodingOptions(
        max_new_tokens=args.steps + _WARM_UP_STEPS + 10,
        num_beams=args.beams,
        no_repeat_ngram_size=args.no_repeat_ngram_size,
    )
    device = _Device()
    batch = _begin(args.rows // args.beams, options, device)
    device.seconds_without(batch, _WARM_UP_STEPS)
    seconds = device.seconds_without(batch, args.steps)
    with device.operations:
        batch.step()
    assert batch.num_rows == args.rows, "rows ended, so that this is no measure of them"
    print(
        f"{args.rows} rows, {args.beams} beams, n-grams of {args.no_repeat_ngram_size}: median "
        f"{median(seconds) * 1e6:.0f} µs a step, least {min(seconds) * 1e6:.0f}; {device.operations.count} operations"
    )
    if args.profile:
        batch = _begin(args.rows // args.beams, options, device)
        with cProfile.Profile() as profile:
            device.seconds_without(batch, args.steps)
        pstats.Stats(profile).sort_stats("tottime").print_stats(20)


def _begin(num_documents: int, options: DecodingOptions, device: _Device) -> DecodingBatch:
    backend = _Constant(LexiMind(_CONFIG))
    batch = DecodingBatch(backend, StepGraphs(backend, device.capture), lags=True)
    encoder_states = torch.zeros(num_documents, _SOURCE_TOKENS, _CONFIG.d_model)
    mask = torch.ones(num_documents, _SOURCE_TOKENS, dtype=torch.bool)
    batch.add(range(num_documents), encoder_states, mask, [options] * num_documents)
    return batch


if __name__ == "__main__":
    main()
