"""The part of `benchmarks.gpu` that serves: a closed loop through the engine, without HTTP, which is not there."""

import asyncio
import random
import time
from types import SimpleNamespace
from typing import Any

from app.engine.engine import Engine
from app.engine.request import EngineRequest
from app.metrics import Metrics
from benchmarks import ours
from benchmarks.gpu_parts import Setting
from benchmarks.outcomes import Outcome, closed_summary
from model.storage.checkpoint import load_served

# The defaults of what the engine reads of `app.settings`, which needs pydantic.
SETTINGS = {
    "drafts": True,
    "max_batch_tokens": 8192,
    "max_decode_rows": 64,
    "max_stall_s": 0.25,
    "max_batch_work_rows": 4,
    "max_queued_requests": 1024,
    "max_queued_tokens": 262_144,
}


def serving(setting: Setting) -> dict[str, str]:
    """Requests/s and latencies of a closed loop through the engine, without HTTP: 100–300 tokens in, 48 out."""
    return asyncio.run(_serve(setting))


async def _serve(setting: Setting) -> dict[str, str]:
    weights, figures = setting.weights(), {}
    settings: Any = SimpleNamespace(**SETTINGS)
    engine = Engine(load_served(weights.ours, setting.torch_device, setting.dtype), settings, Metrics())
    await engine.start()
    options = ours.fixed_length(4 if setting.quick else 48)
    lengths = (8, 16) if setting.quick else (100, 300)
    for num_clients in (2,) if setting.quick else (8, 32, 64):
        duration_s = 1.0 if setting.quick else 20.0
        began_at = time.perf_counter()

        async def ask_again(number: int, began_at: float = began_at, duration_s: float = duration_s) -> list[Outcome]:
            draw, outcomes = random.Random(number), []
            while (at_s := time.perf_counter() - began_at) < duration_s:
                source = [draw.randrange(3, weights.shape.num_pieces) for _ in range(draw.randint(*lengths))]
                request = EngineRequest((*source, 1), engine.clock() + 60.0, (), options)
                result = await engine.run(request)
                assert result.summary is not None
                assert len(result.summary.token_ids) == options.max_new_tokens
                outcomes.append(Outcome(at_s, time.perf_counter() - began_at - at_s, 200))
            return outcomes

        answers = await asyncio.gather(*map(ask_again, range(num_clients)))
        seen = closed_summary([one for some in answers for one in some], duration_s)
        p50, p90 = ("–" if seen[key] is None else f"{seen[key] * 1000:.0f}" for key in ("p50_s", "p90_s"))
        figures[f"{num_clients} clients, requests/s"] = f"{seen['answered_per_s']:.1f}"
        figures[f"{num_clients} clients, p50 / p90 in ms"] = f"{p50} / {p90}"
    await engine.drain(30.0)
    return figures
