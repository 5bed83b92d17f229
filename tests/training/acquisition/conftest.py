"""The whole command against a real server on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.hub import SmallHub, places, serving, small_files
from training.download import main


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Every file of every source; not to be written to."""
    return small_files()


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[SmallHub]:
    """A hub that answers; its files are the test's own."""
    with serving(SmallHub(dict(files))) as hub:
        yield hub


@pytest.fixture
def download(hub: SmallHub, tmp_path: Path) -> Callable[..., Path]:
    """The command, in this process; returns the data folder."""

    def run(*arguments: str) -> Path:
        main([*places(tmp_path), "--endpoint", hub.url, *arguments])
        return tmp_path / "data"

    return run


@pytest.fixture(scope="module")
def whole(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every task; not to be written to."""
    place = tmp_path_factory.mktemp("whole")
    with serving(SmallHub(files)) as hub:
        main([*places(place), "--endpoint", hub.url])
    return place / "data"
