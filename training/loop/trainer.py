"""The loop: batches to losses to steps, with validation, saving and resumption. Knows no Hydra and no file format."""

import json
import math
import signal
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from training.config import TrainConfig
from training.data.mixture import Feed, Mixture, Slot
from training.distributed.processes import Processes
from training.distributed.sharding import drop_unused, shared_like, shared_optimizer_state, whole, whole_weights
from training.errors import Interrupted, NotFinite, ResumeError
from training.evaluation.report import table
from training.loop.average import Average
from training.loop.meter import Meter
from training.loop.mixed_precision import MixedPrecision
from training.loop.progress import TrainingProgress
from training.loop.signals import Stop, StopRequest, stop_signals
from training.loop.state import load_state, random_states, save_state, set_random_states
from training.loop.validation import Validation, figures, shown
from training.optimization.losses import Objective
from training.optimization.optimizers import Optimizers, learning_rate_scale
from training.tracking.tracker import Tracker

BAD_BATCH = "bad_batch.json"


@dataclass
class Best:
    """The best validation so far, and how many in a row were no better."""

    value: float = -math.inf
    step: int = 0
    worse: int = 0


@dataclass
class Trainer:
    """One run, validated every `loop.evaluate_every` steps and at the end."""

    objective: Objective
    mixture: Mixture
    optimizers: Optimizers
    config: TrainConfig
    folder: Path
    validation: Validation
    tracker: Tracker
    processes: Processes
    device: torch.device
    step: int = 0
    best: Best = field(default_factory=Best)
    run_id: str | None = None

    def __post_init__(self) -> None:
        loop = self.config.loop
        self._precision = MixedPrecision(loop, self.device)
        self._feed = Feed(self.mixture, self.device)
        self._parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self._meter = Meter(self.objective.model.config, self.device)
        self._average = Average(self.objective.model, loop.ema) if loop.ema else None
        self._norm = 0.0
        self.last_loss = math.nan
        self._stop_request = StopRequest()

    def run(self) -> None:
        """Train up to `loop.steps`, or until the metric has not risen for `loop.patience` validations.

        Raises:
            Interrupted: SIGTERM or Ctrl-C; the state is saved.
            NotFinite: a loss or gradient that is no number; its batches are named in `bad_batch.json`.
            TrainingError: the disk is full; the last state is untouched.
        """
        loop = self.config.loop
        self.objective.train()
        with (
            TrainingProgress(loop.steps, self.step, quiet=not self.processes.is_first) as progress,
            stop_signals() as stop,
        ):
            self._stop_request = stop
            try:
                while self.step < loop.steps and not self._is_over():
                    self.one_step()
                    self._after_step(progress)
                    if self.processes.any(stop.signal is not None):
                        self._stop(progress, stop)
            except Stop:
                self._undo_step()
                self._stop(progress, stop)
            finally:
                self.close()

    def _undo_step(self) -> None:
        # Up to the optimizer's step nothing has changed but gradients, the place in the data and dropout's generator.
        feed, generators = self._before
        self.optimizers.zero_grad()
        self._feed.rewind(feed)
        set_random_states(generators, self.device)

    def _stop(self, progress: TrainingProgress, stop: StopRequest) -> NoReturn:
        self.save()
        progress.say(f"stopped; saved at step {self.step} in {self.folder}")
        raise Interrupted(stop.signal or signal.SIGTERM)

    def close(self) -> None:
        """Let the thread that makes batches end; no further step can be taken."""
        self._feed.close()

    def one_step(self) -> None:
        """One optimizer step and nothing else: neither report nor validation nor state.

        Raises:
            NotFinite: as `run`.
        """
        self._before = self._feed.state(), random_states(self.device)
        slots = self._feed.slots(self.step)
        totals, tasks = [], set[str]()
        # A large model's step takes minutes on a CPU, and so does compiling. Of several processes none can stop alone.
        with self._stop_request.interruptible() if self.processes.world_size == 1 else nullcontext():
            for slot in slots:
                with self._precision.autocast():
                    loss, losses = self.objective(slot.batch)
                self._precision.backward(loss * slot.share)
                self._meter.add(losses, slot.batch)
                totals.append(loss.detach())
                tasks |= losses.keys()
        found = torch.stack(totals).tolist()  # waits for the device once a step
        for slot, total in zip(slots, found, strict=True):
            if not math.isfinite(total):
                raise self._not_finite(f"the loss is {total}", [slot])
        if self.objective.everywhere:
            drop_unused(self.objective.model, set().union(*self.processes.gather(tasks)))
        else:
            self.processes.average_gradients(self._parameters)
        norm = self._precision.clip(self.optimizers, self._parameters, self.config.loop.clip_norm)
        if not math.isfinite(norm) and not self._precision.scaler.is_enabled():
            raise self._not_finite(f"the gradient's norm is {norm}", slots)
        self.optimizers.set_scale(learning_rate_scale(self.config.schedule, self.step, self.config.loop.steps))
        self._precision.step(self.optimizers)
        self.optimizers.zero_grad()
        if self._average:
            self._average.update(self.objective.model)
        self.step += 1
        self._norm = norm
        self.last_loss = sum(slot.share * total for slot, total in zip(slots, found, strict=True))

    def save(self) -> None:
        """Write the state of the run."""
        states = self.processes.gather(random_states(self.device))
        parts = {
            "model": self.objective.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": self._average.state_dict() if self._average else None,
        }
        if self.objective.everywhere:
            parts = whole(parts, keep=self.processes.is_first)
        if self.processes.is_first:
            save_state(
                self.folder,
                {
                    "step": self.step,
                    **parts,
                    "streams": self._feed.state(),
                    "rng": states,
                    "scaler": self._precision.scaler.state_dict(),
                    "best": vars(self.best),
                    "run_id": self.tracker.run_id,
                    "config": self.config.must_match(),
                    "data": self._digests(),
                    "dev": self.validation.split.digest(),
                    "commands": self.validation.commands(),
                },
            )

    def resume(self, folder: Path) -> None:
        """Go on where `save` left off.

        Raises:
            ResumeError: no state, or that of another model, configuration, data set or number of processes.
        """
        state: dict[str, Any] = load_state(folder)
        self._check_match(folder, state)
        if self.objective.everywhere:
            self._share(state)
        self.objective.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        self._feed.load_state(state["streams"])
        self._precision.scaler.load_state_dict(state["scaler"])
        if self._average:
            self._average.load_state_dict(state["average"])
        set_random_states(state["rng"][self.processes.rank], self.device)
        self.step, self.best, self.run_id = state["step"], Best(**state["best"]), state["run_id"]
        if self.step and "commands" in state:  # a state of before these were kept has none
            self.validation.resume_from(state["commands"], self.step)

    def _after_step(self, progress: TrainingProgress) -> None:
        loop = self.config.loop
        if self.step % loop.log_every == 0:
            rate = self.optimizers.parts[0].param_groups[0]["lr"]
            now = {**self._meter.summary(self.processes), "grad_norm": self._norm, "lr": rate}
            if self.processes.is_first:
                self.tracker.log(self.step, {f"train/{name}": value for name, value in now.items()})
            progress.update(self.step, now)
            self._meter = Meter(self.objective.model.config, self.device)
        last = self.step == loop.steps
        validate = self.step % loop.evaluate_every == 0 or last
        if validate:
            self._validate(progress)
            self._meter = Meter(self.objective.model.config, self.device)
        # After the validation: a state that is resumed knows of it, one from before it repeats it.
        if validate or self.step % loop.save_every == 0:
            self.save()

    def _validate(self, progress: TrainingProgress) -> None:
        scores: dict[str, float] = {}
        with ExitStack() as shown_weights:
            if self._average:
                shown_weights.enter_context(self._average.in_place_of(self.objective.model))
            if self.objective.everywhere:
                shown_weights.enter_context(whole_weights(self.objective))
            result = self.validation(self.objective.model, self.step) if self.processes.is_first else None
        if result:
            scores = figures(result)
            self.tracker.log(self.step, {f"dev/{name}": value for name, value in scores.items()})
            main = [
                f"{n} {v:.4f}" for n, v in scores.items() if n.endswith(("overall", "rougeL", "macro_f1", "accuracy"))
            ]
            progress.say(f"dev at step {self.step}: {', '.join(main)}")
            self.tracker.text(f"outputs/step-{self.step}.md", table(("row", "output"), shown(result)))
        scores = self.processes.from_first(scores)
        metric = self.config.loop.metric
        if scores[metric] > self.best.value:
            self.best = Best(scores[metric], self.step)
            if self.processes.is_first:
                self.validation.keep()
        else:
            self.best.worse += 1
            progress.say(f"{metric} {scores[metric]:.4f} is not above {self.best.value:.4f} of step {self.best.step}")

    def _is_over(self) -> bool:
        patience = self.config.loop.patience
        return patience is not None and self.best.worse >= patience

    def _not_finite(self, what: str, slots: list[Slot]) -> NotFinite:
        batches = [{"group": s.group, "epoch": s.place[0], "batch": s.place[1], "rows": s.batch.numbers} for s in slots]
        path = self.folder / BAD_BATCH
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"step": self.step, "what": what, "batches": batches}) + "\n", encoding="utf-8")
        return NotFinite(
            f"step {self.step}: {what} on {', '.join(s.group for s in slots)}; {path} names the rows. Lower the "
            f"learning rate or look at them; the state in {self.folder} is from before"
        )

    def _share(self, state: dict[str, Any]) -> None:
        state["model"] = shared_like(state["model"], self.objective.model.state_dict())
        pairs = zip(state["optimizers"], self.optimizers.parts, strict=True)
        state["optimizers"] = [shared_optimizer_state(saved, part) for saved, part in pairs]
        if self._average:
            state["average"]["weights"] = shared_like(state["average"]["weights"], self._average.weights)

    def _digests(self) -> dict[str, str]:
        return {name: stream.digest() for name, (stream, _) in self.mixture.streams.items()}

    def _check_match(self, folder: Path, state: dict[str, Any]) -> None:
        now, saved = self.config.must_match(), state["config"]
        if saved is None:
            return
        changed = [
            f"{name} was {saved.get(name)!r}, now {now.get(name)!r}"
            for name in sorted(now.keys() | saved.keys())
            if now.get(name) != saved.get(name)
        ]
        if changed:
            raise ResumeError(f"{folder}: saved by another run: {'; '.join(changed)}. Set them back or start afresh")
        other = [name for name, digest in self._digests().items() if state["data"].get(name) != digest]
        if other:
            raise ResumeError(f"{folder}: saved on other rows of {', '.join(other)}; restore the data or start afresh")
        if state.get("dev", dev := self.validation.split.digest()) != dev:
            raise ResumeError(
                f"{folder}: validated on another dev, whose scores cannot be compared with those of this one; restore "
                "the data or start afresh"
            )
        if len(state["rng"]) != self.processes.world_size:
            raise ResumeError(
                f"{folder}: saved by {len(state['rng'])} processes, now {self.processes.world_size}; use as many"
            )
