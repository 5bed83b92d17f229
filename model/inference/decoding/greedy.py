"""One row a document: the best token, or a drawn one; and behind it drafts, of which what would be chosen is kept."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.inference.backend import Backend
from model.inference.decoding.drafts import Candidate, CopyTracker, DraftPolicy
from model.inference.decoding.options import DecodingOptions, DecodingResult, FinishReason
from model.inference.decoding.rows import Outcome, Rows, Step, empty_tokens
from model.inference.decoding.rules import Rules
from model.inference.decoding.sampling import Sampling, uniforms
from model.inference.kv_cache import StepTokens
from model.transfer import send

_NO_TOKEN = -1
_MOST_CHECKS = 64  # kept for steps to come


class GreedyRows(Rows):
    """Greedy and sampled documents, mixed freely."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend, num_beams=1)
        self._drawn: tuple[Tensor, Sampling | None] | None = None
        self._limits: dict[int, int] = {}  # by key; most tokens
        # By key; the device is not asked again when a document ends.
        self._reported: defaultdict[int, list[int]] = defaultdict(list)
        self._trackers: dict[int, CopyTracker] = {}  # by key, of documents that may have drafts
        self._drafts: list[str] = []  # of each document in the coming step; empty: none has one
        self._check: _Check | None = None  # of the coming step's drafts
        self._checks: dict[tuple[tuple[DecodingOptions, int], ...], _Check] = {}  # by documents' options and lengths
        self.num_accepted = 0  # drafted tokens of the last step that were right

    def start(self, options: Sequence[DecodingOptions]) -> dict[str, Tensor]:
        """No tokens yet, and the numbers that a sampled document will draw by."""
        tokens = empty_tokens(options, 1)
        draws = torch.zeros(len(options), tokens.shape[-1])
        for row, option in zip(draws, options, strict=True):
            if option.do_sample:
                row[: option.max_new_tokens] = uniforms(option)
        return {"tokens": tokens, "draws": draws}

    def track(self, keys: Sequence[int], sources: Sequence[Sequence[int]]) -> None:
        """Let the documents `keys` have drafts, from their `sources` (token ids) and from what they write."""
        for key, source in zip(keys, sources, strict=True):
            self._trackers[key] = CopyTracker(source, self.config.eos_id)

    def drop_drafts(self) -> None:
        """A step without drafts, unless `draft` chooses some."""
        self._drafts, self.num_accepted = [], 0

    def draft(self, policy: DraftPolicy, num_documents: int, num_rows: int) -> int:
        """Choose the drafts of the coming step, which has so many documents and rows in all; gives their tokens.

        The results of the step before are to be reported and its drafts dropped first.
        """
        if not (self._trackers and policy.may_pay(num_documents, num_rows)):
            return 0
        if any(option.grounded for option in self.options):  # where these are is known a token at a time
            return 0
        candidates = [self._candidate(number, key, policy) for number, key in enumerate(self.keys)]
        drafts = policy.plan(candidates, num_documents, num_rows)
        num_tokens = sum(map(len, drafts))
        self._drafts = drafts if num_tokens else []
        return num_tokens

    def _candidate(self, number: int, key: int, policy: DraftPolicy) -> Candidate:
        tracker = self._trackers[key]
        if tokens := self._reported.get(key, [])[tracker.num_written :]:
            policy.learn(tracker, tokens)
            tracker.extend(tokens)
        return Candidate(tracker, self.options[number].max_new_tokens - self.cache.ages[number] - 1)

    def newest_tokens(self) -> Tensor:
        """Input of the coming step: (R,), the drafts behind the newest ones."""
        newest = super().newest_tokens()
        if not self._drafts:
            return newest
        kind = tuple((option, len(draft)) for option, draft in zip(self.options, self._drafts, strict=True))
        if kind not in self._checks:
            if len(self._checks) == _MOST_CHECKS:
                self._checks.clear()
            self._checks[kind] = _Check.of(kind, self)
        self._check = self._checks[kind]
        self.cache.step_tokens = step_tokens = self._check.step_tokens
        token_ids = newest[step_tokens.documents]
        token_ids[step_tokens.offsets > 0] = torch.tensor([ord(char) for draft in self._drafts for char in draft])
        places = self.cache.step_positions
        self.state["tokens"][step_tokens.documents, 0, places] = token_ids
        return token_ids

    def advance(self, logits: Tensor) -> Outcome:
        """Append one token to every document, and before it what is right of its draft; their ids are the outcome.

        The id is -1 where the scores are not numbers.
        """
        if self._check is not None:
            check, self._check = self._check, None
            return self._advance_by_drafts(logits, check)
        scores = self.allowed(logits)
        chosen, is_finite = _best(scores)  # (C,)
        places = self.cache.positions[: self.cache.num_rows, None]
        if self._drawn is None:
            self._drawn = _drawn(self.options, self)
        rows, sampling = self._drawn
        if sampling is not None:
            draws = self.state["draws"].gather(1, places - 1)[rows, 0]
            chosen[rows] = sampling.draw(scores[rows], draws)
        self.state["tokens"][:, 0].scatter_(1, places, chosen[:, None])
        self.follow(None, chosen)
        return self.outcome(torch.where(is_finite, chosen, _NO_TOKEN))

    def _advance_by_drafts(self, logits: Tensor, check: "_Check") -> Outcome:
        """`logits` (R, V), of each document's newest token and of those of its draft."""
        documents, offsets = check.step_tokens.documents, check.step_tokens.offsets
        self.cache.step_tokens = None
        newest = self.cache.positions[documents] - 1 + offsets  # (R,); the model has advanced the cache by one
        tokens = self.state["tokens"][:, 0]  # (C, T + 2), with the drafts
        held = tokens[documents, : int(newest.max()) + 1]  # (R, T)
        held.masked_fill_(torch.arange(held.shape[1]) > newest[:, None], self.config.pad_id)
        scores = check.rules.apply(logits, held, newest, None, *self.of_sources(documents))
        chosen, is_finite = _best(scores)  # (R,)
        if check.sampling is not None:
            draws = self.state["draws"][documents, newest][check.drawn]
            chosen[check.drawn] = check.sampling.draw(scores[check.drawn], draws)
        chosen = torch.where(is_finite, chosen, _NO_TOKEN)
        token_ids, kept, values, held_ids, begin = chosen.tolist(), [], [], [], 0
        for draft in self._drafts:
            length = 0
            while length < len(draft) and token_ids[begin + length] == ord(draft[length]):
                length += 1
            right = token_ids[begin : begin + length + 1]
            kept.append(length)
            values += right
            held_ids += right + [self.config.pad_id] * (len(draft) - length)
            begin += 1 + len(draft)
        tokens[documents, newest + 1] = torch.tensor(held_ids)
        self.cache.keep(kept)
        self.num_accepted = sum(kept)
        return self.outcome(torch.tensor(values), kept)

    def report(self, outcome: Outcome) -> list[Step]:
        """Each document's tokens; the whole of those that stopped or reached their limit."""
        new: dict[int, tuple[int, ...]] = {}
        results: dict[int, DecodingResult] = {}
        limits, ends = self._limits, (self.config.eos_id, _NO_TOKEN)
        for key, age, token_id in outcome.read():
            if key not in limits:  # it has left
                continue
            is_end = token_id in ends
            tokens = new.get(key, ())
            new[key] = tokens = tokens if is_end else (*tokens, token_id)
            if is_end or age >= limits[key]:
                whole = (*self._reported[key], *tokens)
                reason: FinishReason = "stop" if token_id == self.config.eos_id else "length"
                results[key] = DecodingResult(whole, reason, is_finite=token_id != _NO_TOKEN)
        for key, tokens in new.items():
            self._reported[key] += tokens
        steps = [Step(key, tokens, results.get(key)) for key, tokens in new.items()]
        self.remove([step.key for step in steps if step.result is not None])
        return steps

    def remove(self, keys: Collection[int]) -> None:
        """Let documents leave."""
        super().remove(keys)
        for key in keys:
            self._reported.pop(key, None)
            self._trackers.pop(key, None)

    def changed(self) -> None:
        """Documents joined or left."""
        super().changed()
        self._drawn = None
        self._limits = {key: option.max_new_tokens for key, option in zip(self.keys, self.options, strict=True)}


