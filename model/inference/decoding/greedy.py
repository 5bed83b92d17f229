"""One row a document: the best token, or a drawn one."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from model.inference.backend import Backend
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.decoding.rows import Outcome, Rows, Step, empty_tokens
from model.inference.decoding.sampling import Sampling, uniforms
from model.transfer import send

_NO_TOKEN = -1


class GreedyRows(Rows):
    """Greedy and sampled documents, mixed freely."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend, num_beams=1)
        self._drawn: tuple[Tensor, Sampling | None] | None = None
        self._reported: dict[int, list[int]] = {}  # by key; the device is not asked again when a document ends

    def start(self, options: Sequence[DecodingOptions]) -> dict[str, Tensor]:
        """No tokens yet, and the numbers that a sampled document will draw by."""
        tokens = empty_tokens(options, 1)
        draws = torch.zeros(len(options), tokens.shape[-1])
        for row, option in zip(draws, options, strict=True):
            if option.do_sample:
                row[: option.max_new_tokens] = uniforms(option)
        return {"tokens": tokens, "draws": draws}

    def advance(self, logits: Tensor) -> Outcome:
        """Append one token to every document; its id is the outcome, or -1 where the scores are not numbers."""
        scores = self.allowed(logits)
        chosen = scores.argmax(-1)  # (C,); that of a NaN, if there is one
        is_finite = scores.gather(1, chosen[:, None])[:, 0] < float("inf")  # -inf: rules may ban every token
        places = self.cache.positions[: self.cache.num_rows, None]
        if self._drawn is None:
            self._drawn = self._find_drawn()
        rows, sampling = self._drawn
        if sampling is not None:
            draws = self.state["draws"].gather(1, places - 1)[rows, 0]
            chosen[rows] = sampling.draw(scores[rows], draws)
        self.state["tokens"][:, 0].scatter_(1, places, chosen[:, None])
        return self.outcome(torch.where(is_finite, chosen, _NO_TOKEN))

    def report(self, outcome: Outcome) -> list[Step]:
        """Each document's token; the whole of those that stopped or reached their limit."""
        steps = []
        for key, age, token_id in outcome.read():
            if key not in self.keys:
                continue
            number = self.keys.index(key)
            stopped, is_finite = token_id == self.config.eos_id, token_id != _NO_TOKEN
            is_token = is_finite and not stopped
            tokens = self._reported.setdefault(key, [])
            if is_token:
                tokens.append(token_id)
            result = None
            if not is_token or age >= self.options[number].max_new_tokens:
                result = DecodingResult(tuple(tokens), "stop" if stopped else "length", is_finite=is_finite)
            steps.append(Step(key, token_id if is_token else None, result))
        self.remove([step.key for step in steps if step.result is not None])
        return steps

    def remove(self, keys: Collection[int]) -> None:
        """Let documents leave."""
        super().remove(keys)
        for key in keys:
            self._reported.pop(key, None)

    def changed(self) -> None:
        """Documents joined or left."""
        super().changed()
        self._drawn = None

    def _find_drawn(self) -> tuple[Tensor, Sampling | None]:
        sampled = [number for number, option in enumerate(self.options) if option.do_sample]
        options = [self.options[number] for number in sampled]
        sampling = Sampling(options, self.config.vocab_size, self.device) if sampled else None
        return send(torch.tensor(sampled, dtype=torch.int64), self.device), sampling
