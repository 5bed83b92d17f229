"""The part of `benchmarks.gpu` that trains: our losses, optimizer and precision, without Hydra and the run."""

import os
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.gpu_parts import Setting
from benchmarks.trainers import LR, TRAINERS, stream_of
from benchmarks.training import FULL, QUICK, Plan
from benchmarks.weights import Weights
from model.config import ModelConfig
from model.network.leximind import LexiMind
from model.storage.checkpoint import load_checkpoint
from training.loop.meter import forward_operations, peak_operations
from training.loop.mixed_precision import MixedPrecision, compile_layers
from training.optimization.losses import LossConfig, Objective
from training.optimization.optimizers import OptimizerConfig, Optimizers


def training(setting: Setting) -> dict[str, str]:
    """Tokens/s of our training step, by our losses, optimizer and precision, and of the `Trainer` of transformers."""
    weights, device, figures = setting.weights(), setting.torch_device, {}
    plan = Plan(weights.shape, device.type, **(QUICK if setting.quick else FULL["cuda"]))
    rows = plan.rows("equal")
    tokens = sum(len(source) + len(target) for source, target in rows)
    precision = "fp32" if device.type == "cpu" else "bf16"
    for name, compiled in (("ours", False), *((("ours, compiled", True),) if device.type == "cuda" else ())):
        seconds, loss, config = _train(weights, plan, device, precision, compiled=compiled)
        figures[f"{name}, {precision}, tokens/s"] = f"{tokens / seconds:,.0f}"
        figures[f"{name}, {precision}, mean loss"] = f"{loss:.3f}"
        if peak := peak_operations(device):
            operations = 3 * len(rows) * forward_operations(config, plan.source, plan.target)
            figures[f"{name}, {precision}, MFU"] = f"{operations / seconds / peak:.0%}"
    try:
        import accelerate  # noqa: F401 (of the Trainer)
    except ImportError:
        figures["HF Trainer"] = "accelerate is not installed"
        return figures
    peer = TRAINERS[f"HF Trainer {precision}"]
    peer.load(weights, os.cpu_count() or 1)
    peer.train(rows, plan.batch, device.type)
    done = peer.train(rows, plan.batch, device.type)
    figures[f"HF Trainer, {precision}, tokens/s"] = f"{tokens / done['seconds']:,.0f}"
    return figures


def _train(
    weights: Weights, plan: Plan, device: torch.device, precision: str, *, compiled: bool
) -> tuple[float, float, ModelConfig]:
    """Seconds of an epoch after another, its mean loss, and the network's shape."""
    published = load_checkpoint(weights.ours, torch.device("cpu")).model
    model = LexiMind(replace(published.config, num_positions=0, dropout=0.0))
    state = published.state_dict()
    model.load_state_dict({name: one for name, one in state.items() if not name.endswith("_positions")})
    with torch.no_grad():
        model.lm_head.weight.mul_(weights.shape.d_model**-0.5)
    if compiled:
        compile_layers(model)
    model.to(device)
    losses = LossConfig(
        summarize=1.0,
        heads={},
        keep={},
        label_smoothing=0.0,
        positive_power=0.0,
        focus_positive=0.0,
        focus_negative=0.0,
        ignore_below=0.0,
    )
    objective = Objective(model, (), losses, {}).train()
    optimizers = Optimizers(model, OptimizerConfig("adamw", LR, None, None, 0.0, (0.9, 0.999), 1e-8))
    parameters = [one for one in objective.parameters() if one.requires_grad]
    mixed: Any = MixedPrecision(SimpleNamespace(precision=precision, tf32=False), device)  # type: ignore[arg-type]
    stream = stream_of(plan.rows("equal"), plan.batch, None if compiled else 8 if device.type == "cuda" else 1)
    for epoch in range(2):
        started_at = time.perf_counter()
        values: list[torch.Tensor] = []
        for _ in range(stream.batches_per_epoch()):
            batch = stream.next().to(device)
            with mixed.autocast():
                loss, _ = objective(batch)
            mixed.backward(loss)
            mixed.clip(optimizers, parameters, 1.0)
            mixed.step(optimizers)
            optimizers.zero_grad()
            values.append(loss.detach())
        total = float(torch.stack(values).mean())  # waits for the device
        seconds = time.perf_counter() - started_at
        print(f"epoch {epoch}: {seconds:.2f} s, loss {total:.3f}", flush=True)
    return seconds, total, model.config
