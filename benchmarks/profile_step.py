"""Where a decode step's time goes, by part of the network, beside what its bytes allow.

    python -m benchmarks.profile_step [--quick] [--rows 1 --rows 32] [--beams 4] [--dtype bfloat16] [--operators]

Each part's time is its own: what it calls that is a part too is taken off. The parts are found by name in the loaded
network, so that a part that a faster form has fused into another shows up as the other.
"""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import ours, report
from benchmarks.decoding import FULL, QUICK, Plan, sources
from benchmarks.stopwatch import Stopwatch
from benchmarks.weights import CACHE, prepare
from model.choices import PRECISIONS
from model.inference import torch_backend
from model.inference.backend import Backend
from model.inference.decoding.batch import DecodingBatch
from model.inference.decoding.rows import Rows
from model.inference.decoding.rules import Rules
from model.inference.kv_cache import KVCache
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend
from model.kernels.library import stage_seconds

_WARM_UP_STEPS = 8
# Modules by the end of their name, then methods by class: part, where.
_MODULES = (
    ("embedding", r"^embedding$"),
    ("norms", r"norm$"),
    ("qkv projection", r"self_attention\.qkv$"),
    ("cross q projection", r"cross_attention\.q$"),
    ("output projections", r"attention\.out$"),
    ("feed-forward wi", r"feed_forward\.wi$"),
    ("feed-forward wo", r"feed_forward\.wo$"),
)
_METHODS: tuple[tuple[str, type, str], ...] = (
    ("cache write", KVCache, "append"),
    ("beam reorder", KVCache, "reorder"),
    ("rules", Rules, "apply"),
    ("LM head", TorchBackend, "_logits"),
    ("choice and bookkeeping", Rows, "advance"),
    ("rest of the network", Backend, "step"),
)
_FUNCTIONS = (("self-attention core", "_self_attention"), ("cross-attention core", "_cross_attention"))


