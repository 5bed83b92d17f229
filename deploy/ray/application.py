"""The application that Ray Serve imports: `deploy.ray.application:build`.

A replica is the app of `app.main` with its engine, loaded before it takes requests and drained before it ends. Settings
come from `LEXIMIND_*` as ever; what concerns the socket (host, port, connections, times of headers and of unread
answers) is the proxy's, which is Ray's.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from app.api.context import app_context
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logging
from deploy.ray.scaling import QUEUED_TOKENS

_POLL_S = 0.1
_GRACE_S = 10.0  # to end threads, beyond the drain


def build(_: Mapping[str, Any]) -> Application:
    """The application, without arguments; a config's `deployments` say what its replicas get and how many there are."""
    settings = Settings()
    deployment = serve.deployment(serve.ingress(_create_app)(Replica)).options(
        name="leximind",
        # The app refuses what is too much, with the time to retry; what is refused must reach it.
        max_ongoing_requests=2 * settings.max_concurrent_requests,
        graceful_shutdown_timeout_s=settings.drain_timeout_s + _GRACE_S,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
    )
    return deployment.bind()


def _create_app() -> FastAPI:
    settings = Settings()
    configure_logging(settings.log_level, as_json=settings.log_json)
    return create_app(settings)


class Replica:
    """What Ray asks of a replica beside requests."""

    app: FastAPI  # of the class that `serve.ingress` makes of this one

    async def check_health(self) -> None:
        """Asked once before it takes requests, and then every few seconds; it is replaced when this raises."""
        service = app_context(self.app).service
        while service.state == "loading":
            await asyncio.sleep(_POLL_S)
        if reason := service.failure or service.hang:
            raise RuntimeError(reason)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `deploy.ray.scaling` goes by."""
        registry = app_context(self.app).service.metrics.registry
        return {QUEUED_TOKENS: registry.get_sample_value("leximind_queue_tokens") or 0.0}
