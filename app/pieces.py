"""The text of a summary in pieces, while it is decoded. Knows tokens and sentences, nothing of answers."""

from collections.abc import Sequence

from app.engine.request import EngineResult
from model.support import folded, sentence_spans
from model.tokenizer import IncrementalDecoder, Tokenizer


class JoinedText:
    """The texts of `num_parts` decodings, joined by spaces: of each as it grows, once those before it are complete."""

    def __init__(self, tokenizer: Tokenizer, num_parts: int) -> None:
        self._decoders = [IncrementalDecoder(tokenizer) for _ in range(num_parts)]
        self._pending = [""] * num_parts
        self._is_complete = [False] * num_parts
        self._current, self._has_text, self._separator = 0, False, ""

    def take(self, part: int, item: int | EngineResult) -> str:
        """What is new in the joined text with a further token of `part`, or with its end."""
        if isinstance(item, EngineResult):
            self._is_complete[part] = True
        else:
            self._pending[part] += self._decoders[part].push(item)
        new = ""
        while self._current < len(self._pending):
            if text := self._pending[self._current]:
                new += self._separator + text
                self._pending[self._current], self._has_text, self._separator = "", True, ""
            if not self._is_complete[self._current]:
                break
            self._current, self._separator = self._current + 1, " " if self._has_text else ""
        return new


class DistinctSentences:
    """A growing text without the sentences that it had before, in any case and spacing.

    A sentence is held back as long as it may become one of those: as soon as it differs from all, it is given out as
    it grows.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._rest = ""  # what follows the last complete sentence: whitespace and an open one
        self._num_given = 0  # characters of it
        self._gaps: list[str] = []  # before each sentence that was dropped since the last that was given

    def push(self, text: str) -> str:
        """What is certain to follow now that `text` does."""
        return self._take(text, is_end=False)

    def end(self) -> str:
        """What follows as the text is complete."""
        return self._take("", is_end=True)

    def _take(self, text: str, *, is_end: bool) -> str:
        self._rest += text
        spans = sentence_spans(self._rest)
        new, start = "", 0
        for number, span in enumerate(spans):
            is_open = number + 1 == len(spans) and not is_end  # what comes may belong to it
            sentence = _normalised(self._rest[span.start : span.end])
            if self._num_given:
                new += self._rest[self._num_given : span.end]
                self._num_given = span.end
            elif not self._may_repeat(sentence, is_open=is_open):
                new += _separator([*self._gaps, self._rest[start : span.start]]) + self._rest[span.start : span.end]
                self._gaps, self._num_given = [], span.end
            elif not is_open:
                self._gaps.append(self._rest[start : span.start])
            if not is_open:
                self._seen.add(sentence)
                start, self._num_given = span.end, 0
        self._rest = self._rest[start:]
        self._num_given = max(0, self._num_given - start)
        return new

    def _may_repeat(self, sentence: str, *, is_open: bool) -> bool:
        if not is_open:
            return sentence in self._seen
        return any(one.startswith(sentence) for one in self._seen)


def distinct_sentences(text: str) -> str:
    """`text` without the sentences that it has before."""
    sentences = DistinctSentences()
    return sentences.push(text) + sentences.end()


def _normalised(sentence: str) -> str:
    return " ".join(folded(sentence).split())


def _separator(gaps: Sequence[str]) -> str:
    """What parts two sentences between which others were dropped: a space, or what ends any line where it would not."""
    if len(gaps) == 1:
        return gaps[0]
    return " " if all(gap and "\n" not in gap for gap in gaps) else "\n"
