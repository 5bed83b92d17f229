"""Parts of `benchmarks.gpu` that drive the model: each takes a device and gives figures by name, ready to be shown.

What they import is on a bare GPU machine: neither FastAPI nor pydantic nor Hydra. `Setting.quick` makes everything
small, to prove on a CPU that it works.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import ours
from benchmarks.interpreters import ROOT
from benchmarks.weights import BASE, SMOKE, Shape, Weights, prepare
from model.choices import Precision
from model.config import ModelConfig
from model.inference.decoding.batch import DecodingBatch
from model.inference.graphs import StepGraphs
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind

XL = Shape("xl", 2048, 32, 64, 5120, 24, 32000, 32128, 0)
# TensorRT-LLM's PyTorch backend on an H100, as NVIDIA publishes it: FLAN-T5-XL in bfloat16, tokens/s.
PUBLISHED = {32: 3312, 64: 4184, 128: 4768}
_PUBLISHED_SOURCE = (260, 440)
_BATCHES = (1, 8, 32, 128)
_BEAMS = 4
_LEAST_EQUAL = 0.98  # of ids in float32, whose last digit depends on the shapes of a batch
_MOST_ERROR = 1.5  # of bfloat16's, times that of transformers


@dataclass(frozen=True)
class Setting:
    """Where a part runs, where its weights are kept, and whether it is only to prove that it works."""

    device: str
    cache: Path
    quick: bool

    @property
    def torch_device(self) -> torch.device:
        """As torch names it."""
        return torch.device(self.device)

    @property
    def dtype(self) -> Precision:
        """What is measured in."""
        return "float32" if self.device == "cpu" else "bfloat16"

    def device_name(self) -> str:
        """As its maker names it."""
        return torch.cuda.get_device_name(self.torch_device) if self.torch_device.type == "cuda" else self.device

    def weights(self) -> Weights:
        """Random ones of base's shape, or of the smallest."""
        return prepare(SMOKE if self.quick else BASE, self.cache)


class PartFailed(Exception):
    """What was to be proved does not hold."""


Part = Callable[[Setting], dict[str, str]]


def parity(setting: Setting) -> dict[str, str]:
    """The same ids as `transformers` in float32, and in bfloat16 logits that are no farther from its float32 ones.

    Raises:
        PartFailed: they are not.
    """
    weights, device = setting.weights(), setting.torch_device
    lengths = (5, 12, 9) if setting.quick else (200, 512, 37, 310, 64, 128, 450, 256)
    texts = [sources(weights.shape, 1, length, seed=length)[0] for length in lengths]
    num_new_tokens = 8 if setting.quick else 64
    figures = {}
    for dtype in ("float32", "bfloat16"):
        backend, theirs = ours.load(weights.ours, device, dtype), hugging_face(weights, device, dtype)
        batch = DecodingBatch(backend, _graphs(backend, device))
        for beams in (1, _BEAMS):
            own = ours.generate(backend, texts, num_new_tokens, beams, batch)
            equal = _share(own, theirs(texts, num_new_tokens, beams))
            figures[f"{dtype}, {beams} beams: ids as transformers has them"] = f"{equal:.1%}"
            if dtype == "float32" and equal < _LEAST_EQUAL:
                raise PartFailed(f"float32, {beams} beams: {equal:.1%} of the ids are those of transformers")
    errors = _errors(weights, device, texts, sources(weights.shape, len(texts), num_new_tokens))
    for name, error in errors.items():
        figures[f"{name}: error of logits ÷ their size"] = f"{error:.1e}"
    if errors["ours float32"] > 1e-4 or errors["ours bfloat16"] > _MOST_ERROR * errors["transformers bfloat16"]:
        raise PartFailed(f"logits: {errors}")
    return figures


