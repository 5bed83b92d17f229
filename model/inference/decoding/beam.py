"""Beam search over many documents at once, each at its own length: the arithmetic of `transformers`' beam search.

A document keeps N running hypotheses and its N best finished ones. Each step looks at the 2N best continuations, so
that N can run on even if N end here; an ending counts only if it is among the N best. A document is done when no
running hypothesis can beat the worst finished one, by the heuristic that `early_stopping` names.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.inference.backend import Backend
from model.inference.decoding.options import DecodingOptions, DecodingResult, FinishReason
from model.inference.decoding.rows import Outcome, Rows, Step, empty_tokens
from model.transfer import send

# The score of a hypothesis that must not be chosen: finite, so that sums stay comparable, and below what the strictest
# length penalty makes of 1,000 tokens (-1e4 * 1000**10).
_NEVER = -1.0e37


class BeamRows(Rows):
    """Documents with `num_beams` hypotheses each."""

    def __init__(self, backend: Backend, num_beams: int) -> None:
        super().__init__(backend, num_beams)

    def start(self, options: Sequence[DecodingOptions]) -> dict[str, Tensor]:
        """One hypothesis alive, so that the first step does not choose the same token N times; none finished."""
        count, beams = len(options), self.num_beams
        scores = torch.full((count, beams), _NEVER)
        scores[:, 0] = 0.0
        tokens = empty_tokens(options, beams)

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values)[:, None]

        return {
            "tokens": tokens,
            "scores": scores,
            "finished_tokens": tokens.clone(),
            "finished_scores": torch.full((count, beams), _NEVER),
            "finished_lengths": torch.zeros(count, beams, dtype=torch.int64),
            "finished": torch.zeros(count, beams, dtype=torch.bool),
            "improvable": torch.ones(count, 1, dtype=torch.bool),
            "done": torch.zeros(count, 1, dtype=torch.bool),  # and closed, whatever steps follow
            "length_penalty": column([o.length_penalty for o in options]),
            "max_new_tokens": column([o.max_new_tokens for o in options]),
            "stop_when_full": column([o.early_stopping is True for o in options]),
            "never_stop_early": column([o.early_stopping == "never" for o in options]),
        }

    def advance(self, logits: Tensor) -> Outcome:
        """Extend every hypothesis by one token, keep the best; whether a document is done is the outcome."""
        state = self.state
        lengths = self.cache.positions[: self.cache.num_rows : self.num_beams, None]  # (C, 1) new tokens with this one
        scores, parents, token_ids = self._continuations(logits)  # (C, 2N) each
        tokens = _pick(state["tokens"], parents)  # (C, 2N, T + 1)
        tokens.scatter_(2, lengths[:, :, None].expand(-1, tokens.shape[1], 1), token_ids[:, :, None])
        ends = (token_ids == self.config.eos_id) | (lengths >= state["max_new_tokens"])
        self._keep_finished(scores, tokens, ends, lengths)
        self._keep_running(scores, tokens, token_ids, parents, ends)
        return self.outcome(self._done(ends, lengths))

    def _continuations(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_probabilities = self.allowed(torch.log_softmax(logits, dim=-1))
        vocabulary = log_probabilities.shape[-1]
        total = log_probabilities.view(-1, self.num_beams, vocabulary) + self.state["scores"][:, :, None]
        scores, places = total.flatten(1).topk(2 * self.num_beams)
        return scores, places // vocabulary, places % vocabulary

    def _keep_finished(self, scores: Tensor, tokens: Tensor, ends: Tensor, lengths: Tensor) -> None:
        state, beams = self.state, self.num_beams
        counts = ends.clone()
        counts[:, beams:] = False  # beyond the N best, an ending is not good enough to be an answer
        full = state["finished"].all(-1, keepdim=True) & state["stop_when_full"]
        open_ = counts & ~full & state["improvable"] & ~state["done"]
        final = scores / lengths.float() ** state["length_penalty"]
        final = torch.where(open_, final, final + _NEVER)
        merged = torch.cat([state["finished_scores"], final], dim=1)
        state["finished_scores"], best = merged.topk(beams)
        state["finished_tokens"] = _pick(torch.cat([state["finished_tokens"], tokens], dim=1), best)
        all_lengths = torch.cat([state["finished_lengths"], lengths.expand(-1, 2 * beams)], dim=1)
        state["finished_lengths"] = all_lengths.gather(1, best)
        state["finished"] = torch.cat([state["finished"], counts], dim=1).gather(1, best)

    def _keep_running(self, scores: Tensor, tokens: Tensor, token_ids: Tensor, parents: Tensor, ends: Tensor) -> None:
        running, best = (scores + ends.float() * _NEVER).topk(self.num_beams)
        self.state["scores"] = running
        self.state["tokens"] = _pick(tokens, best)
        first_rows = torch.arange(len(self.keys), device=self.device)[:, None] * self.num_beams
        self.cache.reorder((parents.gather(1, best) + first_rows).flatten())
        self.follow(parents.gather(1, best), token_ids.gather(1, best))

    def _done(self, ends: Tensor, lengths: Tensor) -> Tensor:
        state = self.state
        # The running score at its most hopeful length: the longest possible if asked never to stop early.
        longest = state["never_stop_early"] & (state["length_penalty"] > 0)
        hopeful = torch.where(longest, state["max_new_tokens"], lengths).float()
        best_running = state["scores"][:, :1] / hopeful ** state["length_penalty"]
        worst_finished = state["finished_scores"].min(dim=1, keepdim=True).values
        worst_finished = torch.where(state["finished"], worst_finished, _NEVER)
        state["improvable"] &= (best_running > worst_finished).any(-1, keepdim=True)
        full = state["finished"].all(-1, keepdim=True) & state["stop_when_full"]
        state["done"] |= ~state["improvable"] | full | ends.all(-1, keepdim=True)
        return state["done"][:, 0]

    def report(self, outcome: Outcome) -> list[Step]:
        """The best hypothesis of each document that is done."""
        done = [key for key, _, is_done in outcome.read() if is_done and key in self.keys]
        if not done:
            return []
        numbers = send(torch.tensor([self.keys.index(key) for key in done]), self.device)
        lengths, rows, scores = (
            self.state[f"finished_{name}"][numbers, 0].tolist() for name in ("lengths", "tokens", "scores")
        )
        steps = []
        for key, length, row, score in zip(done, lengths, rows, scores, strict=True):
            stopped = row[length] == self.config.eos_id
            tokens = tuple(row[1 : length + 1 - stopped])
            reason: FinishReason = "stop" if stopped else "length"
            steps.append(Step(key, (), DecodingResult(tokens, reason, score, score < math.inf)))
        self.remove(done)
        return steps


def _pick(rows: Tensor, numbers: Tensor) -> Tensor:
    # (C, N, T) and (C, M) to (C, M, T)
    return rows.gather(1, numbers[:, :, None].expand(-1, -1, rows.shape[-1]))
