"""What the engine is given and what it returns: token ids in, numbers and token ids out. No text, no HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from app.telemetry import Stages
from model.inference.decoding.options import DecodingOptions, DecodingResult

if TYPE_CHECKING:  # tensors, which the scheduler carries and never sees
    from model.inference.decoding.grounding import Grounding
Priority = Literal["interactive", "batch"]


@dataclass(frozen=True)
class EngineRequest:
    """One source, which is encoded once for all of its tasks.

    `input_ids` hold prompt, text and end token. `heads` are the names of the heads to run; `options` is None when no
    summary is requested, and `grounding` is what the source holds where they are `grounded`. `deadline` is in seconds
    on the engine's clock; a request without a result by then is dropped.
    Of `priority` batch is what fills what interactive work leaves.
    """

    input_ids: tuple[int, ...]
    deadline: float
    heads: tuple[str, ...] = ()
    options: DecodingOptions | None = None
    grounding: "Grounding | None" = field(default=None, repr=False)
    priority: Priority = "interactive"


@dataclass(frozen=True)
class Job:
    """An accepted `EngineRequest` from the queue to its result. Keys grow with arrival.

    `num_tokens` is the request's length as the encoder pads it. `place` is its position among the requests that were
    accepted together. With `streams` an update is published for every token, otherwise at the end alone. `stages` is
    None where the request is not traced.
    """

    key: int
    request: EngineRequest
    num_tokens: int
    accepted_at: float = 0.0
    place: int = 0
    streams: bool = False
    stages: Stages | None = field(default=None, compare=False, repr=False)

    @cached_property
    def source(self) -> int:
        """Equal for equal sources, which are encoded once."""
        return hash(self.request.input_ids)

    @cached_property
    def num_rows(self) -> int:
        """Decoder rows that it will hold: its beams, or 0 when nothing is decoded."""
        return self.request.options.num_beams if self.request.options else 0


@dataclass(frozen=True)
class EngineResult:
    """The result of one `EngineRequest`: for each of its heads the probability of each label, in their order.

    `energies` has `model.probabilities.energy` for the heads that have a bound of it. `summary` is None where none was
    requested.
    """

    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    energies: Mapping[str, float] = field(default_factory=dict)
    summary: DecodingResult | None = None


@dataclass(frozen=True)
class Update:
    """Progress of the job `key`: the tokens since its last update, and how it ended once it has.

    The tokens of all updates of a job are its summary's. The first one says that the job has left the queue.
    """

    key: int
    token_ids: tuple[int, ...] = ()
    end: "EngineResult | EngineError | None" = None


class EngineError(Exception):
    """The engine has no result for an accepted or offered request."""


class Overloaded(EngineError):
    """The request was refused, nothing was started: too much waits at `place`.

    `retry_after_s` is a whole number of seconds.
    """

    def __init__(self, message: str, retry_after_s: int, place: Literal["queue", "tokenizer"]) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.place = place


class DoesNotFit(EngineError):
    """The request takes more memory than there is, with nothing else in flight; the message has its size."""


class DeadlineExceeded(EngineError):
    """The request's deadline passed before its result was complete."""


class EngineStopped(EngineError):
    """The engine is not started, is draining, or failed."""
