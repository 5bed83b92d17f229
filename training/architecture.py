"""Which network a run trains: as `init_from` has it or as the configuration tells, with the heads that data are for."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from model.checkpoint import Checkpoint
from model.config import ModelConfig
from model.tasks import EMOTIONS, TOPICS, Task
from training.config import TrainConfig
from training.data.examples import Example
from training.errors import TrainingError

_HEADS: dict[str, tuple[Task, tuple[str, ...]]] = {  # by the field of the architecture that counts their outputs
    "num_emotions": ("emotions", EMOTIONS),
    "num_topics": ("topic", TOPICS),
}


def architecture_of(config: TrainConfig, source: Checkpoint | None) -> ModelConfig:
    """All but the heads, which the data decide (`with_heads`). Of what `source` has, only dropout may differ.

    Raises:
        TrainingError, ConfigError: what was told contradicts `source`, or is no network.
    """
    told = {name: value for name, value in config.model.items() if value is not None}
    if source is None:
        return ModelConfig.from_json({**ModelConfig().to_json(), **told})
    there = source.model.config.to_json()
    different = [
        f"model.{name} is {value!r}, there {there[name]!r}"
        for name, value in told.items()
        if value != there[name] and name not in ("dropout", *_HEADS)
    ]
    if different:
        raise TrainingError(
            f"{config.init_from}: another architecture: {'; '.join(different)}. "
            "Leave model out: init_from brings its own"
        )
    return ModelConfig.from_json({**there, **told})


def learned_tasks(rows: Iterable[Example]) -> set[Task]:
    """The tasks that some of `rows` has an answer for."""
    rows = list(rows)
    known: dict[Task, bool] = {
        "summarize": any(row.summary is not None for row in rows),
        "emotions": any(row.emotions is not None for row in rows),
        "topic": any(row.topic is not None for row in rows),
    }
    return {task for task, there in known.items() if there}


def with_heads(
    architecture: ModelConfig, config: TrainConfig, learned: Collection[Task], source: Checkpoint | None
) -> ModelConfig:
    """A head for each task of `learned`. One that nothing is learned for stays as `source` has it, or is not made.

    Raises:
        TrainingError: a number of outputs was told that does not fit the labels.
    """
    outputs: dict[str, Any] = {}
    for name, (task, labels) in _HEADS.items():
        told = config.model.get(name)
        if told not in (None, 0, len(labels)):
            raise TrainingError(f"model.{name} is {told}; it must be {len(labels)}, or 0 for no such head")
        if told == 0 and task in learned:
            raise TrainingError(
                f"model.{name} is 0, but there is data to learn {task} from: name the other groups in data.only, or "
                f"set it to {len(labels)}"
            )
        kept = source is not None and source.tasks.has(task) and told != 0
        outputs[name] = len(labels) if task in learned or kept else 0
    return replace(architecture, **outputs)
