"""Who is measured at training: our `Trainer` and that of `transformers`. Imports are lazy: a worker loads one.

Every contender starts from the same weights and sees the same batches with the same AdamW (no decay, constant rate,
clipped at 1), in an order of its own, without dropout: `transformers`' T5 drops attention weights as well, ours not.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.weights import Weights

LR = 1e-4

Row = tuple[Sequence[int], Sequence[int]]  # ids of source and target


class TrainingContender(ABC):
    """One trainer in one precision, eager or with compiled layers."""

    requires: tuple[str, ...]

    def __init__(self, precision: str, *, compiled: bool = False) -> None:
        self.precision, self.compiled = precision, compiled

    @abstractmethod
    def load(self, weights: Weights, threads: int) -> None:
        """Be ready to train."""

    @abstractmethod
    def train(self, rows: Sequence[Row], batch: int, device: str) -> dict[str, Any]:
        """One epoch of `rows`, which come in order of length: `seconds`, `steps`, and the mean `loss`."""

    def carry_out(self, do: str, **order: Any) -> dict[str, Any]:
        """What the worker passes on."""
        import torch

        assert do == "train"
        done = self.train(**order)
        if order["device"] == "cuda":  # the contenders take turns on one device
            torch.cuda.empty_cache()
        return done


class OurTrainer(TrainingContender):
    """LexiMind's trainer: rows in one bucket, sorted by length, each batch cut to its longest row."""

    requires = ("torch", "safetensors", "sentencepiece", "hydra-core")

    def load(self, weights: Weights, threads: int) -> None:
        import torch

        from model.network.leximind import LexiMind
        from model.storage.checkpoint import load_checkpoint
        from training.loop.allocator import keep_freed_memory

        keep_freed_memory()  # as `training.train` does
        torch.set_num_threads(threads)
        published = load_checkpoint(weights.ours, torch.device("cpu")).model
        # Without learned positions, which T5 has not.
        self._model = LexiMind(replace(published.config, num_positions=0, dropout=0.0))
        self._model.load_state_dict(
            {name: one for name, one in published.state_dict().items() if not name.endswith("_positions")}
        )
        with torch.no_grad():
            self._model.lm_head.weight.mul_(weights.shape.d_model**-0.5)
        self._optimizers: Any = None

    def train(self, rows: Sequence[Row], batch: int, device: str) -> dict[str, Any]:
        import torch

        from training.data.mixture import Mixture
        from training.loop.trainer import Trainer

        config, place = self._config(), torch.device(device)
        if self._optimizers is None:
            self._begin(config, place)
        stream = stream_of(rows, batch, None if self.compiled else 8 if device == "cuda" else 1)
        trainer = Trainer(
            objective=self._objective,
            mixture=Mixture({"summaries": (stream, 1)}, config.mixture, 1, 0),
            optimizers=self._optimizers,
            config=config,
            device=place,
            **_unused(),
        )
        steps = stream.batches_per_epoch()
        started_at = time.perf_counter()
        losses = []
        for _ in range(steps):
            trainer.one_step()
            losses.append(trainer.last_loss)
        if place.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started_at
        trainer.close()
        return {"seconds": seconds, "steps": steps, "loss": sum(losses) / steps}

    def _config(self) -> Any:
        from hydra import compose, initialize_config_module

        from training.config import parse_config

        with initialize_config_module("training.configs", version_base=None):
            overrides = [f"loop.precision={self.precision}", f"optimizer.lr={LR}", "optimizer.weight_decay=0"]
            overrides += [
                "schedule={name: constant, warmup_steps: 0}",
                "loss.label_smoothing=0",
                "output=unused",
                "tracking.enabled=false",
            ]
            return parse_config(compose("train", overrides))

    def _begin(self, config: Any, place: Any) -> None:

        from training.loop.mixed_precision import compile_layers
        from training.optimization.losses import Objective
        from training.optimization.optimizers import Optimizers

        if self.compiled:
            compile_layers(self._model)
        self._model.to(place)
        self._objective = Objective(self._model, (), config.loss, {}).train()
        self._optimizers = Optimizers(self._model, config.optimizer)


class HFTrainer(TrainingContender):
    """`transformers`' T5 under its `Trainer`: rows in the order that is given, each batch padded to its longest row."""

    requires = ("torch", "transformers", "accelerate")

    def load(self, weights: Weights, threads: int) -> None:
        import torch
        from transformers import T5ForConditionalGeneration

        torch.set_num_threads(threads)
        self._folder = weights.folder
        self._model: Any = T5ForConditionalGeneration.from_pretrained(
            weights.published, dtype=torch.float32, dropout_rate=0.0
        )
        with torch.no_grad():
            self._model.lm_head.weight.mul_(weights.shape.d_model**-0.5)
        self._optimizer: Any = None

    def train(self, rows: Sequence[Row], batch: int, device: str) -> dict[str, Any]:
        import torch
        from transformers import Trainer, TrainerCallback, TrainingArguments

        class Clock(TrainerCallback):  # type: ignore[misc]
            # Without what `train` does before its first batch and after its last.
            def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
                self.started_at = time.perf_counter()

            def on_train_end(self, *_args: Any, **_kwargs: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                self.seconds = time.perf_counter() - self.started_at

        if self._optimizer is None:
            self._model.to(device)
            self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        arguments = TrainingArguments(
            output_dir=str(self._folder / "hf-trainer"),
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            train_sampling_strategy="sequential",
            bf16=self.precision == "bf16",
            tf32=True if device == "cuda" and self.precision == "fp32" else None,
            torch_compile=self.compiled,
            learning_rate=LR,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            use_cpu=device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        clock = Clock()
        trainer = Trainer(
            model=self._model,
            args=arguments,
            train_dataset=[{"input_ids": source, "labels": target} for source, target in rows],
            data_collator=pad_to_longest,
            optimizers=(self._optimizer, None),
            callbacks=[clock],
        )
        done = trainer.train()
        return {"seconds": clock.seconds, "steps": done.global_step, "loss": done.training_loss}


def stream_of(rows: Sequence[Row], batch: int, multiple: int | None) -> Any:
    """The peer's batches as ours come: of rows that are in order of length already, sorting makes the same groups."""
    from training.data.batches import EncodedExample, Stream

    encoded = [EncodedExample(tuple(source), tuple(target), {}) for source, target in rows]
    longest = max(len(source) for source, _ in rows), max(len(target) for _, target in rows)
    return Stream(
        rows=encoded,
        buckets=[longest],
        tokens=batch * sum(longest),
        heads=(),
        seed=0,
        pool=len(rows),
        multiple=multiple,
    )


def _unused() -> dict[str, Any]:
    # What `run` needs and single steps do not.
    from pathlib import Path

    from training.distributed.processes import Processes

    return {"folder": Path("unused"), "validation": None, "tracker": None, "processes": Processes()}


def pad_to_longest(rows: Sequence[dict[str, Sequence[int]]]) -> dict[str, Any]:
    """A batch as `transformers`' models take it, of rows of `input_ids` and `labels`."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    labels = pad_sequence([torch.tensor(row["labels"]) for row in rows], batch_first=True, padding_value=-100)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


TRAINERS: dict[str, TrainingContender] = {
    "our trainer fp32": OurTrainer("fp32"),
    "our trainer bf16": OurTrainer("bf16"),
    "our trainer bf16 compiled": OurTrainer("bf16", compiled=True),
    "HF Trainer fp32": HFTrainer("fp32"),
    "HF Trainer bf16": HFTrainer("bf16"),
    "HF Trainer bf16 compiled": HFTrainer("bf16", compiled=True),
}
