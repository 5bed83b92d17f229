"""The three tasks as data: prompts, label sets, thresholds, lengths. One source for training and serving."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from model.errors import CheckpointError

Task = Literal["summarize", "emotions", "topic"]
TASKS: tuple[Task, ...] = get_args(Task)

# GoEmotions (Demszky et al. 2020), official order.
EMOTIONS = tuple(
    "admiration amusement anger annoyance approval caring confusion curiosity desire disappointment disapproval "
    "disgust embarrassment excitement fear gratitude grief joy love nervousness optimism pride realization relief "
    "remorse sadness surprise neutral".split()
)
# AG News (Zhang et al. 2015), official order.
TOPICS = ("World", "Sports", "Business", "Sci/Tech")

_MAX_SOURCE_TOKENS = 32_768  # attention's memory grows with the square
FLAN_PROMPT = "summarize: "


@dataclass(frozen=True)
class Tasks:
    """What a checkpoint can do and how its inputs are written.

    `prompts` maps each task to the text put before its input; equal prompts share one encoding.
    `emotion_labels` and `topic_labels` are empty when the checkpoint has no such head.
    `emotion_thresholds` holds one probability a label. `max_source_tokens` is the longest input that the
    checkpoint was made for, prompt and end token included.
    """

    prompts: dict[Task, str] = field(default_factory=lambda: dict.fromkeys(TASKS, FLAN_PROMPT))
    emotion_labels: tuple[str, ...] = ()
    emotion_thresholds: tuple[float, ...] = ()
    topic_labels: tuple[str, ...] = ()
    max_source_tokens: int = 512

    def __post_init__(self) -> None:
        if set(self.prompts) != set(TASKS):
            raise CheckpointError(
                f"tasks.json: prompts are given for {sorted(self.prompts)}; it must be {sorted(TASKS)}"
            )
        if not all(isinstance(prompt, str) for prompt in self.prompts.values()):
            raise CheckpointError(f"tasks.json: prompts are {self.prompts}; each must be a text")
        for labels in (self.emotion_labels, self.topic_labels):
            if not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels):
                raise CheckpointError(f"tasks.json: labels are {list(labels)}; they must be texts, each once")
        if not all(0.0 <= threshold <= 1.0 for threshold in self.emotion_thresholds):
            raise CheckpointError(f"tasks.json: emotion_thresholds are {self.emotion_thresholds}; each lies in [0, 1]")
        if len(self.emotion_thresholds) != len(self.emotion_labels):
            raise CheckpointError(
                f"tasks.json: {len(self.emotion_thresholds)} emotion thresholds for {len(self.emotion_labels)} labels"
            )
        if not 8 <= self.max_source_tokens <= _MAX_SOURCE_TOKENS:
            raise CheckpointError(
                f"tasks.json: max_source_tokens is {self.max_source_tokens}; it must lie in [8, {_MAX_SOURCE_TOKENS}]"
            )

    def has(self, task: Task) -> bool:
        """Whether the checkpoint can answer `task`."""
        return {"summarize": True, "emotions": bool(self.emotion_labels), "topic": bool(self.topic_labels)}[task]

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Tasks":
        """The inverse of `to_json`.

        Raises:
            CheckpointError: a missing, unknown or impossible field.
        """
        types: dict[str, type] = {
            "prompts": dict,
            "emotion_labels": list,
            "emotion_thresholds": list,
            "topic_labels": list,
            "max_source_tokens": int,
        }
        if fields.keys() != types.keys():
            raise CheckpointError(f"tasks.json: has the fields {sorted(fields)}; it must have {sorted(types)}")
        for name, value in fields.items():
            if type(value) is not types[name]:
                raise CheckpointError(f"tasks.json: {name} is {value!r}; it must be of type {types[name].__name__}")
        try:
            thresholds = tuple(float(threshold) for threshold in fields["emotion_thresholds"])
            return cls(
                prompts=fields["prompts"],
                emotion_labels=tuple(fields["emotion_labels"]),
                emotion_thresholds=thresholds,
                topic_labels=tuple(fields["topic_labels"]),
                max_source_tokens=fields["max_source_tokens"],
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"tasks.json: cannot be read: {error!r}") from error
