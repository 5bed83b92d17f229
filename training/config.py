"""Every setting of a training run, typed; Hydra composes it, pydantic checks it, the run reads all of it.

`training/configs/train.yaml` says what each key means and holds its default.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from model.config import ModelConfig
from training.data.mixture import MixtureConfig
from training.errors import TrainingError
from training.network.lora import LoraConfig
from training.optimization.losses import LossConfig
from training.optimization.optimizers import OptimizerConfig, ScheduleConfig

_STRICT = ConfigDict(extra="forbid")
_FEW = 30

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class GroupConfig:
    """One stream of batches: which readers feed it and how its batches are shaped (see `training.data.batches`)."""

    __pydantic_config__ = _STRICT
    readers: list[str]
    buckets: list[tuple[int, int]]
    tokens: Positive
    batches_per_step: Positive


@dataclass(frozen=True)
class HeadGroupConfig:
    """The group of a head of one's own, where no group reads it: as `GroupConfig`, but for its reader."""

    __pydantic_config__ = _STRICT
    buckets: list[tuple[int, int]]
    tokens: Positive
    batches_per_step: Positive


@dataclass(frozen=True)
class DataConfig:
    """`root` is the data folder, `tokenizer` a `spiece.model` or None: train one of `vocabulary_size` pieces
    (None: as many as the network has). Beside the words of its text a summary has those that at least `words` train
    texts have in lower case, and those of `init_from`; None, and none there: any.

    `heads` names heads of one's own, each a reader too and a group where no other reads it. `only` names the groups to
    train on, None all of them.

    Raises:
        TrainingError: a name in `only` that is none of the groups.
    """

    __pydantic_config__ = _STRICT
    root: str
    tokenizer: str | None
    vocabulary_size: Positive | None
    prompt: str
    max_source_tokens: Positive
    max_target_tokens: Positive
    pool: Positive
    groups: dict[str, GroupConfig]
    head_group: HeadGroupConfig
    heads: list[str] = field(default_factory=list)
    max_rows: Positive | None = None  # of each reader
    only: Annotated[list[str], Field(min_length=1)] | None = None
    words: Positive | None = None

    def __post_init__(self) -> None:
        for name in self.only or ():
            if name not in self._all_groups:
                raise TrainingError(f"data.only: no group {name}{suggestion(name, list(self._all_groups))}")

    @property
    def _all_groups(self) -> dict[str, GroupConfig]:
        read = {reader for group in self.groups.values() for reader in group.readers}
        own = self.head_group
        return self.groups | {
            name: GroupConfig([name], own.buckets, own.tokens, own.batches_per_step)
            for name in self.heads
            if name not in read
        }

    @property
    def chosen_groups(self) -> dict[str, GroupConfig]:
        """The groups that are trained on, in the order of the configuration."""
        return {name: group for name, group in self._all_groups.items() if self.only is None or name in self.only}


@dataclass(frozen=True)
class LoopConfig:
    """Length and habits of the run; every `*_every` counts optimizer steps."""

    __pydantic_config__ = _STRICT
    steps: Positive
    accumulate: Positive
    clip_norm: Annotated[float, Field(gt=0)]
    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    tf32: bool
    parallel: Literal["ddp", "fsdp"]
    compile: bool
    checkpoint_layers: bool
    scale_queries: bool
    freeze: list[str]
    ema: Annotated[float, Field(ge=0, lt=1)]
    seed: int
    log_every: Positive
    save_every: Positive
    evaluate_every: Positive
    evaluate_rows: Positive
    metric: str
    patience: Positive | None


@dataclass(frozen=True)
class TrackingConfig:
    """Whether and where MLflow keeps the run."""

    __pydantic_config__ = _STRICT
    enabled: bool
    uri: str
    experiment: str


@dataclass(frozen=True)
class TrainConfig:
    """One run. `init_from` is a checkpoint folder to start from, `resume_from` a run folder to go on with.

    What is None in `model` is as `init_from` has it, without one as FLAN-T5-base.
    """

    __pydantic_config__ = _STRICT
    output: str
    init_from: str | None
    resume_from: str | None
    model: dict[str, Any]
    data: DataConfig
    mixture: MixtureConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    lora: LoraConfig
    loop: LoopConfig
    tracking: TrackingConfig

    def must_match(self) -> dict[str, Any]:
        """What a resumed run may not change, flat: all but places, lengths, the schedule and what costs no bit."""
        free = {"output", "init_from", "resume_from", "schedule", "tracking", "data.root", "data.tokenizer"}
        free |= {f"loop.{name}" for name in _FREE_IN_LOOP}
        return {
            name: value for name, value in flat(asdict(self)) if name not in free and name.partition(".")[0] not in free
        }


_FREE_IN_LOOP = (
    *("steps", "device", "parallel", "compile", "checkpoint_layers", "patience"),
    *("log_every", "save_every", "evaluate_every", "evaluate_rows", "metric"),
)


def parse_config(config: DictConfig) -> TrainConfig:
    """Check a composed configuration.

    Raises:
        TrainingError: names every key that is unknown, missing or of the wrong type.
    """
    try:
        parsed = TypeAdapter(TrainConfig).validate_python(OmegaConf.to_container(config, resolve=True))
    except ValidationError as error:
        raise TrainingError("the configuration does not fit:\n" + "\n".join(map(_line, error.errors()))) from error
    architecture = [one.name for one in fields(ModelConfig) if one.name != "heads"]  # those follow from the data
    for name in parsed.model:
        if name not in architecture:
            raise TrainingError(f"model.{name}: no such key{suggestion(name, architecture)}")
    return parsed


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested mappings."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def suggestion(name: str, known: list[str]) -> str:
    """`; did you mean …?`, or nothing when nothing is near."""
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(sorted(known))}" if len(known) <= _FEW else "; --help shows those that there are"


def _line(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"  {place}: no such key{suggestion(str(error['loc'][-1]), list(_names(TrainConfig)))}"
    if error["type"] in ("missing_argument", "missing"):
        return f"  {place}: missing"
    return f"  {place}: {error['msg']} (got {error['input']!r})"


def _names(kind: Any) -> Iterator[str]:
    for one in fields(kind):
        yield one.name
        for inner in (one.type, *get_args(one.type)):
            if is_dataclass(inner):
                yield from _names(inner)
