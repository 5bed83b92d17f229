"""Published-layout T5 folders with random weights and their imports; checkpoint folders to damage."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import T5ForConditionalGeneration

from model.storage.flan_t5 import read_flan_t5
from support.reference import NUM_TOKENS, SHAPES, Pair, write_reference


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # Matrices this small only wait for each other: the parity tests take 60 s on one thread, 170 s on two busy ones.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """The pair of one of `SHAPES`, made once."""
    pairs: dict[str, Pair] = {}

    def make(name: str) -> Pair:
        if name not in pairs:
            folder = tmp_path_factory.mktemp(name)
            write_reference(folder, SHAPES[name])
            reference = T5ForConditionalGeneration.from_pretrained(folder).eval()
            assert not torch.equal(reference.lm_head.weight, reference.shared.weight)
            pairs[name] = Pair(folder, reference, read_flan_t5(folder, NUM_TOKENS))
        return pairs[name]

    return make


@pytest.fixture(params=SHAPES)
def pair(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    """Each of the awkward shapes in turn."""
    return make_pair(request.param)


@pytest.fixture(scope="session")
def sources() -> tuple[torch.Tensor, torch.Tensor]:
    """Five padded sources, (5, 150) ids and mask; the longest passes the bias's farthest distance (128)."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([150, 3, 77, 1, 40])
    ids = torch.randint(3, NUM_TOKENS, (5, 150), generator=generator)
    mask = torch.arange(150) < lengths[:, None]
    return ids * mask, mask


@pytest.fixture
def folder(checkpoint_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(checkpoint_folder, tmp_path / "damaged"))
