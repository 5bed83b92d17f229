"""The command in its own process, on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.prometheus import started_prometheus
from support.servers import Server, started_servers, wait_until_ready


@pytest.fixture
def start(tmp_path: Path, checkpoint_folder: Path) -> Iterator[Callable[..., Server]]:
    """`start("--max-items", "2")`: a server with these flags, not awaited; ended with the test (`started_servers`)."""
    yield from started_servers(tmp_path, checkpoint_folder)


@pytest.fixture
def serve(start: Callable[..., Server]) -> Callable[..., Server]:
    """As `start`, and ready."""
    return lambda *flags, **options: wait_until_ready(start(*flags, **options))


@pytest.fixture(scope="module")
def serve_shared(tmp_path_factory: pytest.TempPathFactory, checkpoint_folder: Path) -> Iterator[Callable[..., Server]]:
    """As `serve`, for a fixture of a module; ended with its tests."""
    servers = started_servers(tmp_path_factory.mktemp("servers"), checkpoint_folder)
    start = next(servers)
    yield lambda *flags: wait_until_ready(start(*flags))
    next(servers, None)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`prometheus(port, key)`: the URL of one that scrapes the service there; a minute of its rules is a second."""
    yield from started_prometheus(tmp_path)
