"""Through the engine, all at once and joining mid-flight, what `transformers` gives: each greedy and beam case."""

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from app.engine.engine import Engine
from app.engine.request import EngineRequest
from app.metrics import Metrics
from app.settings import Settings
from model.inference.torch_backend import TorchBackend
from model.storage.flan_t5 import read_flan_t5
from model.tasks import Tasks
from support.reference import BEAM, GREEDY, NUM_TOKENS, SHAPES, TOLERANCE, Pair, generate, write_reference

LENGTHS = (150, 3, 77, 1, 40)


@pytest.fixture(scope="module", params=["narrow_heads", "near_distances"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A published folder with random weights: the reference and the import."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    write_reference(folder, SHAPES[request.param])
    reference = T5ForConditionalGeneration.from_pretrained(folder).eval()
    return Pair(folder, reference, read_flan_t5(folder, NUM_TOKENS))


def padded_sources() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, NUM_TOKENS, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return ids * mask, mask


async def test_engine_gives_the_ids_and_scores_of_transformers(pair: Pair) -> None:
    sources = padded_sources()
    checkpoint = SimpleNamespace(backend=TorchBackend(pair.model), name=pair.folder.name, tasks=Tasks())
    engine = Engine(checkpoint, Settings(max_batch_tokens=320, max_decode_rows=24), Metrics())  # type: ignore[arg-type]
    await engine.start()
    cases = [(options, row) for options in [*GREEDY, *BEAM] for row in range(len(LENGTHS))]

    places = asyncio.Semaphore(24)  # arrivals are spread over the work: one when another has ended

    async def ask(number: int) -> object:
        options, row = cases[number]
        ids = tuple(sources[0][row, : LENGTHS[row]].tolist())
        async with places:
            return (await engine.run(EngineRequest(ids, math.inf, options=options))).summary

    results = iter(await asyncio.gather(*map(ask, range(len(cases)))))
    await engine.drain(5)
    for options in [*GREEDY, *BEAM]:
        theirs, scores = generate(pair, sources, options)
        ours = [next(results) for _ in LENGTHS]
        assert [list(result.token_ids) for result in ours] == theirs, options
        if scores is not None:
            torch.testing.assert_close(torch.tensor([result.score for result in ours]), scores, **TOLERANCE)
