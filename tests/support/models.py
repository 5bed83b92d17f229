"""Random networks of ours, and a stand-in for a graph."""

import torch

from model.config import ModelConfig
from model.inference.graphs import Work
from model.network.leximind import LexiMind

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
