"""How a run computes: which types autocast gives, what is scaled and clipped, what recomputed layers keep."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model.network.leximind import LexiMind
from support.models import CONFIG
from support.training_runs import composed
from training.config import LoopConfig, parse_config
from training.loop.mixed_precision import MixedPrecision, checkpoint_layers
from training.optimization.optimizers import OptimizerConfig, Optimizers

CPU = torch.device("cpu")
PLAIN = OptimizerConfig("adamw", 0.1, None, None, 0.0, (0.9, 0.99), 1e-8)


def loop(tmp_path: Path, *overrides: str) -> LoopConfig:
    return parse_config(composed(tmp_path, tmp_path / "run", *overrides)).loop


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_are_of_the_precision(precision: str, dtype: torch.dtype, tmp_path: Path) -> None:
    chosen = MixedPrecision(loop(tmp_path, f"loop.precision={precision}"), CPU)
    with chosen.autocast():
        assert nn.Linear(3, 2)(torch.ones(1, 3)).dtype == dtype
    assert chosen.scaler.is_enabled() == (precision == "fp16")


def test_clipping_gives_the_norm_of_before(tmp_path: Path) -> None:
    chosen = MixedPrecision(loop(tmp_path, "loop.precision=fp32"), CPU)
    model = LexiMind(CONFIG)
    optimizers, parameters = Optimizers(model, PLAIN), list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.5)
    count = sum(map(torch.numel, parameters))
    assert chosen.clip(optimizers, parameters, 1.0) == pytest.approx(0.5 * count**0.5, rel=1e-5)
    norm = torch.stack([parameter.grad.norm() for parameter in parameters if parameter.grad is not None]).norm()
    assert float(norm) == pytest.approx(1.0, rel=1e-4)


def test_a_step_whose_scaled_gradients_overflow_is_left_out(tmp_path: Path) -> None:
    chosen = MixedPrecision(loop(tmp_path, "loop.precision=fp16"), CPU)
    model = LexiMind(CONFIG)
    optimizers, parameters = Optimizers(model, PLAIN), list(model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    chosen.backward(sum((p.sum() for p in parameters), torch.zeros(())) * float("inf"))
    scale = chosen.scaler.get_scale()
    chosen.clip(optimizers, parameters, 1.0)
    chosen.step(optimizers)
    assert all(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))
    assert chosen.scaler.get_scale() < scale


def test_recomputed_layers_keep_no_activations_within_a_layer() -> None:
    def kept(model: LexiMind) -> int:
        sizes: list[int] = []

        def count(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        def same(tensor: Any) -> Any:
            return tensor

        ids, mask = torch.full((4, 16), 5), torch.ones(4, 16, dtype=torch.bool)
        with torch.autograd.graph.saved_tensors_hooks(count, same):
            model.encode(ids, mask)
        return sum(sizes)

    torch.manual_seed(0)
    plain, again = LexiMind(CONFIG).train(), LexiMind(CONFIG).train()
    checkpoint_layers(again)
    assert kept(again) < kept(plain) / 3
