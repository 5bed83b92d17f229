"""Texts through a model as the server answers them: the task's prompt, its length limit, the shared decoding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.inference.backend import Backend
from model.inference.decoding.batch import decode
from model.inference.decoding.grounding import Grounding
from model.inference.decoding.lexicon import Lexicon
from model.inference.decoding.options import DecodingOptions
from model.network.heads import mean_over_tokens
from model.tasks import SUMMARIZE, Tasks
from model.tokenizer import Tokenizer
from training.evaluation.calibration import Logits

_TOKENS_A_BATCH = 8192  # padded source tokens; rows are sorted by length, so little of it is padding


@dataclass(frozen=True)
class Predictor:
    """What computes a model, with what turns texts into its ids."""

    backend: Backend
    tokenizer: Tokenizer
    tasks: Tasks

    @torch.inference_mode()
    def classify(self, head: str, texts: Sequence[str]) -> Logits:
        """Logits of one of the model's heads: (texts, labels) float32."""
        out = torch.empty(len(texts), len(self.tasks.head(head).labels))
        for numbers, encoder_states, ids in self._encoded(head, texts):
            mask = ids != self.backend.config.pad_id
            out[numbers] = self.backend.classify(encoder_states, mask, [head])[head].float().cpu()
        logits: Logits = out.numpy()
        return logits

    @torch.inference_mode()
    def mean_states(self, head: str, texts: Sequence[str]) -> Tensor:
        """What a head reads of each text: (texts, D) float32 on the CPU."""
        out = torch.empty(len(texts), self.backend.config.d_model)
        for numbers, encoder_states, ids in self._encoded(head, texts):
            mask = ids != self.backend.config.pad_id
            out[numbers] = mean_over_tokens(encoder_states, mask).float().cpu()
        return out

    @torch.inference_mode()
    def summarize(self, texts: Sequence[str], options: DecodingOptions) -> list[str]:
        """One summary a text."""
        out = [""] * len(texts)
        lexicon = Lexicon.of(self.tokenizer) if options.grounded else None
        longest = self.tasks.max_source_tokens - len(self.tokenizer.encode(self.tasks.prompts[SUMMARIZE])) - 1
        for numbers, encoder_states, ids in self._encoded(SUMMARIZE, texts):
            mask = ids != self.backend.config.pad_id
            held = [self.tokenizer.encode(texts[number])[:longest] for number in numbers] if lexicon else []
            groundings = [Grounding(lexicon, source) for source in held] if lexicon else None
            every = [options] * len(numbers)
            results = decode(self.backend, encoder_states, mask, every, sources=ids.tolist(), groundings=groundings)
            for number, result in zip(numbers, results, strict=True):
                out[number] = self.tokenizer.decode(result.token_ids)
        return out

    def _encoded(self, task: str, texts: Sequence[str]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        prompt, longest = self.tasks.prompts[task], self.tasks.max_source_tokens
        ids = [torch.tensor(self.tokenizer.encode_source(text, prompt, longest)) for text in texts]
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))  # longest first: memory fails early
        while order:
            size = max(1, _TOKENS_A_BATCH // len(ids[order[0]]))
            numbers, order = order[:size], order[size:]
            padded = torch.nn.utils.rnn.pad_sequence([ids[n] for n in numbers], batch_first=True)
            padded = padded.to(self.backend.device)
            yield numbers, self.backend.encode(padded, padded != self.backend.config.pad_id), padded
