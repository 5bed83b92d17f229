"""What the engine is asked and what it answers: token ids in, numbers and token ids out. No text, no HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from model.inference.decoding.options import DecodingOptions, DecodingResult


@dataclass(frozen=True)
class EngineRequest:
    """One source that is encoded once and serves every task asked of it.

    `input_ids` hold prompt, text and end token. `heads` are the names of those that are wanted; `options` is None when
    no summary is. `deadline` is in seconds on the engine's clock; a request that is not answered by then is dropped.
    """

    input_ids: tuple[int, ...]
    deadline: float
    heads: tuple[str, ...] = ()
    options: DecodingOptions | None = None


@dataclass(frozen=True)
class EngineAnswer:
    """The answer to one `EngineRequest`: of each head that was asked the probability of each label, in their order.

    `summary` is None where none was asked.
    """

    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    summary: DecodingResult | None = None


@dataclass(frozen=True)
class News:
    """What has become of the request `key`: tokens made since the last news, and its one answer when there is one.

    The tokens of all news of a request are its summary's. Any news says that the request has left the queue.
    """

    key: int
    token_ids: tuple[int, ...] = ()
    answer: "EngineAnswer | EngineError | None" = None


class EngineError(Exception):
    """The engine did not answer an accepted or offered request."""


class Overloaded(EngineError):
    """The request was refused, nothing was started: too much waits at `place`.

    `retry_after_s` is a whole number of seconds.
    """

    def __init__(self, message: str, retry_after_s: int, place: Literal["queue", "tokenizer"]) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.place = place


class DeadlineExceeded(EngineError):
    """The request's deadline passed before its answer was complete."""


class EngineStopped(EngineError):
    """The engine is not started, is draining, or failed."""
