"""A real, tiny, randomly initialised LexiMind and an engine on it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.engine.engine import Engine
from app.engine.request import EngineRequest, EngineResult
from app.engine.runner import Runner
from app.metrics import Metrics
from app.settings import Settings
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind
from model.tasks import Tasks
from support.engines import HEADS, TINY, FakeClock, Pause, Rig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> LexiMind:
    torch.manual_seed(0)
    return LexiMind(TINY).eval()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


Start = Callable[..., Any]


@pytest.fixture
async def start(model: LexiMind, clock: FakeClock) -> AsyncIterator[Start]:
    """Starts engines on `model` with the given limits; they stop when the test ends, and no callback has raised."""
    engines: list[Engine] = []
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: raised.append(context))

    async def begin(*, on_failure: Callable[[], None] = lambda: None, **limits: Any) -> Rig:
        metrics = Metrics()
        checkpoint = SimpleNamespace(backend=TorchBackend(model), name="tiny", tasks=Tasks(heads=HEADS))
        engine = Engine(checkpoint, Settings(**limits), metrics, clock, on_failure)
        engines.append(engine)
        await engine.start()
        return Rig(engine, metrics, model)

    yield begin
    for engine in engines:
        await engine.drain(0)
    assert raised == []


@pytest.fixture
def pause() -> Iterator[Callable[[nn.Module], Pause]]:
    """Pauses modules; what a failed test left paused is released, so that its engine can stop."""
    pauses: list[Pause] = []

    def begin(module: nn.Module) -> Pause:
        pauses.append(Pause(module))
        return pauses[-1]

    yield begin
    for one in pauses:
        one.release()


@pytest.fixture
def source() -> Callable[[int, int], tuple[int, ...]]:
    """Makes sources: some `num_tokens` ids that `seed` decides, the end token included."""

    def make(seed: int, num_tokens: int) -> tuple[int, ...]:
        generator = torch.Generator().manual_seed(seed)
        return (*torch.randint(3, TINY.num_tokens, (num_tokens - 1,), generator=generator).tolist(), TINY.eos_id)

    return make


@pytest.fixture
def alone(model: LexiMind) -> Callable[[EngineRequest], EngineResult]:
    """The result of a request with nothing else in its batch."""

    def run(request: EngineRequest) -> EngineResult:
        runner = Runner(TorchBackend(model), HEADS)
        updates = runner.join(runner.encode({0: request}))
        while runner.num_rows:
            updates = runner.step()
        assert isinstance(updates[-1].end, EngineResult)
        return updates[-1].end

    return run


@pytest.fixture
def encoded_shapes(model: LexiMind) -> list[tuple[int, int]]:
    """Grows by the (rows, longest source) of everything that the encoder encodes."""
    shapes: list[tuple[int, int]] = []

    def see(_module: nn.Module, args: tuple[Tensor, Tensor]) -> None:
        shapes.append((args[1].shape[0], args[1].shape[1]))

    model.encoder.register_forward_pre_hook(see)
    return shapes
