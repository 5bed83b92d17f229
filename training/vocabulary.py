"""A SentencePiece vocabulary with T5's conventions, trained on the texts that the model will learn from."""

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from training.errors import TrainingError


def train_vocabulary(texts: Iterable[str], target: Path, size: int) -> None:
    """Write a unigram model of `size` pieces to `target`: pad 0, end 1, unknown 2, bytes for what it has not seen.

    Speaker marks such as `#Person1#` (DialogSum) are pieces of their own.

    Raises:
        TrainingError: the texts hold fewer different pieces than `size`.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            model_type="unigram",
            character_coverage=0.9998,
            byte_fallback=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            user_defined_symbols=[f"#Person{n}#" for n in range(1, 8)],
            max_sentence_length=20_000,
            input_sentence_size=150_000,
            shuffle_input_sentence=True,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TrainingError(f"data.vocabulary_size is {size}, which these texts do not give: {error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(model.getvalue())
    partial.replace(target)
