"""What a checkpoint answers, as data: its prompt, its classification heads, its lengths. One source for all who ask."""

import math
import re
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from model.errors import CheckpointError

SUMMARIZE = "summarize"  # the task that is no head
HeadKind = Literal["multi_label", "single_label"]

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

# The heads that have routes and data sets of their own, hence a kind and labels that are known.
BUILT_IN: Mapping[str, HeadKind] = {"emotions": "multi_label", "topic": "single_label"}
BUILT_IN_LABELS = {"emotions": EMOTIONS, "topic": TOPICS}

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# Keys of the same tables that are no heads: in answers, metrics, losses and scores.
_RESERVED = ("summarize", "summary", "summaries", "several", "overall", "lr", "grad_norm", "tokens_per_s", "mfu")


def check_head_name(name: str) -> None:
    """Refuse a name that no head can have.

    Raises:
        CheckpointError: it says what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise CheckpointError(
            f"the head {name!r}: a name has lower-case letters, digits and underscores, 40 at most, a letter first"
        )
    if name in _RESERVED:
        raise CheckpointError(f"the head {name!r}: the word is taken for something else; name it otherwise")


@dataclass(frozen=True)
class Head:
    """A classification head: `multi_label`, each label for itself, or `single_label`, one of them.

    `thresholds` has for each label of a multi-label head the probability from which on it counts; otherwise it is
    empty. Logits are divided by `temperature` before they become probabilities. A text whose logits have an energy
    (`model.probabilities.energy`) below `min_energy` has none of a single-label head's labels; None: it was not
    measured. `prompt` is put before its input.

    Raises:
        CheckpointError: a value that no head can have.
    """

    name: str
    kind: HeadKind
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    temperature: float = 1.0
    prompt: str = FLAN_PROMPT
    min_energy: float | None = None

    def __post_init__(self) -> None:
        check_head_name(self.name)
        where = f"tasks.json: the head {self.name}"
        if self.kind not in get_args(HeadKind) or BUILT_IN.get(self.name, self.kind) != self.kind:
            known = BUILT_IN.get(self.name) or " or ".join(get_args(HeadKind))
            raise CheckpointError(f"{where} is of kind {self.kind!r}; it must be {known}")
        shown = reprlib.repr(list(self.labels))
        if not all(map(_is_text, self.labels)) or len(set(self.labels)) != len(self.labels):
            raise CheckpointError(f"{where}: labels are {shown}; they must be texts, each once")
        if len(self.labels) < 2:
            raise CheckpointError(f"{where}: labels are {shown}; there must be 2 or more")
        if not all(0.0 <= threshold <= 1.0 for threshold in self.thresholds):
            raise CheckpointError(f"{where}: thresholds are {reprlib.repr(self.thresholds)}; each lies in [0, 1]")
        if not _is_text(self.prompt):
            raise CheckpointError(f"{where}: the prompt is {self.prompt!r}; it must be a text")
        if len(self.thresholds) != (len(self.labels) if self.kind == "multi_label" else 0):
            raise CheckpointError(
                f"{where}, {self.kind}: {len(self.thresholds)} thresholds for {len(self.labels)} labels; "
                "a multi_label head has one a label, a single_label head none"
            )
        if not 0.01 <= self.temperature <= 100.0:
            raise CheckpointError(f"{where}: temperature is {self.temperature}; it lies in [0.01, 100]")
        if self.min_energy is not None and (self.kind != "single_label" or not math.isfinite(self.min_energy)):
            raise CheckpointError(
                f"{where}, {self.kind}: min_energy is {self.min_energy}; a single_label head has a number or none"
            )

    @classmethod
    def from_json(cls, value: Any) -> "Head":
        """The inverse of `asdict`.

        Raises:
            CheckpointError: a missing, unknown or impossible field.
        """
        types = {"name": str, "kind": str, "labels": list, "thresholds": list, "temperature": float, "prompt": str}
        types["min_energy"] = float
        read = _checked(value, types, ("name", "kind", "labels"), "tasks.json: a head")
        read["labels"] = tuple(read["labels"])
        if "thresholds" in read:
            read["thresholds"] = _numbers(read["thresholds"], f"tasks.json: the head {read['name']}")
        return cls(**read)


@dataclass(frozen=True)
class Tasks:
    """What a checkpoint can do and how its inputs are written.

    `prompt` is the text put before what is summarized; a head has its own, and equal prompts share one encoding.
    `max_source_tokens` is the longest input that the checkpoint was made for, prompt and end token included. A text of
    whose words the vocabulary has a smaller share than `min_known_words` (`model.vocabulary_words`) is unlike what the
    checkpoint has learned from; 0: not measured. `words`, in lower case, are those that a summary may have beside its
    text's (`model.inference.decoding.words`); none: any.
    """

    prompt: str = FLAN_PROMPT
    heads: tuple[Head, ...] = ()
    max_source_tokens: int = 512
    min_known_words: float = 0.0
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [head.name for head in self.heads]
        if len(set(names)) != len(names):
            raise CheckpointError(f"tasks.json: heads are named {reprlib.repr(names)}; each name must be there once")
        if not _is_text(self.prompt):
            raise CheckpointError(f"tasks.json: the prompt is {self.prompt!r}; it must be a text")
        if not 0 <= self.min_known_words <= 1:
            raise CheckpointError(f"tasks.json: min_known_words is {self.min_known_words}; it lies in [0, 1]")
        if odd := [word for word in self.words if not _is_word(word)]:
            raise CheckpointError(f"tasks.json: words has {reprlib.repr(odd[0])}; each must be a word in lower case")
        if not 8 <= self.max_source_tokens <= _MAX_SOURCE_TOKENS:
            raise CheckpointError(
                f"tasks.json: max_source_tokens is {self.max_source_tokens}; it must lie in [8, {_MAX_SOURCE_TOKENS}]"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Every task that can be asked, summaries first."""
        return (SUMMARIZE, *(head.name for head in self.heads))

    @property
    def prompts(self) -> dict[str, str]:
        """The prompt of each task."""
        return {SUMMARIZE: self.prompt, **{head.name: head.prompt for head in self.heads}}

    def has(self, task: str) -> bool:
        """Whether the checkpoint can answer `task`."""
        return task in self.names

    def head(self, name: str) -> Head:
        """The head called `name`, which must be there."""
        return next(head for head in self.heads if head.name == name)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object; what was not measured is left out."""
        fields = asdict(self)
        for head in fields["heads"]:
            if head["min_energy"] is None:
                del head["min_energy"]
        if not self.min_known_words:
            del fields["min_known_words"]
        if not self.words:
            del fields["words"]
        return fields

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Tasks":
        """The inverse of `to_json`.

        Raises:
            CheckpointError: a missing, unknown or impossible field.
        """
        types = {"prompt": str, "heads": list, "max_source_tokens": int, "min_known_words": float, "words": list}
        read = _checked(value, types, ("prompt", "heads", "max_source_tokens"), "tasks.json:")
        lists = {"heads": tuple(map(Head.from_json, read["heads"])), "words": tuple(read.get("words", ()))}
        return cls(**{**read, **lists})


def _checked(value: Any, types: Mapping[str, type], required: Collection[str], place: str) -> dict[str, Any]:
    """`value` if its fields are known and of the right types; others than `required` may be missing."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{place} is {reprlib.repr(value)}; it must be an object")
    if not set(required) <= value.keys() <= types.keys():
        raise CheckpointError(
            f"{place} has the fields {reprlib.repr(sorted(value))}; it must have {sorted(required)}, of {sorted(types)}"
        )
    for name, one in value.items():
        if type(one) is not types[name] and not (types[name] is float and type(one) is int):
            raise CheckpointError(f"{place} {name} is {reprlib.repr(one)}; it must be of type {types[name].__name__}")
    return dict(value)


def _numbers(values: list[Any], place: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{place}: thresholds cannot be read: {error!r}") from error


def _is_word(value: object) -> bool:
    return _is_text(value) and str(value).replace("'", "").isalpha() and value == str(value).lower()


def _is_text(value: object) -> bool:
    """Whether it is a string that can be tokenized and sent: JSON has lone surrogates too, which are no characters."""
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode()
