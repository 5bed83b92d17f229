"""The app over a real checkpoint, asked in-process."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.inference.backend import Backend
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend
from support.services import Hold, Serving, open_service


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is a GPU, which would give other numbers."""
    monkeypatch.setenv("LEXIMIND_DEVICE", "cpu")


@pytest.fixture
def serving(checkpoint_folder: Path) -> Serving:
    """`async with serving(max_items=2) as client`: an app with these settings, loaded."""

    def serve(**settings: Any) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return open_service(checkpoint_folder, **settings)

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
