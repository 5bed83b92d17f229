"""Which network a run trains: as `init_from` has it or as the configuration says, with the heads that data are for."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from model.config import ModelConfig
from model.storage.checkpoint import Checkpoint
from model.tasks import BUILT_IN, BUILT_IN_LABELS, SUMMARIZE, Head
from training.data.examples import Example
from training.errors import TrainingError


def architecture_of(settings: Mapping[str, Any], source: Checkpoint | None) -> ModelConfig:
    """All but the heads, which the data decide (`heads_of_run`): `settings`, of which None is left to `source`.

    Raises:
        TrainingError, ConfigError: a setting other than dropout differs from that of `source`, or there is no such
            network.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if source is None:
        return ModelConfig.from_json({**ModelConfig().to_json(), **given})
    there = source.config.to_json()
    different = [
        f"model.{name} is {value!r}, there {there[name]!r}"
        for name, value in given.items()
        if value != there[name] and name != "dropout"
    ]
    if different:
        raise TrainingError(
            f"{source.folder}: another architecture: {'; '.join(different)}. Leave model out: init_from brings its own"
        )
    return ModelConfig.from_json({**there, **given})


def learned_tasks(rows: Iterable[Example]) -> set[str]:
    """The tasks that some of `rows` has an answer for."""
    learned = set[str]()
    for row in rows:
        learned |= row.labels.keys()
        if row.summary is not None:
            learned.add(SUMMARIZE)
    return learned


def heads_of_run(
    learned: Collection[str], own: Sequence[Head], prompt: str, source: Checkpoint | None
) -> tuple[Head, ...]:
    """A head for each task of `learned`, of which `own` are one's own; those that `source` has stay, first.

    All get the run's `prompt`, with which the network is trained on.
    """
    made = {
        name: Head(name, kind, BUILT_IN_LABELS[name], _even_thresholds(name), prompt=prompt)
        for name, kind in BUILT_IN.items()
    }
    made |= {head.name: head for head in own}
    heads = {head.name: head for head in source.tasks.heads} if source else {}
    heads |= {name: head for name, head in made.items() if name in learned and name not in heads}
    return tuple(replace(head, prompt=prompt) for head in heads.values())


def _even_thresholds(name: str) -> tuple[float, ...]:
    return (0.5,) * len(BUILT_IN_LABELS[name]) if BUILT_IN[name] == "multi_label" else ()
