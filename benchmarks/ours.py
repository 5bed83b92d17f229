"""LexiMind as an offline decoder: what every benchmark that drives the model directly does with it.

Needs torch, safetensors and sentencepiece only, so that it also runs on a bare GPU machine.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from model.choices import Precision
from model.inference.backend import Backend
from model.inference.decoding.batch import DecodingBatch, decode
from model.inference.decoding.options import DecodingOptions
from model.kernels.builds import AUTO
from model.kernels.library import choose
from model.storage.checkpoint import load_served


def load(folder: Path, device: torch.device, dtype: Precision) -> Backend:
    """The network of a checkpoint, ready to decode, by the build of the kernels that LEXIMIND_KERNELS names.

    `dtype` is one of `model.precision.PRECISIONS`.
    """
    choose(os.environ.get("LEXIMIND_KERNELS", AUTO))
    return load_served(folder, device, dtype).backend


def pad(backend: Backend, sources: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids (B, S) and mask (B, S) of `sources` on the backend's device."""
    longest = max(map(len, sources))
    ids = torch.tensor([[*source, *[backend.config.pad_id] * (longest - len(source))] for source in sources])
    mask = torch.arange(longest) < torch.tensor([len(source) for source in sources])[:, None]
    return ids.to(backend.device), mask.to(backend.device)


@torch.inference_mode()
def encode(backend: Backend, sources: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """States (B, S, D) and mask (B, S); the work is done when it returns."""
    ids, mask = pad(backend, sources)
    encoder_states = backend.encode(ids, mask)
    if encoder_states.is_cuda:
        torch.cuda.synchronize(encoder_states.device)
    return encoder_states, mask


@torch.inference_mode()
def generate(
    backend: Backend,
    sources: Sequence[Sequence[int]],
    num_new_tokens: int,
    num_beams: int,
    batch: DecodingBatch | None = None,
) -> list[list[int]]:
    """Exactly `num_new_tokens` ids for each source, encoding included; in `batch` if one is kept from call to call."""
    options = fixed_length(num_new_tokens, num_beams)
    encoder_states, mask = encode(backend, sources)
    results = decode(backend, encoder_states, mask, [options] * len(sources), batch, sources)
    return [list(result.token_ids) for result in results]


def fixed_length(num_new_tokens: int, num_beams: int = 1) -> DecodingOptions:
    """Decoding that neither ends early nor has rules that the peers have not."""
    return DecodingOptions(
        max_new_tokens=num_new_tokens, min_new_tokens=num_new_tokens, num_beams=num_beams, no_repeat_ngram_size=0
    )
