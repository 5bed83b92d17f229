"""A text and a `TextRequest` → engine requests: checks, prompts, chunks. Pure; knows neither engine nor answers."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from app.chunks import Chunk, TextEncoder, cut_into_chunks, encode_in_blocks
from app.engine.request import EngineRequest, Priority
from app.text_request import OnLong, TextRequest
from app.warnings import AnswerWarning, text_warnings
from model.errors import CheckpointError
from model.inference.decoding.grounding import Grounding
from model.inference.decoding.lexicon import Lexicon
from model.inference.decoding.options import DecodingOptions
from model.storage.checkpoint import Checkpoint
from model.tasks import SUMMARIZE
from model.tokenizer import Tokenizer

_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # Hangul fillers and the Braille pattern without dots


class TextError(Exception):
    """A text that cannot be processed. `index` is its position in the request."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.index = index


class PlanCancelled(Exception):
    """The plan is not needed any more."""


class UnsupportedTask(Exception):
    """The checkpoint has no head for a task."""


@dataclass(frozen=True)
class Reduction:
    """How summaries of chunks are summarized again, until there are `target_tokens` in all or fewer."""

    options: DecodingOptions
    target_tokens: int
    priority: Priority


@dataclass(frozen=True)
class Plan:
    """A `TextRequest` for one text as engine requests: one for each distinct prompt and chunk.

    `warnings` are of the text as a whole. `supporting_text` is the text as it was sent where its summary's support is
    wanted, `spans` are the code points of each request's chunk where their details are. With a `reduction` the
    requests are the first round.
    """

    requests: tuple[EngineRequest, ...]
    warnings: tuple[AnswerWarning, ...] = ()
    supporting_text: str | None = None
    spans: tuple[tuple[int, int], ...] | None = None
    reduction: Reduction | None = None

    @property
    def num_tokens(self) -> int:
        """Of all sources."""
        return sum(len(one.input_ids) for one in self.requests)

    @property
    def cost(self) -> int:
        """The most decoding that it can need: new tokens x beams, summed over chunks."""
        return sum(
            one.options.max_new_tokens * one.options.num_beams for one in self.requests if one.options is not None
        )


