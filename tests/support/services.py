"""The app in this process over a real checkpoint, and a hold on its model."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from app.main import create_app
from app.settings import Settings

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def open_service(folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with these settings, loaded; `client.service` is the app's service."""
    app = create_app(Settings(**{"checkpoint": folder, "threads": 1, **settings}))
    service = app.state.context.service
    await service.load()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://leximind", timeout=60) as client:
        client.service = service  # type: ignore[attr-defined]  # for tests that look behind the answer
        yield client
    await service.drain(5.0)


class Hold:
    """Stops the model's thread at its next encoder pass until released."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        self.released.set()

    def __enter__(self) -> "Hold":
        self.reached.clear()  # warming up has set it
        self.released.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
