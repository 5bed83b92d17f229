"""The loop: batches to losses to steps, with progress, saving and resumption. Knows no Hydra and no file format."""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.leximind import LexiMind
from training.config import LoopConfig
from training.data.batches import Batch, Stream
from training.errors import ResumeError, TrainingError
from training.losses import LossWeights, task_losses, total_loss
from training.optim import Optimizers, ScheduleConfig, learning_rate_scale
from training.progress import Progress
from training.state import load_state, save_state
from training.validation import Validation, figures


@dataclass
class Trainer:
    """One run, validated every `loop.evaluate_every` steps and at the end."""

    model: LexiMind
    streams: dict[str, tuple[Stream, int]]  # with the number of batches a step
    optimizers: Optimizers
    schedule: ScheduleConfig
    weights: LossWeights
    loop: LoopConfig
    folder: Path
    validate: Validation
    step: int = 0
    _meter: "_Meter" = field(default_factory=lambda: _Meter())

    def run(self) -> None:
        """Train up to `loop.steps`, saving every `loop.save_every`; Ctrl-C saves and ends the run.

        Raises:
            TrainingError: a loss that is not finite; the step and its batches are named, nothing is saved over.
        """
        if self.loop.compile:
            self._compile_layers()
        self.model.train()
        with Progress(self.loop.steps, self.step) as progress:
            try:
                while self.step < self.loop.steps:
                    self._one_step()
                    self._after_step(progress)
            except KeyboardInterrupt:
                self.save()
                progress.say(f"interrupted; saved at step {self.step} in {self.folder}")
                raise

    def save(self) -> None:
        """Write the state of the run."""
        save_state(
            self.folder,
            {
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizers": self.optimizers.state_dict(),
                "streams": {name: [stream.epoch, stream.position] for name, (stream, _) in self.streams.items()},
                "rng": torch.get_rng_state(),
            },
        )

    def resume(self, folder: Path) -> None:
        """Go on where `save` left off.

        Raises:
            ResumeError: no state, or the state of another model or data mixture.
        """
        state: dict[str, Any] = load_state(folder)
        if state["streams"].keys() != self.streams.keys():
            raise ResumeError(
                f"{folder}: saved with data groups {sorted(state['streams'])}, not {sorted(self.streams)}"
            )
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ResumeError(f"{folder}: saved from another architecture ({error})") from error
        self.optimizers.load_state_dict(state["optimizers"])
        for name, (epoch, position) in state["streams"].items():
            self.streams[name][0].epoch, self.streams[name][0].position = epoch, position
        torch.set_rng_state(state["rng"])
        self.step = state["step"]

    def _one_step(self) -> None:
        for name, (stream, count) in self.streams.items():
            for _ in range(count):
                position = stream.epoch, stream.position
                self._accumulate(stream.next(), count, f"group {name}, epoch {position[0]}, batch {position[1]}")
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.loop.clip_norm)
        self._meter.gradient_norm = float(norm)
        self.optimizers.step(learning_rate_scale(self.schedule, self.step, self.loop.steps))
        self.step += 1

    def _accumulate(self, batch: Batch, count: int, identity: str) -> None:
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.loop.bf16):
            losses = task_losses(self.model, batch, self.weights.label_smoothing)
        loss = total_loss(losses, self.weights) / count
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"step {self.step}: the loss is {loss.item()} on {identity}; lower the learning rate or "
                f"look at that batch; the last saved state in {self.folder} is untouched"
            )
        loss.backward()
        self._meter.add(losses, batch)

    def _after_step(self, progress: Progress) -> None:
        loop = self.loop
        if self.step % loop.log_every == 0:
            progress.update(self.step, self._meter.summary())
            self._meter = _Meter()
        last = self.step == loop.steps
        if self.step % loop.save_every == 0 or last:
            self.save()
        if self.step % loop.evaluate_every == 0 or last:
            self.model.eval()
            progress.say(json.dumps({"step": self.step, **figures(self.validate(self.model, self.step))}))
            self.validate.keep()
            self.model.train()
            self._meter = _Meter()

    def _compile_layers(self) -> None:
        # Layer by layer: equal layers share one compilation, which takes a third of the time of the whole graph.
        torch._dynamo.config.cache_size_limit = 64
        for stack in (self.model.encoder.layers, self.model.decoder.layers):
            for layer in stack:
                layer.compile(dynamic=False)


class _Meter:
    def __init__(self) -> None:
        self.gradient_norm = 0.0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._tokens = 0
        self._start = time.perf_counter()

    def add(self, losses: dict[str, Tensor], batch: Batch) -> None:
        for task, loss in losses.items():
            self._sums[task] = self._sums.get(task, 0.0) + loss.item()
            self._counts[task] = self._counts.get(task, 0) + 1
        self._tokens += batch.input_ids.numel() + batch.labels.numel()

    def summary(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._start
        means = {task: total / self._counts[task] for task, total in self._sums.items()}
        return {**means, "grad_norm": self.gradient_norm, "tokens_per_s": self._tokens / seconds}
