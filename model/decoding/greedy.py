"""One row a document: the best token, or a drawn one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.decoding.options import DecodingOptions, DecodingResult
from model.decoding.rows import Rows, Step, empty_tokens
from model.decoding.sampling import sample, uniforms
from model.leximind import LexiMind


class GreedyRows(Rows):
    """Greedy and sampled documents, mixed freely."""

    def __init__(self, model: LexiMind) -> None:
        super().__init__(model, num_beams=1)

    def start(self, options: Sequence[DecodingOptions]) -> dict[str, Tensor]:
        """No tokens yet, and the numbers that a sampled document will draw by."""
        tokens = empty_tokens(options, 1)
        draws = torch.zeros(len(options), tokens.shape[-1])
        for row, option in zip(draws, options, strict=True):
            if option.do_sample:
                row[: option.max_new_tokens] = uniforms(option)
        return {"tokens": tokens, "draws": draws}

    def advance(self, logits: Tensor) -> list[Step]:
        """Append one token to every document."""
        scores = self.allowed(logits)
        chosen = scores.argmax(-1)  # (C,)
        places = self.cache.positions[: self.cache.num_rows, None]
        sampled = [number for number, option in enumerate(self.options) if option.do_sample]
        if sampled:
            rows = torch.tensor(sampled, device=self.device)
            draws = self.state["draws"].gather(1, places - 1)[rows, 0]
            chosen[rows] = sample(scores[rows], [self.options[number] for number in sampled], draws)
        self.state["tokens"][:, 0].scatter_(1, places, chosen[:, None])
        return self._report(chosen.tolist())

    def _report(self, chosen: list[int]) -> list[Step]:
        steps = []
        for number, (key, token_id) in enumerate(zip(self.keys, chosen, strict=True)):
            stopped = token_id == self.config.eos_id
            age = self.cache.age(number)
            result = None
            if stopped or age >= self.options[number].max_new_tokens:
                tokens = self.state["tokens"][number, 0, 1 : age + 1 - stopped].tolist()
                result = DecodingResult(tuple(tokens), "stop" if stopped else "length")
            steps.append(Step(key, None if stopped else token_id, result))
        self.remove([step.key for step in steps if step.result is not None])
        return steps
