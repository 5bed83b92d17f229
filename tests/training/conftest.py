"""A small data folder in the documented layout, so that training and evaluation run in a second or two."""

from pathlib import Path

import pytest
import torch

from support.training_runs import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder; not to be written to."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Matrices this small cost more to share out than to multiply."""
    torch.set_num_threads(1)
