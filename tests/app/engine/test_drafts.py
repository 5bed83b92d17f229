"""Drafts in the engine: streams and answers are those without; the metrics count what was drafted and was right."""

import asyncio
import itertools
import math
from contextlib import aclosing
from functools import partial

import pytest
import torch

from app.engine.engine import Engine
from app.engine.request import EngineRequest, EngineResult
from app.metrics import Metrics
from app.settings import Settings
from model.choices import BUNDLED
from model.inference.decoding.batch import DecodingBatch
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.kernels.library import is_available
from model.storage.checkpoint import ServedCheckpoint, load_served

pytestmark = pytest.mark.skipif(
    not is_available(), reason="no native kernels: no compiler, or a processor without AVX2"
)

TEXTS = (
    "The city council of Bristol voted on Tuesday to close the old harbour bridge to cars from next spring. Cyclists "
    "welcomed the decision, but shop owners nearby fear that they will lose customers.",
    "A strong earthquake struck the coast of northern Japan early on Wednesday, injuring dozens of people and cutting "
    "power to thousands of homes. Officials issued a tsunami warning, which was lifted three hours later.",
    "#Person1#: Shall we meet at noon?\n#Person2#: I would rather have lunch at one, if you have time.",
)
OPTIONS = (
    DecodingOptions(max_new_tokens=40),
    DecodingOptions(max_new_tokens=40, do_sample=True, temperature=0.5, seed=3),
    DecodingOptions(max_new_tokens=20, num_beams=2),
)


@pytest.fixture(scope="module")
def checkpoint() -> ServedCheckpoint:
    return load_served(BUNDLED, torch.device("cpu"), "int8")


async def answers(checkpoint: ServedCheckpoint, *, drafts: bool) -> tuple[list[DecodingResult], Metrics]:
    """Of every text with every option, all at once, each streamed and compared with its result; then the metrics."""
    metrics = Metrics()
    engine = Engine(checkpoint, Settings(drafts=drafts), metrics)
    await engine.start()
    prompt = checkpoint.tasks.prompts["summarize"]
    sources = [tuple(checkpoint.tokenizer.encode_source(text, prompt, 512)) for text in TEXTS]

    async def ask(source: tuple[int, ...], options: DecodingOptions) -> DecodingResult:
        tokens: list[int] = []
        async with aclosing(engine.stream([EngineRequest(source, math.inf, options=options)])) as stream:
            async for _, item in stream:
                if isinstance(item, EngineResult):
                    assert item.summary is not None
                    assert tokens == list(item.summary.token_ids)
                    return item.summary
                tokens.append(item)
        raise AssertionError("the stream ended without a result")

    results = list(await asyncio.gather(*(ask(source, options) for source in sources for options in OPTIONS)))
    results += [await ask(source, OPTIONS[0]) for source in sources]  # one at a time, where drafts are longest
    await engine.drain(5.0)
    return results, metrics


async def test_answers_are_the_same_in_fewer_steps(
    checkpoint: ServedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every step seems to take as long, whatever else the machine does: all that can be drafted is.
    batch = partial(DecodingBatch, clock=itertools.count().__next__)
    monkeypatch.setattr("app.engine.runner.DecodingBatch", batch)
    plain, without = await answers(checkpoint, drafts=False)
    drafted, with_drafts = await answers(checkpoint, drafts=True)
    assert drafted == plain

    def value(metrics: Metrics, name: str) -> float:
        return metrics.registry.get_sample_value(f"leximind_{name}") or 0.0

    assert value(without, "draft_tokens_proposed_total") == 0
    accepted = value(with_drafts, "draft_tokens_accepted_total")
    assert value(with_drafts, "draft_tokens_proposed_total") >= accepted > 20
    steps = "decode_step_seconds_count"
    assert value(with_drafts, steps) < value(without, steps)
