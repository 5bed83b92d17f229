"""The app over a real checkpoint, asked in-process."""

import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from model.inference.backend import Backend
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def _serving(folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(**{"checkpoint": folder, "threads": 1, **settings}))
    service = app.state.service
    await service.load()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://leximind", timeout=60) as client:
        client.service = service  # type: ignore[attr-defined]  # for tests that look behind the answer
        yield client
    await service.drain(5.0)


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is a GPU, which would give other numbers."""
    monkeypatch.setenv("LEXIMIND_DEVICE", "cpu")


@pytest.fixture
def serving(checkpoint_folder: Path) -> Serving:
    """`async with serving(max_items=2) as client`: an app with these settings, loaded."""

    def serve(**settings: Any) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return _serving(checkpoint_folder, **settings)

    return serve


@pytest.fixture
async def client(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    """An app with default settings, loaded."""
    async with serving() as client:
        yield client


@pytest.fixture
def root_logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The root of all loggers, as it was again afterwards.

    `dictConfig` closes all handlers that there are; one of a library that the trainer's tests load would close pytest's
    own stream with it.
    """
    monkeypatch.setattr(logging, "_handlerList", [])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


class Hold:
    """Stops the model's thread at its next encoder pass until released."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        self.released.set()

    def __enter__(self) -> "Hold":
        self.released.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """`with hold:` the model answers nothing."""
    hold = Hold()

    def held(encode: Any) -> Any:
        def held_encode(*args: Any) -> Any:
            hold.reached.set()
            assert hold.released.wait(30)
            return encode(*args)

        return held_encode

    for backend in (TorchBackend, NativeBackend):
        monkeypatch.setattr(backend, "encode", held(backend.encode))
    yield hold
    hold.released.set()


@pytest.fixture
def num_encodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of sources of every encoder pass, as they happen."""
    passes: list[int] = []

    def counted(encode: Any) -> Any:
        def counted_encode(self: Backend, input_ids: Any, encoder_mask: Any) -> Any:
            passes.append(input_ids.shape[0])
            return encode(self, input_ids, encoder_mask)

        return counted_encode

    for backend in (TorchBackend, NativeBackend):
        monkeypatch.setattr(backend, "encode", counted(backend.encode))
    return passes
