"""The page's own server, and the service beside it where none is named."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any

import gradio as gr
import httpx
import uvicorn
from fastapi import FastAPI

from app.demo import markup
from app.demo.client import Client
from app.demo.page import MAX_UPLOAD, page, theme

_LOOPBACK = "127.0.0.1"
_STARTUP_S = 300.0
_POLL_S = 0.1
_STOP_S = 40.0
_CLOSE_S = 3  # for the pages that are open
# Whatever the framework may want from elsewhere is not fetched, and nobody else's page can hold this one in a frame.
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; form-action 'self'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class DemoError(Exception):
    """The page cannot be served; the message says why."""


def run(url: str | None, api_key: str | None, host: str, port: int, shown_url: str | None) -> None:
    """Serve the page at `host` and `port` until a signal comes.

    Args:
        url: of the service; None: one is started beside the page, with the settings that the environment gives.
        shown_url: where people reach the service, for the calls that the page shows; None: `url`.

    Raises:
        DemoError: the service beside the page does not become ready.
    """
    # uvicorn raises the signal that ended it once more: SIGTERM too has to let the service be ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with contextlib.suppress(KeyboardInterrupt), contextlib.nullcontext(url) if url else _service() as found:
        client = Client(found.rstrip("/"), api_key)
        app = create_app(client, (shown_url or found).rstrip("/"))
        print(f"the page is at http://{host}:{port}", flush=True)  # noqa: T201
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_CLOSE_S)


def create_app(client: Client, shown_url: str) -> "SecurityHeaders":
    """The page as an ASGI app."""
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page(client, shown_url),
        path="/",
        footer_links=[],
        max_file_size=MAX_UPLOAD,
        show_error=False,
        ssr_mode=False,
        theme=theme(),
        css=markup.styles(),
        run_history=False,
    )
    return SecurityHeaders(app)


class SecurityHeaders:
    """ASGI middleware that gives every answer `_HEADERS`."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One connection."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


@contextlib.contextmanager
def _service() -> Iterator[str]:
    # A process of its own: a page that fails or is slow takes nothing from the service.
    with socket.socket() as free:
        free.bind((_LOOPBACK, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "app.cli", "serve", "--host", _LOOPBACK, "--port", str(port)]
    with subprocess.Popen(command) as process:
        url = f"http://{_LOOPBACK}:{port}"
        try:
            _wait_until_ready(process, url)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    give_up = time.monotonic() + _STARTUP_S
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/ready", trust_env=False).is_success:
                return
        if time.monotonic() > give_up:
            raise DemoError(f"the service is not ready after {_STARTUP_S:g} s; start it by `leximind serve` to see why")
        time.sleep(_POLL_S)
    raise DemoError(f"the service ended with code {process.returncode} before it was ready; its log above says why")
