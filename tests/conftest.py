"""A real checkpoint, small and random, for every test that needs one."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from model.config import ModelConfig
from model.kernels import library
from model.network.leximind import LexiMind
from model.storage.checkpoint import Checkpoint, load_checkpoint
from model.storage.saving import save_checkpoint
from model.tasks import EMOTIONS, TOPICS, Head, Tasks

pytest.register_assert_rewrite("support")  # its assertions are to say as much as those of a test
library.choose(os.environ.get("LEXIMIND_KERNELS", library.AUTO))  # as the service does: all tests on one build

MAX_SOURCE_TOKENS = 64
_PARAGRAPHS = (
    "The city council voted on Tuesday to build a new bridge over the river. Engineers said the old one could not "
    "carry the traffic of another winter, and that repairs would cost as much as a new bridge.",
    "Shares of the chip maker rose twelve percent after it reported record profits. Analysts had expected less, and "
    "several of them raised their targets before the market closed.",
    "The home side won the final by two goals to one, with both goals late in the second half. Their captain, who "
    "had been injured for most of the season, scored the last of them.",
    "Astronomers have found water vapour in the air of a planet far beyond our own system. The planet is larger "
    "than ours and circles its star in ten days, so nobody expects to find life there.",
    "#Person1#: I'm so sorry that I forgot your birthday! #Person2#: That's fine, really. Thank you for the flowers.",
    "We propose a simple method for summarizing long documents with a small model. On three data sets it is better "
    "than larger ones, and it needs one tenth of the time.",
)


@pytest.fixture(scope="session")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model with T5's conventions, trained on a few paragraphs."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_PARAGRAPHS),
        model_writer=model,
        vocab_size=400,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("tokenizer") / "spiece.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory, spiece: Path) -> Path:
    """A two-layer LexiMind with both heads and random weights, saved."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=448,
        num_tokens=400,
        d_model=32,
        num_heads=2,
        d_kv=16,
        d_ff=48,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_positions=MAX_SOURCE_TOKENS,
        heads={"emotions": len(EMOTIONS), "topic": len(TOPICS)},
    )
    tasks = Tasks(
        heads=(
            Head("emotions", "multi_label", EMOTIONS, tuple(0.3 + 0.01 * index for index in range(len(EMOTIONS)))),
            Head("topic", "single_label", TOPICS),
        ),
        max_source_tokens=MAX_SOURCE_TOKENS,
    )
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    save_checkpoint(folder, LexiMind(config), spiece, tasks, card="# Random weights, for tests\n")
    return folder


@pytest.fixture(scope="session")
def checkpoint(checkpoint_folder: Path) -> Checkpoint:
    """The checkpoint, loaded in float32 on the CPU."""
    return load_checkpoint(checkpoint_folder, torch.device("cpu"))


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value.keys() == {"label", "score"}:
        return {place.rpartition("/")[0] + "/" + value["label"]: value["score"]}
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: one for name, part in items for key, one in _flat(part, f"{place}/{name}").items()}
    return {place: value}


@pytest.fixture
def same() -> Callable[[Any, Any], bool]:
    """Whether two answers are equal but for the last digits of scores, which batching may change in float32."""
    return lambda one, other: _flat(one) == pytest.approx(_flat(other), abs=2e-6)
