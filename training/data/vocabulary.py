"""A SentencePiece vocabulary with T5's conventions, trained on the texts that the model will learn from."""

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from training.data.typography import LETTERS_WITH_MARKS, LINE_BREAK, normalisation
from training.errors import TrainingError

_proto: Any = sentencepiece_model_pb2  # whose classes are made at its import, unseen by a type checker

# In the order of their worth: as many of those that the texts did not give as there are pieces to be had for them.
_SYMBOLS = "£€¥¢₹₽₩₺₿₴°§©®±·¿¡÷≤≥≈≠∞√†"
_GREEK = "αβγδεμπσλθκρτφχψωηζΔΣΩ"
_EMOJI = (
    "😂❤😍😭😊🙏😘👍😅👏😁♥🔥💔💖💙😢🤔😆🙄💪😉👌🤗💜😔😎😇🌹🤦🎉💞✌✨🤷😱😌🌸🙌😋💗💚😏💛🙂💓🤩😄😀🖤😃💯🙈👇🎶😒🤭❣😜💋👀😪😑"
    "💥🙋😞😩😡🤪👊☀😥🤤👉💃😳✋😚😝😴🌟😬🙃🍀🌷😻😓🥰🥺🤣😤😠😐🙁☹☺😟😨😰😷🤒🎂🎁🍕🐶🐱🚗✈🏠⚽"
)
CHARACTERS = (
    LINE_BREAK + "".join(map(chr, range(0x21, 0x7F))) + _SYMBOLS + LETTERS_WITH_MARKS[:99] + _EMOJI[:40] + _GREEK
) + (_EMOJI[40:] + LETTERS_WITH_MARKS[99:] + "".join(map(chr, range(0x100, 0x180))))


def train_vocabulary(texts: Iterable[str], target: Path, size: int) -> None:
    """Write a unigram model of `size` pieces to `target`: pad 0, end 1, unknown 2.

    Speaker marks such as `#Person1#` (DialogSum) are pieces of their own; so are line breaks and the characters of
    `with_characters`, whatever the texts have. Marks of typesetting are read as `training.data.typography` says.

    Raises:
        TrainingError: the texts hold fewer different pieces than `size`.
    """
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder, "rules.tsv")
        rules.write_text(_as_tsv(normalisation(None, keep_lines=False)), encoding="utf-8")
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=size,
                model_type="unigram",
                character_coverage=0.9998,
                byte_fallback=True,  # 256 pieces, for `with_characters`
                pad_id=0,
                eos_id=1,
                unk_id=2,
                bos_id=-1,
                user_defined_symbols=[f"#Person{n}#" for n in range(1, 8)],
                normalization_rule_tsv=str(rules),
                max_sentence_length=20_000,
                input_sentence_size=150_000,
                shuffle_input_sentence=True,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise TrainingError(f"data.vocabulary_size is {size}, which these texts do not give: {error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(with_characters(model.getvalue()))
    partial.replace(target)


def with_characters(model: bytes) -> bytes:
    """The SentencePiece model with `CHARACTERS` in the place of its pieces for single bytes; other ids stay.

    A byte is half a character: a network that writes one must write the next right, or there is U+FFFD in its text.
    What is no piece is unknown from now on, and is read but never written.
    """
    proto = _proto.ModelProto.FromString(model)
    pieces = proto.pieces
    known = {piece.piece for piece in pieces}
    missing = iter([character for character in dict.fromkeys(CHARACTERS) if character not in known])
    lowest = min(piece.score for piece in pieces)
    for piece in pieces:
        if piece.type == piece.BYTE:
            piece.type = piece.UNUSED
            if character := next(missing, None):
                piece.piece, piece.type, piece.score = character, piece.NORMAL, lowest - 1
    proto.trainer_spec.byte_fallback = False
    return _normalising(proto, keep_lines=True)


def _normalising(proto: Any, *, keep_lines: bool) -> bytes:
    known = {piece.piece for piece in proto.pieces if len(piece.piece) == 1}
    sentencepiece.set_min_log_level(2)
    table = normalisation(known, keep_lines=keep_lines)
    normalizer = sentencepiece.SentencePieceNormalizer(norm_map=list(table.items()))
    made = _proto.NormalizerSpec.FromString(normalizer.serialized_normalizer_spec())
    proto.normalizer_spec.precompiled_charsmap = made.precompiled_charsmap
    proto.normalizer_spec.name = "nmt_nfkc_typography"
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    proto.trainer_spec.ClearField("input")
    model: bytes = proto.SerializeToString()
    return model


def _as_tsv(table: dict[str, str]) -> str:
    def code_points(text: str) -> str:
        return " ".join(f"{ord(character):X}" for character in text)

    return "".join(f"{code_points(text)}\t{code_points(normal)}\n" for text, normal in table.items())
