"""One random network for all contenders: in FLAN-T5's published layout, and imported as our own checkpoint.

Written once to a cache folder. The output rows of padding, end, unknown and of the ids past the vocabulary are zero:
among tens of thousands of random logits the best is far above zero, so nobody ends early and nobody emits what
another suppresses. With that, equal arithmetic gives equal ids.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from benchmarks.texts import Language

CACHE = Path(tempfile.gettempdir()) / "leximind-benchmarks"
_SENTINELS = 100


@dataclass(frozen=True)
class Shape:
    """An architecture of FLAN-T5's family. `num_words` are those of the language that its vocabulary is made from."""

    name: str
    d_model: int
    num_heads: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_pieces: int
    vocab_size: int
    num_words: int


BASE = Shape("base", 768, 12, 64, 2048, 12, 32000, 32128, 44000)
SMALL = Shape("small", 512, 6, 64, 1024, 8, 32000, 32128, 44000)
SMOKE = Shape("smoke", 64, 4, 16, 128, 2, 1000, 1128, 1200)
SHAPES = {shape.name: shape for shape in (BASE, SMALL, SMOKE)}


@dataclass(frozen=True)
class Weights:
    """A shape on disk: `published` as the Hugging Face hub has it, `ours` as `leximind import` makes it."""

    shape: Shape
    folder: Path

    @property
    def published(self) -> Path:
        """The folder in the published layout; peers convert it beside, once."""
        return self.folder / "published"

    @property
    def ours(self) -> Path:
        """The checkpoint folder."""
        return self.folder / "ours"

    def language(self) -> Language:
        """The language of the vocabulary."""
        return Language(self.shape.num_words)


def prepare(shape: Shape, cache: Path = CACHE) -> Weights:
    """The weights of `shape` under `cache`, written if they are not there. Needs `transformers` to write them."""
    weights = Weights(shape, cache / shape.name)
    if not weights.ours.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{shape.name}.", dir=cache))
        _write(Weights(shape, partial))
        shutil.rmtree(weights.folder, ignore_errors=True)
        os.replace(partial, weights.folder)
    return weights


def _write(weights: Weights) -> None:
    from model.storage.flan_t5 import import_flan_t5

    weights.published.mkdir(parents=True)
    _write_vocabulary(weights)
    _write_network(weights)
    import_flan_t5(str(weights.published), weights.ours)


def _write_vocabulary(weights: Weights) -> None:
    with (weights.published / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=weights.language().corpus(),
            model_writer=file,
            vocab_size=weights.shape.num_pieces,
            hard_vocab_limit=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    from transformers import T5Tokenizer

    T5Tokenizer.from_pretrained(weights.published, extra_ids=_SENTINELS).save_pretrained(weights.published)


def _write_network(weights: Weights) -> None:
    import torch
    from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

    shape = weights.shape
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=shape.vocab_size,
            d_model=shape.d_model,
            num_heads=shape.num_heads,
            d_kv=shape.d_kv,
            d_ff=shape.d_ff,
            num_layers=shape.num_layers,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
        )
    )
    head = torch.randn(shape.vocab_size, shape.d_model)
    head[:3] = 0
    head[shape.num_pieces + _SENTINELS :] = 0
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(weights.published)
    GenerationConfig(decoder_start_token_id=0, eos_token_id=1, pad_token_id=0).save_pretrained(weights.published)
    _restore_published_flags(weights.published / "config.json")


def _restore_published_flags(path: Path) -> None:
    # As the published files have them; transformers 5 writes tie_word_embeddings true for every T5.
    fields: dict[str, Any] = json.loads(path.read_text())
    fields["tie_word_embeddings"] = False
    fields.pop("scale_decoder_outputs", None)
    path.write_text(json.dumps(fields, indent=2))
