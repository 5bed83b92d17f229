"""transformers' T5 with random weights in the published layout, its import, and what they must agree in."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from model.inference.decoding.options import DecodingOptions
from model.network.leximind import LexiMind

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

# float32 in another order of summation (fused projections, another softmax): a few units in the last place of
# numbers around 30, through up to 8 layers of weights that amplify.
TOLERANCE = {"rtol": 1e-4, "atol": 5e-4}

BASE = DecodingOptions(max_new_tokens=24, no_repeat_ngram_size=0)
GREEDY = [
    BASE,
    replace(BASE, no_repeat_ngram_size=3),
    replace(BASE, no_repeat_ngram_size=1),
    replace(BASE, repetition_penalty=1.7, no_repeat_ngram_size=2),
    replace(BASE, min_new_tokens=20),
    replace(BASE, max_new_tokens=1),
    replace(BASE, max_new_tokens=140),
]
BEAM = [
    replace(BASE, num_beams=2),
    replace(BASE, num_beams=4, length_penalty=0.6, no_repeat_ngram_size=3),
    replace(BASE, num_beams=4, length_penalty=2.0, early_stopping=True),
    replace(BASE, num_beams=3, length_penalty=-1.0, early_stopping="never"),
    replace(BASE, num_beams=3, length_penalty=1.5, early_stopping="never", repetition_penalty=1.3),
    replace(BASE, num_beams=5, length_penalty=0.0, early_stopping=True, min_new_tokens=8),
    replace(BASE, num_beams=8, max_new_tokens=5),
]


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


def generate(pair: Pair, sources: tuple[Tensor, Tensor], options: DecodingOptions) -> tuple[list[list[int]], Tensor]:
    """The reference's ids of each source, and the scores of its beams."""
    ids, mask = sources
    beams = {"length_penalty": options.length_penalty, "early_stopping": options.early_stopping}
    out = pair.reference.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        num_beams=options.num_beams,
        max_new_tokens=options.max_new_tokens,
        min_new_tokens=options.min_new_tokens or None,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        repetition_penalty=options.repetition_penalty,
        suppress_tokens=[0, 2, *range(NUM_TOKENS, VOCAB_SIZE)],
        do_sample=False,
        use_cache=False,  # transformers sizes its cache by the encoder's depth and fails on a deeper decoder
        return_dict_in_generate=True,
        output_scores=True,
        **(beams if options.num_beams > 1 else {}),
    )
    # After the start token; the end token and what pads a shorter row are no part of our result.
    rows = [[token for token in row[1:].tolist() if token not in (0, 1)] for row in out.sequences]
    return rows, getattr(out, "sequences_scores", None)
