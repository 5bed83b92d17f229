"""Everything that a training run can be told, typed; Hydra composes it, pydantic checks it, the run reads all of it."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from training.errors import TrainingError
from training.losses import LossWeights
from training.optim import OptimizerConfig, ScheduleConfig

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class GroupConfig:
    """One stream of batches: which readers feed it and how its batches are shaped (see `training.data.batches`)."""

    __pydantic_config__ = _STRICT
    readers: list[str]
    buckets: list[tuple[int, int]]
    tokens: int
    batches_per_step: int


@dataclass(frozen=True)
class DataConfig:
    """`root` is the data folder, `tokenizer` a `spiece.model` or None: train one of `vocabulary_size` pieces."""

    __pydantic_config__ = _STRICT
    root: str
    tokenizer: str | None
    vocabulary_size: int
    prompt: str
    max_source_tokens: int
    max_target_tokens: int
    groups: dict[str, GroupConfig]


@dataclass(frozen=True)
class LoopConfig:
    """Length and habits of the run; every `*_every` counts optimizer steps."""

    __pydantic_config__ = _STRICT
    steps: int
    clip_norm: float
    bf16: bool
    compile: bool
    scale_queries: bool
    seed: int
    log_every: int
    save_every: int
    evaluate_every: int
    evaluate_rows: int


@dataclass(frozen=True)
class TrainConfig:
    """One run. `init_from` is a checkpoint folder to start from, `resume_from` a run folder to go on with."""

    __pydantic_config__ = _STRICT
    output: str
    init_from: str | None
    resume_from: str | None
    model: dict[str, Any]
    data: DataConfig
    loss: LossWeights
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    loop: LoopConfig


def parse_config(config: DictConfig) -> TrainConfig:
    """Check a composed configuration.

    Raises:
        TrainingError: names every key that is unknown, missing or of the wrong type.
    """
    try:
        return TypeAdapter(TrainConfig).validate_python(OmegaConf.to_container(config, resolve=True))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise TrainingError("the configuration does not fit:\n" + "\n".join(lines)) from error
