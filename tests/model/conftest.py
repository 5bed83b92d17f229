"""Published-layout T5 folders with random weights and their imports; checkpoint folders to damage."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from model.config import ModelConfig
from model.errors import CheckpointError
from model.inference.graphs import Work
from model.network.leximind import LexiMind
from model.storage.checkpoint import load_checkpoint
from model.storage.flan_t5 import read_flan_t5

FILES = ["config.json", "model.safetensors", "spiece.model", "tasks.json", "MODEL_CARD.md"]
VOCAB_SIZE = 96
NUM_TOKENS = 90  # ids 90 to 95 only pad the matrix

# What breaks assumptions: K ≠ D/H, odd head counts, unequal depths, one layer, few buckets, short distances.
SHAPES = {
    "narrow_heads": {"d_model": 48, "num_heads": 3, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3},
    "wide_heads": {"d_model": 32, "num_heads": 5, "d_kv": 16, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 1},
    "flan_small_like": {"d_model": 64, "num_heads": 6, "d_kv": 8, "d_ff": 96, "num_layers": 4, "num_decoder_layers": 4},
    "near_distances": {
        "d_model": 40,
        "num_heads": 1,
        "d_kv": 24,
        "d_ff": 56,
        "num_layers": 1,
        "num_decoder_layers": 2,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 12,
    },
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # Matrices this small only wait for each other: the parity tests take 60 s on one thread, 170 s on two busy ones.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# A LexiMind whose position tables end early and whose weights are no one's import.
CONFIG = ModelConfig(
    vocab_size=96,
    num_tokens=90,
    d_model=48,
    num_heads=3,
    d_kv=8,
    d_ff=40,
    num_encoder_layers=2,
    num_decoder_layers=3,
    num_positions=16,
    dropout=0.0,
)


@dataclass(frozen=True)
class Pair:
    """The reference and the import of one folder."""

    folder: Path
    reference: T5ForConditionalGeneration
    model: LexiMind


def write_reference(folder: Path, shape: dict[str, int], *, seed: int = 0, shard_size: str = "5GB") -> None:
    """Save a random T5 v1.1 whose `lm_head` differs from its embedding, in FLAN-T5's layout and flags."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCAB_SIZE,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        dropout_rate=0.0,
        **shape,
    )
    model = T5ForConditionalGeneration(config)
    for parameter in model.parameters():  # norms too: weights of exactly one would hide a norm that is not applied
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB_SIZE, config.d_model) * 0.4)
    model.save_pretrained(folder, max_shard_size=shard_size)
    fields = json.loads((folder / "config.json").read_text())
    fields["tie_word_embeddings"] = False
    fields.pop("scale_decoder_outputs", None)  # the published files predate it
    (folder / "config.json").write_text(json.dumps(fields))


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


def sign(folder: Path) -> None:
    """Make the manifest agree with the files, as a foreign writer might."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, torch.device("cpu"))


def random_model(config: ModelConfig) -> LexiMind:
    """Random weights, norms and positions included."""
    torch.manual_seed(3)
    model = LexiMind(config).eval().requires_grad_(False)
    for parameter in model.parameters():  # positions too, which start at zero
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    return model


def replayed(work: Work, rehearse: Work) -> Work:
    """What a graph does, without a GPU: the same work on the same tensors, whose shapes were fixed when it was made."""
    rehearse()
    return work
