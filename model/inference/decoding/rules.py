"""What a next token may be: penalties and bans on the logits of many rows at once, each row with its own options.

Order and arithmetic are those of `transformers`' logits processors: repetition penalty, repeated n-grams, minimum
length, suppressed ids. Bytes of characters that the vocabulary spells out are no words, which those do not know of:
here they are neither penalised nor part of an n-gram, and spell the source's characters to their ends. Words of several
pieces, and names and numbers of a grounded row, are finished, too, though their n-grams were there. No loop over rows,
no read-back from the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import ModelConfig
from model.inference.decoding.characters import Characters
from model.inference.decoding.grounding import Grounded, Grounding
from model.inference.decoding.options import DecodingOptions
from model.inference.decoding.words import Sources, WordRule
from model.transfer import send


class Rules:
    """The options of the rows in flight as tensors; rebuilt when documents join or leave, not in a step."""

    def __init__(
        self,
        config: ModelConfig,
        options: Sequence[DecodingOptions],
        num_beams: int,
        device: torch.device,
        characters: Characters | None = None,
        words: WordRule | None = None,
        groundings: Sequence[Grounding | None] = (),
    ) -> None:
        """`characters`: None for a vocabulary without byte pieces; `words`: None for a checkpoint that lists none.

        `groundings` are of the rows with `grounded`.
        """

        def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return send(torch.tensor(values, dtype=dtype).repeat_interleave(num_beams), device)

        penalties = [o.repetition_penalty for o in options]
        self._characters = characters
        self._words = words
        self._eos_id = config.eos_id
        self._penalties = column(penalties, torch.float32)[:, None] if set(penalties) != {1.0} else None
        sizes = [o.no_repeat_ngram_size for o in options for _ in range(num_beams)]
        self._repeats = _Repeats(sizes, device) if any(sizes) else None
        self._minimums = column([o.min_new_tokens for o in options], torch.int64)
        self._any_minimum = any(o.min_new_tokens for o in options)
        self.grounded: Grounded | None = None
        if any(o.grounded for o in options):
            lengths = [o.max_new_tokens for o in options]
            self.grounded = Grounded(groundings, lengths, num_beams, config.vocab_size, device)
        # Padding and unknown would be no text; ids from num_tokens on only pad the matrix.
        suppressed = [config.pad_id, config.unk_id, *range(config.num_tokens, config.vocab_size)]
        self._suppressed = send(torch.tensor(suppressed), device)

    def apply(
        self,
        scores: Tensor,
        tokens: Tensor,
        positions: Tensor,
        states: Tensor | None = None,
        spelled: Tensor | None = None,
        sources: Sources | None = None,
    ) -> Tensor:
        """Scores with what is not allowed at -inf.

        Args:
            scores: (R, V) float32, logits or log probabilities; changed in place.
            tokens: (R, T) what each row holds, the start token first, the start token's id after its end.
            positions: (R,) place of each row's newest token.
            states: (R,) where rows are in names and numbers; needed if any is grounded.
            spelled: (R, 4 K) of each row's source, by `Characters.spelled`; needed with `characters`.
            sources: by `WordRule.of_sources`, a row each; needed with `words`.
        """
        if self._penalties is not None or self._repeats is not None:
            past = tokens if self._characters is None else self._characters.without_bytes(tokens)
        if self._penalties is not None:
            seen = scores.gather(1, past)
            scores.scatter_(1, past, torch.where(seen < 0, seen * self._penalties, seen / self._penalties))
        if self._words is not None:
            assert sources is not None
            ahead = self._words.look(scores, tokens, positions, sources)
        if self.grounded is not None:
            assert states is not None
            held = self.grounded.hold(scores, states)
        if self._repeats is not None:
            self._repeats.ban(scores, past, tokens, positions)
        if self._any_minimum:
            early = positions < self._minimums
            scores[:, self._eos_id] = scores[:, self._eos_id].masked_fill(early, float("-inf"))
        scores[:, self._suppressed] = float("-inf")
        if self._characters is not None:
            assert spelled is not None
            self._characters.ban(scores, tokens, positions, spelled)
        if self._words is not None and sources is not None:
            self._words.ban(scores, ahead, sources)
            if self.grounded is not None and states is not None:
                held = self.grounded.only(held, states, self._words.allowed(ahead, sources))
        if self.grounded is not None and states is not None:
            self.grounded.ban(scores, states, positions, held)
        return scores


class _Repeats:
    """n-grams that must not occur twice, each row's of its own size: all sizes in one pass, over their rows alone."""

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        rows = sorted((row for row, size in enumerate(sizes) if size), key=lambda row: -sizes[row])  # longest first
        chosen = [sizes[row] for row in rows]
        # How many rows look at the word so many places before the one in question.
        self._num_rows = [sum(size > distance for size in chosen) for distance in range(max(chosen))]
        self._rows = None if self._num_rows[-1] == len(sizes) else send(torch.tensor(rows), device)
        self._before = send(torch.tensor(chosen)[:, None] - 1, device)  # (R, 1), words before the last
        self._distances = torch.arange(len(self._num_rows), device=device)

    def ban(self, scores: Tensor, words: Tensor, tokens: Tensor, positions: Tensor) -> None:
        """-inf in `scores` where an n-gram that ends at an earlier place would return; `words` are that past."""
        if self._rows is not None:
            words, tokens, positions = words[self._rows], tokens[self._rows], positions[self._rows]
        newest = tokens.gather(1, (positions[:, None] + 1 - self._distances).clamp(min=0, max=tokens.shape[1] - 1))
        length = words.shape[1]
        repeats = torch.arange(length, device=words.device) >= self._before  # (R, T), as the last of an n-gram
        for distance in range(1, min(len(self._num_rows), length)):
            some = slice(self._num_rows[distance])
            repeats[some, distance:] &= words[some, : length - distance] == newest[some, distance, None]
        # Places that ban nothing write to the padding id, which is suppressed anyway.
        banned = torch.where(repeats, words, 0)
        if self._rows is None:
            scores.scatter_(1, banned, float("-inf"))
        else:
            scores[self._rows[:, None], banned] = float("-inf")
