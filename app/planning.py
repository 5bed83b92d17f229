"""A text and what is asked of it → engine requests: checks, prompts, chunks. Pure; knows neither engine nor answers."""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.chunks import cut_into_chunks
from app.engine.request import EngineRequest
from model.checkpoint import Checkpoint
from model.decoding.options import DecodingOptions
from model.errors import CheckpointError
from model.tasks import TASKS, Task

_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # Hangul fillers and the Braille pattern without dots
OnLong = Literal["chunk", "truncate", "error"]


class TextError(Exception):
    """A text that cannot be answered. `index` is its place among those asked together."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.index = index


class UnsupportedTask(Exception):
    """The checkpoint has no head for a task."""


def available_tasks(checkpoint: Checkpoint) -> tuple[Task, ...]:
    """What can be asked of `checkpoint`, in the order of `TASKS`."""
    return tuple(task for task in TASKS if checkpoint.tasks.has(task))


@dataclass(frozen=True)
class Question:
    """What is asked of a text. `options` matter with `summarize` only."""

    tasks: tuple[Task, ...]
    options: DecodingOptions = field(default_factory=DecodingOptions)
    on_long: OnLong = "chunk"


@dataclass(frozen=True)
class Plan:
    """A question about one text as the engine is asked it: one request per distinct prompt and chunk."""

    requests: tuple[EngineRequest, ...]

    @property
    def num_tokens(self) -> int:
        """Of all sources."""
        return sum(len(one.input_ids) for one in self.requests)

    @property
    def cost(self) -> int:
        """Decoding that is asked at most: new tokens x beams, summed over chunks."""
        return sum(
            one.options.max_new_tokens * one.options.num_beams for one in self.requests if one.options is not None
        )


class Planner:
    """Plans for one checkpoint's tokenizer, prompts and lengths.

    Raises:
        CheckpointError: a prompt leaves no room for a text.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tokenizer = checkpoint.tokenizer
        self._tasks = checkpoint.tasks
        for task, prompt in self._tasks.prompts.items():
            if self._room(self._tokenizer.encode(prompt)) < 1:
                raise CheckpointError(
                    f"tasks.json: the prompt of {task} fills max_source_tokens ({self._tasks.max_source_tokens})"
                )

    def plan(self, texts: Sequence[str], question: Question, deadline: float) -> list[Plan]:
        """`question` about each of `texts` as engine requests, due at `deadline` on the engine's clock.

        Raises:
            TextError: a text that is blank, cannot be encoded, or is too long and must not be cut.
            UnsupportedTask: a task without a head.
        """
        plans = []
        for index, text in enumerate(texts):
            try:
                plans.append(self._plan_one(text, question, deadline))
            except TextError as error:
                raise TextError(error.message, index) from None
        return plans

    def _plan_one(self, text: str, question: Question, deadline: float) -> Plan:
        tasks_of: dict[str, list[Task]] = defaultdict(list)
        for task in question.tasks:
            self._check_task(task)
            tasks_of[self._tasks.prompts[task]].append(task)
        _check_text(text)
        requests: list[EngineRequest] = []
        for prompt, tasks in tasks_of.items():
            requests += [
                EngineRequest(
                    input_ids=tuple(source),
                    deadline=deadline,
                    emotions="emotions" in tasks,
                    topic="topic" in tasks,
                    options=question.options if "summarize" in tasks else None,
                )
                for source in self._sources(prompt, text, question.on_long)
            ]
        return Plan(tuple(requests))

    def _sources(self, prompt: str, text: str, on_long: OnLong) -> list[list[int]]:
        """The text with its prompt and end token, in as many parts as `on_long` makes of it."""
        prompt_ids = self._tokenizer.encode(prompt)
        token_ids = self._tokenizer.encode_source(text, prompt)
        if len(token_ids) <= len(prompt_ids) + 1:
            raise TextError("has only characters that the tokenizer drops; give it words")
        limit = self._tasks.max_source_tokens
        if len(token_ids) <= limit:
            return [token_ids]
        if on_long == "error":
            raise TextError(
                f"has {len(token_ids)} tokens with its prompt, {limit} are allowed; shorten it, "
                'or set on_long to "chunk" or "truncate"'
            )
        if on_long == "truncate":
            return [self._tokenizer.encode_source(text, prompt, limit)]
        chunks = cut_into_chunks(self._tokenizer, text, self._room(prompt_ids))
        return [[*prompt_ids, *chunk, self._tokenizer.eos_id] for chunk in chunks]

    def _room(self, prompt_ids: list[int]) -> int:
        return self._tasks.max_source_tokens - len(prompt_ids) - 1

    def _check_task(self, task: Task) -> None:
        if not self._tasks.has(task):
            raise UnsupportedTask(
                f"this checkpoint has no head for {task}: it was imported or trained without one; "
                "train it (python -m training.train) or serve a checkpoint that has it, such as the bundled one"
            )


def _check_text(text: str) -> None:
    if not text.strip():
        raise TextError(f"is blank ({len(text)} characters); give it words")
    if not any(_is_seen(character) for character in text):
        raise TextError(f"has only control or invisible characters ({len(text)}); give it words")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, which no encoding has; "
            "remove it"
        ) from None


def _is_seen(character: str) -> bool:
    if character.isspace() or character in _BLANK_LETTERS:
        return False
    return unicodedata.category(character) not in ("Cc", "Cf")
