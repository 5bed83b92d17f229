"""Checkpoint folders of format 1, read as what they mean in today's: two heads that every part knew by name."""

from collections.abc import Mapping
from typing import Any

from model.errors import CheckpointError, ConfigError

_WEIGHTS = {"emotion_head.": "heads.emotions.", "topic_head.": "heads.topic."}
_OUTPUTS = {"num_emotions": "emotions", "num_topics": "topic"}
_TYPES: Mapping[str, type] = {
    "prompts": dict,
    "emotion_labels": list,
    "emotion_thresholds": list,
    "topic_labels": list,
    "max_source_tokens": int,
}


def upgrade_config(fields: Any) -> Any:
    """The architecture, with the heads by name; a head of 0 labels was none.

    Raises:
        ConfigError: a number of labels is missing or impossible.
    """
    if not isinstance(fields, dict):
        return fields
    rest = {name: value for name, value in fields.items() if name not in _OUTPUTS}
    if missing := sorted(_OUTPUTS.keys() - fields.keys()):
        raise ConfigError(f"missing fields {missing}")
    for name in _OUTPUTS:
        if type(fields[name]) is not int or fields[name] < 0:
            raise ConfigError(f"{name} is {fields[name]!r}; it must be a whole number, 0 for no such head")
    return rest | {"heads": {head: fields[name] for name, head in _OUTPUTS.items() if fields[name]}}


def upgrade_tasks(fields: dict[str, Any]) -> dict[str, Any]:
    """`tasks.json` as it is written today.

    Raises:
        CheckpointError: a field that is missing, unknown or of the wrong type.
    """
    if fields.keys() != _TYPES.keys():
        raise CheckpointError(f"tasks.json: has the fields {sorted(fields)}; it must have {sorted(_TYPES)}")
    for name, value in fields.items():
        if type(value) is not _TYPES[name]:
            raise CheckpointError(f"tasks.json: {name} is {value!r}; it must be of type {_TYPES[name].__name__}")
    prompts = fields["prompts"]
    if prompts.keys() != {"summarize", "emotions", "topic"}:
        raise CheckpointError(
            f"tasks.json: prompts are given for {sorted(prompts)}; it must be ['emotions', 'summarize', 'topic']"
        )
    emotions = {"kind": "multi_label", "labels": fields["emotion_labels"], "thresholds": fields["emotion_thresholds"]}
    topic = {"kind": "single_label", "labels": fields["topic_labels"]}
    return {
        "prompt": prompts["summarize"],
        "heads": [
            {"name": name, "prompt": prompts[name], **head}
            for name, head in (("emotions", emotions), ("topic", topic))
            if head["labels"]
        ],
        "max_source_tokens": fields["max_source_tokens"],
    }


def weight_name(name: str) -> str:
    """What a tensor of format 1 is called today."""
    for before, now in _WEIGHTS.items():
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name