def main(argv: Sequence[str] | None = None) -> None:
    """Profile each number of documents, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a two-layer network; proves that everything works")
    parser.add_argument("--rows", type=int, action="append", help="documents in flight [default: 1 8 32]")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16", choices=PRECISIONS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--operators", action="store_true", help="torch.profiler's table by operator as well")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--output", type=Path, default=report.FOLDER)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    plan = QUICK if args.quick else FULL
    backend = ours.load(prepare(plan.shape, args.cache).ours, torch.device(args.device), args.dtype)
    bandwidth = read_bandwidth(backend.device)
    columns: dict[str, dict[str, float]] = {}
    for batch in args.rows or (1, 8, 32):
        steps = _Steps(backend, plan, batch, args.beams, args.steps)
        parts, whole_s = steps.by_part()
        limit_s = steps.num_bytes / bandwidth
        columns[f"{batch} × {args.beams}"] = {
            **parts,
            "**step, not taken apart**": whole_s,
            "**limit of its bytes**": limit_s,
        }
        if args.operators:
            print(steps.by_operator())
    data = {"facts": report.facts(), "dtype": args.dtype, "bandwidth_gb_s": bandwidth / 1e9, "seconds": columns}
    name = f"profile-{args.dtype}-quick" if args.quick else f"profile-{args.dtype}"
    report.save(name, data, markdown(data), args.output)
    print(markdown(data))


def markdown(data: dict[str, Any]) -> str:
    """Milliseconds by part and number of rows."""
    columns = data["seconds"]
    parts = list(dict.fromkeys(part for column in columns.values() for part in column))
    lines = [[part, *(f"{1e3 * column.get(part, 0.0):.2f}" for column in columns.values())] for part in parts]
    header = [f"ms a step, {data['dtype']}", *columns]
    return (
        f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n\nThe limit: weights, cache and encoder keys "
        f"read once at {data['bandwidth_gb_s']:.0f} GB/s, the read bandwidth measured beside.\n"
    )


def read_bandwidth(device: torch.device) -> float:
    """Bytes a second that a sum over 512 MiB reads, the best of five."""
    block = torch.ones(128 * 2**20, device=device)
    times = []
    for _ in range(5):
        watch = Stopwatch(device)
        with watch.part("sum"):
            block.sum().item()
        times.append(watch.seconds["sum"])
    return block.nbytes / min(times)


class _Steps:
    """Documents half-way through their answers."""

    def __init__(self, backend: Backend, plan: Plan, batch: int, beams: int, num_steps: int) -> None:
        self._backend = backend
        self._num_steps = num_steps
        self._options = [ours.fixed_length(_WARM_UP_STEPS + num_steps + 1, beams)] * batch
        self._encoder_states, self._mask = ours.encode(backend, sources(plan, batch))
        rows, config = batch * beams, backend.config
        target_length = _WARM_UP_STEPS + num_steps // 2
        cache = backend.new_cache(1)
        keys = rows * target_length * config.num_heads * config.d_kv * 2 * cache.dtype.itemsize  # of a layer
        keys += batch * plan.source_length * cache.layout.position_bytes
        self.num_bytes = keys * config.num_decoder_layers + _weight_bytes(backend)

    def by_part(self) -> tuple[dict[str, float], float]:
        """Seconds of a step by part, and of a step that is not taken apart: medians and means over the steps."""
        plain = Stopwatch(self._backend.device)
        batch = self._start()
        whole = []
        for _ in range(self._num_steps):
            plain.seconds.clear()
            with plain.part("step"):
                batch.step()
            whole.append(plain.seconds["step"])
        batch = self._start()
        watch = Stopwatch(self._backend.device)
        before = stage_seconds()
        with watch.watching(_targets(self._backend)), watch.part("bookkeeping of the batch"):
            for _ in range(self._num_steps):
                batch.step()
        if isinstance(self._backend, NativeBackend):  # one call to Python: the kernels know their own stages
            stages = {stage: seconds - before[stage] for stage, seconds in stage_seconds().items()}
            watch.seconds["rest of the network"] -= sum(stages.values())
            watch.seconds = {**stages, **watch.seconds}
        return {part: seconds / self._num_steps for part, seconds in watch.seconds.items()}, median(whole)

    def by_operator(self) -> str:
        """torch.profiler's view of the same."""
        batch = self._start()
        with torch.profiler.profile() as profile:
            for _ in range(self._num_steps):
                batch.step()
        return profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15)

    def _start(self) -> DecodingBatch:
        batch = DecodingBatch(self._backend)
        batch.add(range(len(self._options)), self._encoder_states, self._mask, self._options)
        for _ in range(_WARM_UP_STEPS):
            batch.step()
        return batch


def _targets(backend: Backend) -> list[tuple[str, object, str]]:
    """(part, owner, method) of everything that is timed and is there."""
    model = backend.model if isinstance(backend, TorchBackend) else torch.nn.Module()
    decoder = [(name, module) for name, module in model.named_modules() if not name.startswith("encoder.")]
    found: list[tuple[str, object, str]] = [
        (part, module, "forward") for part, pattern in _MODULES for name, module in decoder if re.search(pattern, name)
    ]
    found += [(part, torch_backend, function) for part, function in _FUNCTIONS]
    classes = [(part, one, method) for part, owner, method in _METHODS for one in (owner, *owner.__subclasses__())]
    return found + [(part, owner, method) for part, owner, method in classes if method in vars(owner)]


def _weight_bytes(backend: Backend) -> int:
    """Of what every step reads: the decoder without the projections of the source, and the output matrix."""
    if isinstance(backend, NativeBackend):
        return backend.step_bytes
    assert isinstance(backend, TorchBackend)
    model = backend.model
    is_read = re.compile(r"decoder\.(?!.*cross_attention\.kv)|lm_head")
    modules = [module for name, module in model.named_modules() if is_read.match(name)]
    if not any(name.endswith("lm_head") for name, _ in model.named_children()):
        modules.append(getattr(backend, "lm_head", None) or model.embedding)  # tied
    tensors = {id(tensor): tensor for module in modules for tensor in _own_tensors(module)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _own_tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    # Packed matrices are plain attributes: they can be neither trained nor saved.
    packed = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return [*module.parameters(recurse=False), *module.buffers(recurse=False), *packed]


if __name__ == "__main__":
    main()
