"""The image, built once, and one container of it that serves."""

import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.containers import Served, Spec, running
from support.images import REPOSITORY, REVISION, TAG, Builder, builder
from support.servers import Server, wait_until_ready

NO_PROXY_HERE = "http://127.0.0.1:9"  # nothing listens there

logger = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here takes minutes, the first of them the build."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.image)
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def version() -> str:
    """The project's."""
    found = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, version: str) -> Iterator[Builder]:
    """The builder that has built the image `TAG`."""
    if not shutil.which("buildah") or os.geteuid():
        pytest.skip("buildah has to be installed, and to be run as root")
    with builder(tmp_path_factory.mktemp("image")) as made:
        logger.info("the base is %s", made.base)
        made.build(REPOSITORY, TAG, VERSION=version, REVISION=REVISION)
        logger.info("built")
        yield made


@pytest.fixture(scope="session")
def root(build: Builder) -> Iterator[Path]:
    """The image's root folder."""
    with build.mounted(TAG) as mounted:
        yield mounted


@pytest.fixture(scope="session")
def served(build: Builder, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A container with the image's own command, which serves on a port of the environment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {"LEXIMIND_PORT": str(port), "LEXIMIND_DEVICE": "cpu", "http_proxy": NO_PROXY_HERE}
    spec = Spec.of(build.config(TAG), root, **environment)
    with running(spec, tmp_path_factory.mktemp("containers") / "served") as container:
        logger.info("run by %s", type(container).__name__)
        server = Server(f"http://127.0.0.1:{port}", port, container.process, container.log)
        yield Served(container, wait_until_ready(server))