class Planner:
    """Plans for one checkpoint's tokenizer, prompts and lengths.

    A request may have `max_tokens` in all, unless it is one source; a longer one is refused before all of it is
    tokenized.

    Raises:
        CheckpointError: a prompt leaves no room for a text.
    """

    def __init__(self, checkpoint: Checkpoint, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._tokenizer = checkpoint.tokenizer
        self._tasks = checkpoint.tasks
        for task, prompt in self._tasks.prompts.items():
            if self._room(self._tokenizer.encode(prompt)) < 1:
                raise CheckpointError(
                    f"tasks.json: the prompt of {task} fills max_source_tokens ({self._tasks.max_source_tokens})"
                )

    def plan(
        self,
        texts: Sequence[str],
        request: TextRequest,
        deadline: float,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[Plan]:
        """`request` for each of `texts` as engine requests, due at `deadline` on the engine's clock.

        `is_wanted` is called before every block that is tokenized.

        Raises:
            TextError: a text that is blank, cannot be encoded, or is too long, alone or with those before.
            UnsupportedTask: a task without a head.
            PlanCancelled: `is_wanted` has become false.
        """
        tokenizer = _CancellableTokenizer(self._tokenizer, is_wanted)
        plans: list[Plan] = []
        for index, text in enumerate(texts):
            room = self._max_tokens - sum(plan.num_tokens for plan in plans)
            try:
                plans.append(self._plan_one(tokenizer, text, request, deadline, room))
            except TextError as error:
                raise TextError(error.message, index) from None
        return plans

    def _plan_one(self, tokenizer: TextEncoder, text: str, request: TextRequest, deadline: float, room: int) -> Plan:
        tasks_of: dict[str, list[str]] = defaultdict(list)
        for task in request.tasks:
            self._check_task(task)
            tasks_of[self._tasks.prompts[task]].append(task)
        _check_text(text)
        reduction = None
        if request.on_long == "reduce" and SUMMARIZE in request.tasks:
            reduction = Reduction(
                request.options, request.target_tokens or request.options.max_new_tokens, request.priority
            )
        requests: list[EngineRequest] = []
        spans: list[tuple[int, int]] = []
        for prompt, tasks in tasks_of.items():
            sources = self._sources(tokenizer, prompt, text, request.on_long, room)
            spans += [(source.start, source.end) for source in sources]
            for source in sources:
                options = request.options if SUMMARIZE in tasks else None
                if options is not None and reduction is not None:
                    options = _round_options(reduction, len(source.token_ids), len(sources))
                heads = tuple(task for task in tasks if task != SUMMARIZE)
                requests.append(self._request(prompt, source, deadline, request.priority, heads, options))
        bound = self._tasks.min_known_words
        return Plan(
            requests=tuple(requests),
            warnings=text_warnings(text, self._tokenizer.words, bound) if bound else (),
            supporting_text=text if request.support and SUMMARIZE in request.tasks else None,
            spans=tuple(spans) if request.detail else None,
            reduction=reduction,
        )

    def next_round(
        self, text: str, reduction: Reduction, deadline: float, is_wanted: Callable[[], bool]
    ) -> tuple[EngineRequest, ...]:
        """The requests that summarize `text`, which is joined summaries; none where it has no words.

        Raises:
            PlanCancelled: `is_wanted` has become false.
        """
        prompt, tokenizer = self._tasks.prompts[SUMMARIZE], _CancellableTokenizer(self._tokenizer, is_wanted)
        try:
            _check_text(text)
            sources = self._sources(tokenizer, prompt, text, "reduce", self._max_tokens)
        except TextError:
            return ()
        return tuple(
            self._request(
                prompt,
                source,
                deadline,
                reduction.priority,
                (),
                _round_options(reduction, len(source.token_ids), len(sources)),
            )
            for source in sources
        )

    def _request(
        self,
        prompt: str,
        source: Chunk,
        deadline: float,
        priority: Priority,
        heads: tuple[str, ...],
        options: DecodingOptions | None,
    ) -> EngineRequest:
        text_ids = source.token_ids[len(self._tokenizer.encode(prompt)) : -1]
        return EngineRequest(
            input_ids=tuple(source.token_ids),
            deadline=deadline,
            heads=heads,
            options=options,
            priority=priority,
            grounding=Grounding(self._lexicon, text_ids) if options is not None and options.grounded else None,
        )

    def _sources(self, tokenizer: TextEncoder, prompt: str, text: str, on_long: OnLong, room: int) -> list[Chunk]:
        """The text in as many parts as `on_long` makes of it, each with its prompt and end token."""
        prompt_ids, eos_id = self._tokenizer.encode(prompt), self._tokenizer.eos_id
        limit = self._tasks.max_source_tokens
        token_ids: list[int] = []
        for block in encode_in_blocks(tokenizer, prompt + text):
            token_ids += block
            if on_long == "truncate" and len(token_ids) >= limit:
                return [Chunk([*token_ids[: limit - 1], eos_id], 0, len(text))]
            if len(token_ids) > max(room, limit):
                raise TextError(
                    f"makes more than {self._max_tokens} tokens in all, which are allowed (half of max_queued_tokens); "
                    "send it in several requests"
                )
        if len(token_ids) <= len(prompt_ids):
            raise TextError("has only characters that the tokenizer drops; give it words")
        if len(token_ids) < limit:
            return [Chunk([*token_ids, eos_id], 0, len(text))]
        if on_long == "error":
            raise TextError(
                f"has {len(token_ids) + 1} tokens with its prompt, {limit} are allowed; shorten it, "
                'or set on_long to "chunk" or "truncate"'
            )
        chunks = cut_into_chunks(tokenizer, text, self._room(prompt_ids))
        return [Chunk([*prompt_ids, *chunk.token_ids, eos_id], chunk.start, chunk.end) for chunk in chunks]

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon.of(self._tokenizer)

    def _room(self, prompt_ids: list[int]) -> int:
        return self._tasks.max_source_tokens - len(prompt_ids) - 1

    def _check_task(self, task: str) -> None:
        if not self._tasks.has(task):
            raise UnsupportedTask(
                f"this checkpoint has no head for {task}: it was imported or trained without one; "
                "train it (python -m training.train) or serve a checkpoint that has it, such as the bundled one"
            )


def _round_options(reduction: Reduction, num_tokens: int, num_chunks: int) -> DecodingOptions:
    """The options for a chunk of a round: at most half of it is written, so that rounds come to an end."""
    limit = reduction.target_tokens if num_chunks == 1 else max(1, num_tokens // 2)
    length = min(reduction.options.max_new_tokens, limit)
    return replace(
        reduction.options, max_new_tokens=length, min_new_tokens=min(reduction.options.min_new_tokens, length)
    )


class _CancellableTokenizer:
    def __init__(self, tokenizer: Tokenizer, is_wanted: Callable[[], bool]) -> None:
        self._tokenizer = tokenizer
        self._is_wanted = is_wanted

    def encode(self, text: str) -> list[int]:
        if not self._is_wanted():
            raise PlanCancelled
        return self._tokenizer.encode(text)


def _check_text(text: str) -> None:
    if not text.strip():
        raise TextError(f"is blank ({len(text)} characters); give it words")
    if not any(_is_visible(character) for character in text):
        raise TextError(f"has only control or invisible characters ({len(text)}); give it words")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, which no encoding has; "
            "remove it"
        ) from None


def _is_visible(character: str) -> bool:
    if character.isspace() or character in _BLANK_LETTERS:
        return False
    return unicodedata.category(character) not in ("Cc", "Cf")