def tests(setting: Setting) -> dict[str, str]:
    """What pytest has marked as needing a GPU; without the project's own options, which name absent plugins.

    Raises:
        PartFailed: a test fails.
    """
    files = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "@pytest.mark.gpu\n" in path.read_text(encoding="utf-8")
    ]
    options = ["-c", os.devnull, "--rootdir", str(ROOT), "-o", "pythonpath=tests", "--import-mode=importlib"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", "-q", "-m", "gpu", *files],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1:] or [done.stderr.strip()]
    if done.returncode:
        print(done.stdout, done.stderr)
        raise PartFailed(f"pytest: {last[0]}")
    if setting.torch_device.type == "cuda" and "passed" not in last[0]:
        raise PartFailed(f"pytest ran nothing: {last[0]}")
    return {f"{len(files)} files": last[0]}


def decoding(setting: Setting) -> dict[str, str]:
    """Tokens/s, greedy and by beams, encoding included, and `generate` of transformers at one row.

    Raises:
        PartFailed: steps cannot be captured.
    """
    weights, device, figures = setting.weights(), setting.torch_device, {}
    source, new, repetitions = (16, 8, 1) if setting.quick else (512, 128, 5)
    backend = ours.load(weights.ours, device, setting.dtype)
    graphs = _graphs(backend, device)
    batch = DecodingBatch(backend, graphs)
    for beams in (1, _BEAMS):
        for rows in (1, 2) if setting.quick else _BATCHES:
            work = partial(ours.generate, backend, sources(weights.shape, rows, source), new, beams, batch)
            rate = rows * new / seconds_of(work, device, repetitions)
            figures[f"{rows} documents, {beams} beams, tokens/s"] = f"{rate:,.0f}"
            if graphs is not None and not graphs.works:
                raise PartFailed("steps are not captured as CUDA graphs; the log says why")
    theirs = hugging_face(weights, device, setting.dtype)
    seconds = seconds_of(partial(theirs, sources(weights.shape, 1, source), new), device, repetitions)
    figures["transformers generate, 1 document, tokens/s"] = f"{new / seconds:,.0f}"
    return figures


def encoder(setting: Setting) -> dict[str, str]:
    """Documents/s."""
    weights, device, figures = setting.weights(), setting.torch_device, {}
    backend = ours.load(weights.ours, device, setting.dtype)
    for length in (16,) if setting.quick else (64, 256, 512):
        for rows in (1, 2) if setting.quick else _BATCHES:
            work = partial(ours.encode, backend, sources(weights.shape, rows, length))
            rate = rows / seconds_of(work, device, 1 if setting.quick else 10)
            figures[f"{rows} × {length} tokens, documents/s"] = f"{rate:,.0f}"
    return figures


def published(setting: Setting) -> dict[str, str]:
    """NVIDIA's protocol: FLAN-T5-XL's shape, sources of 260–440 tokens, 128 new ones, greedy, so many at once."""
    device, figures = setting.torch_device, {}
    shape = SMOKE if setting.quick else XL
    source, new = ((8, 14), 8) if setting.quick else (_PUBLISHED_SOURCE, 128)
    backend = TorchBackend(_random(shape, device, torch.float32 if device.type == "cpu" else torch.bfloat16))
    batch = DecodingBatch(backend, _graphs(backend, device))
    for rows in (2, 3) if setting.quick else PUBLISHED:
        draw = random.Random(rows)
        texts = [sources(shape, 1, draw.randint(*source), seed=number)[0] for number in range(rows)]
        seconds = seconds_of(partial(ours.generate, backend, texts, new, 1, batch), device, 1 if setting.quick else 3)
        figures[f"{rows} at once, tokens/s"] = f"{rows * new / seconds:,.0f}"
        if rows in PUBLISHED:
            figures[f"{rows} at once, published for an H100"] = f"{PUBLISHED[rows]:,}"
    return figures


def sources(shape: Shape, batch: int, length: int, seed: int = 0) -> list[list[int]]:
    """`batch` random sources of `length` tokens, the end included."""
    generator = torch.Generator().manual_seed(batch + 1000 * seed)
    ids = torch.randint(3, shape.num_pieces, (batch, length - 1), generator=generator)
    return [[*row, 1] for row in ids.tolist()]


def seconds_of(work: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """Median after a warm-up of two, in which what is compiled or captured is."""
    times = []
    for _ in range(repetitions + 2):
        started_at = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started_at)
    return median(times[2:])


def hugging_face(weights: Weights, device: torch.device, dtype: str) -> Callable[..., list[list[int]]]:
    """`generate` of transformers: ids of padded sources, so many new tokens, so many beams."""
    model = _published_model(weights, device, dtype)

    def generate(texts: Sequence[Sequence[int]], num_new_tokens: int, num_beams: int = 1) -> list[list[int]]:
        ids, mask = _pad(texts, device)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            max_new_tokens=num_new_tokens,
            min_new_tokens=num_new_tokens,
            num_beams=num_beams,
            do_sample=False,
        )
        return [row[1:] for row in out.tolist()]

    return generate


def _published_model(weights: Weights, device: torch.device, dtype: str) -> Any:
    from transformers import T5ForConditionalGeneration

    model: Any = T5ForConditionalGeneration.from_pretrained(weights.published, dtype=getattr(torch, dtype))
    return model.to(device).eval()


def _graphs(backend: Any, device: torch.device) -> StepGraphs | None:
    return StepGraphs(backend) if device.type == "cuda" else None


def _pad(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
    return ids, ids != 0


def _share(own: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    pairs = [pair for rows in zip(own, other, strict=True) for pair in zip(*rows, strict=True)]
    return sum(one == two for one, two in pairs) / len(pairs)


@torch.inference_mode()
def _errors(
    weights: Weights, device: torch.device, texts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Root mean square of what logits differ by from those of transformers in float32, by that of the latter."""
    from model.storage.checkpoint import load_checkpoint

    (ids, mask), (target_ids, _) = _pad(texts, device), _pad(targets, device)
    logits: dict[str, Tensor] = {}
    for dtype in ("float32", "bfloat16"):
        theirs = _published_model(weights, device, dtype)
        logits[f"transformers {dtype}"] = theirs(
            input_ids=ids, attention_mask=mask.long(), decoder_input_ids=target_ids
        ).logits.float()
        del theirs
        own = load_checkpoint(weights.ours, device).model.to(getattr(torch, dtype)).eval()
        logits[f"ours {dtype}"] = own.decode(own.encode(ids, mask), mask, target_ids).float()
        del own
    reference = logits.pop("transformers float32")
    size = reference.square().mean().sqrt()
    return {name: float((one - reference).square().mean().sqrt() / size) for name, one in logits.items()}


def _random(shape: Shape, device: torch.device, dtype: torch.dtype) -> LexiMind:
    config = ModelConfig(
        vocab_size=shape.vocab_size,
        d_model=shape.d_model,
        num_heads=shape.num_heads,
        d_kv=shape.d_kv,
        d_ff=shape.d_ff,
        num_encoder_layers=shape.num_layers,
        num_decoder_layers=shape.num_layers,
        num_tokens=shape.num_pieces,
        num_positions=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LexiMind(config)
    return model.to(dtype).eval().requires_grad_(False)