@dataclass(frozen=True)
class _Check:
    """What drafts of some lengths are checked by: the rows that they make of the documents, and these rows' options."""

    step_tokens: StepTokens
    rules: Rules
    drawn: Tensor
    sampling: Sampling | None

    @staticmethod
    def of(kind: Sequence[tuple[DecodingOptions, int]], rows: GreedyRows) -> "_Check":
        """Of documents with these options and as long drafts."""
        counts = [1 + length for _, length in kind]
        options = [option for (option, _), count in zip(kind, counts, strict=True) for option in [option] * count]
        return _Check(StepTokens.of(counts), rows.rules(options), *_drawn(options, rows))


def _best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The first of the highest of each row, that of a NaN if there is one, and whether it is none: (R, V) to (R,)."""
    # On a CPU torch's own takes twelve times as long.
    best = torch.from_numpy(scores.numpy().argmax(-1)) if scores.is_cpu else scores.argmax(-1)
    return best, scores.gather(1, best[:, None])[:, 0] < float("inf")  # -inf: rules may ban every token


def _drawn(options: Sequence[DecodingOptions], rows: GreedyRows) -> tuple[Tensor, Sampling | None]:
    """Which of `options` sample, and how."""
    sampled = [number for number, option in enumerate(options) if option.do_sample]
    chosen = [options[number] for number in sampled]
    sampling = Sampling(chosen, rows.config.vocab_size, rows.device) if sampled else None
    return send(torch.tensor(sampled, dtype=torch.int64), rows.device), sampling
