"""The documents in flight: they join and leave between steps; greedy, sampled and beam rows share every step."""

import time
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from model.inference.backend import Backend
from model.inference.decoding.beam import BeamRows
from model.inference.decoding.drafts import DraftPolicy
from model.inference.decoding.greedy import GreedyRows
from model.inference.decoding.grounding import Grounding
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.decoding.rows import Outcome, Rows, Step
from model.inference.graphs import StepGraphs
from model.transfer import send

# An empty cache that is no larger is kept, so that requests that come one by one need no new one each.
_KEPT_BYTES = 32 * 2**20
# After so many steps without a draft one is looked for in every fourth: to look takes a twentieth of a small step.
_PATIENCE = 8
_LOOK_EVERY = 4


class DecodingBatch:
    """Decoding of many documents on one model; a document's tokens do not depend on what else is in flight."""

    def __init__(
        self,
        backend: Backend,
        graphs: StepGraphs | None = None,
        *,
        lags: bool | None = None,
        drafts: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`graphs` replays steps; with `lags`, the default on a GPU, results come a step late and nothing waits.

        `drafts` lets greedy and sampled documents take several tokens a step where they copy, if the backend's rows are
        independent and results do not lag: what they give stays the same. `clock` measures whether it is worth it.
        """
        self._backend = backend
        self._graphs = graphs
        self._lags = backend.device.type == "cuda" if lags is None else lags
        can_draft = backend.rows_are_independent and graphs is None and not self._lags
        self._policy = DraftPolicy() if drafts and can_draft else None
        self._clock = clock
        self._num_idle, self._looks = 0, False  # steps since the last draft; whether this one looked for one
        self._num_rows_before = 0  # of the last step, if no row has left with it
        self.num_drafted = 0  # tokens of drafts in the last step
        self._groups: dict[int, Rows] = {}  # by beam width
        self._pending: list[tuple[Rows, Outcome]] = []  # steps whose results have not been read

    @property
    def num_rows(self) -> int:
        """Decoder rows in flight: a document has as many as beams."""
        return sum(group.cache.num_rows for group in self._groups.values())

    @property
    def num_accepted(self) -> int:
        """Of `num_drafted`, those that were right."""
        return sum(group.num_accepted for group in self._groups.values() if isinstance(group, GreedyRows))

    @torch.inference_mode()
    def add(
        self,
        keys: Sequence[int],
        encoder_states: Tensor,
        encoder_mask: Tensor,
        options: Sequence[DecodingOptions],
        sources: Sequence[Sequence[int]] = (),
        groundings: Sequence[Grounding | None] | None = None,
    ) -> None:
        """Let documents join.

        Args:
            keys: for each document a number that no document in flight has.
            encoder_states: (B, S, D), one row a document.
            encoder_mask: (B, S) bool, True at real tokens.
            options: for each document how it is decoded.
            sources: for each document the token ids of its source, which it may copy from: several at once, and
                characters that the vocabulary spells in bytes; empty: not known.
            groundings: for each document with `grounded` what its source holds.
        """
        groundings = groundings or [None] * len(options)
        assert not any(o.grounded and one is None for o, one in zip(options, groundings, strict=True))
        cross = self._backend.project_source(encoder_states, encoder_mask)
        sources = sources or [()] * len(options)
        for num_beams in sorted({option.num_beams for option in options}):
            chosen = [number for number, option in enumerate(options) if option.num_beams == num_beams]
            # One width, as nearly always, and nothing is copied.
            rows = send(torch.tensor(chosen), encoder_states.device) if len(chosen) < len(options) else slice(None)
            group, joining = self._group(num_beams), [keys[number] for number in chosen]
            group.add(
                joining,
                [(k[rows], v[rows]) for k, v in cross],
                encoder_mask[rows],
                [options[number] for number in chosen],
                [sources[number] for number in chosen],
                [groundings[number] for number in chosen],
            )
            if self._policy is not None and isinstance(group, GreedyRows):
                group.track(joining, [sources[number] for number in chosen])

    @torch.inference_mode()
    def step(self) -> list[Step]:
        """One token for every row in flight, and what is right of drafts; documents that finish with it leave.

        Gives what is due of each document, its tokens in order.
        """
        groups = [group for group in self._groups.values() if group.keys]
        started_at, num_rows = self._clock(), self.num_rows
        self._draft()
        num_tokens = num_rows + self.num_drafted
        advanced = [(group, group.advance(logits)) for group, logits in zip(groups, self._logits(groups), strict=True)]
        due, self._pending = (self._pending, advanced) if self._lags else (advanced, [])
        steps = [one for group, outcome in due for one in group.report(outcome)]
        if self._policy is not None and self._looks and num_rows == self._num_rows_before:  # else rules were made anew
            self._policy.cost.measure(num_tokens, self._clock() - started_at, drafted=self.num_drafted > 0)
        self._num_rows_before = num_rows if self.num_rows == num_rows else 0
        self._free_idle_caches()
        return steps

    def _draft(self) -> None:
        """Let greedy documents choose the drafts of this step.

        Those of the last one are over, also where none is looked for and where their documents have left.
        """
        self.num_drafted = 0
        greedy = self._groups.get(1)
        if self._policy is None or not isinstance(greedy, GreedyRows):
            return
        greedy.drop_drafts()
        self._num_idle += 1
        self._looks = self._num_idle <= _PATIENCE or self._num_idle % _LOOK_EVERY == 0
        if self._looks:
            num_documents = sum(len(group.keys) for group in self._groups.values())
            self.num_drafted = greedy.draft(self._policy, num_documents, self.num_rows)
        if self.num_drafted:
            self._num_idle = 0

    @torch.inference_mode()
    def prepare(self, num_documents: int, source_length: int, target_length: int) -> None:
        """Make room for so many documents without beams and record their steps, before any joins."""
        cache = self._group(1).cache
        cache.reserve(num_documents, source_length, target_length + 1)
        if self._graphs is not None:
            self._graphs.prepare(cache)

    def _logits(self, groups: list[Rows]) -> Sequence[Tensor]:
        if not groups:
            return []
        newest = [group.newest_tokens() for group in groups]
        if self._graphs is not None:
            return [self._graphs.step(ids, group.cache) for ids, group in zip(newest, groups, strict=True)]
        caches = [group.cache for group in groups]
        sizes = [cache.num_step_tokens for cache in caches]
        logits: Sequence[Tensor] = self._backend.step(torch.cat(newest), caches).split(sizes)
        return logits

    @torch.inference_mode()
    def remove(self, keys: Collection[int]) -> None:
        """Let documents leave unfinished; keys that are not in flight are ignored."""
        for group in self._groups.values():
            group.remove(keys)
        self._free_idle_caches()

    def _group(self, num_beams: int) -> Rows:
        if num_beams not in self._groups:
            self._forget_idle_beams()
            self._groups[num_beams] = (
                GreedyRows(self._backend) if num_beams == 1 else BeamRows(self._backend, num_beams)
            )
        return self._groups[num_beams]

    def _free_idle_caches(self) -> None:
        # One large request, or many with beams of every width, would fill memory for good. Recorded steps hold their
        # caches, and recording takes longer than a request: there it is enough to have no more than one idle width.
        if self._graphs is None:
            for num_beams, group in list(self._groups.items()):
                if not group.keys and (num_beams > 1 or group.cache.num_bytes > _KEPT_BYTES):
                    del self._groups[num_beams]

    def _forget_idle_beams(self) -> None:
        for num_beams, group in list(self._groups.items()):
            if num_beams > 1 and not group.keys:
                del self._groups[num_beams]
                if self._graphs is not None:
                    self._graphs.forget(num_beams)


def decode(
    backend: Backend,
    encoder_states: Tensor,
    encoder_mask: Tensor,
    options: Sequence[DecodingOptions],
    batch: DecodingBatch | None = None,
    sources: Sequence[Sequence[int]] = (),
    groundings: Sequence[Grounding | None] | None = None,
) -> list[DecodingResult]:
    """Decode encoder states (B, S, D) to the end, in order; in `batch`, which must be empty, if one is given.

    `sources` and `groundings` as for `DecodingBatch.add`.
    """
    batch = batch or DecodingBatch(backend)
    batch.add(range(len(options)), encoder_states, encoder_mask, options, sources, groundings)
    results: dict[int, DecodingResult] = {}
    while batch.num_rows:
        results |= {step.key: step.result for step in batch.step() if step.result is not None}
    batch.step()  # reads the one step too many of a lagging batch
    return [results[number] for number in range(len(options))]
