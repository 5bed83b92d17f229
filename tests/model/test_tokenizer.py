"""Our ids against `transformers`' T5 tokenizer on odd lines; text as it grows; files that are no tokenizer."""

import gzip
import io
import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
import sentencepiece
from transformers import T5Tokenizer

from model.errors import TokenizerError
from model.tokenizer import IncrementalDecoder, Tokenizer

SHARED = Path(__file__).parents[2] / "../shared/data"
REAL = SHARED / "tokenizer/spiece.model"

# Left out: letters with several combining marks, joiners after a letter, decomposed Hangul. There `transformers`
# normalises by grapheme, SentencePiece (which FLAN-T5 was trained with, and which we run) by its longest rule.
FRAGMENTS = [
    *"abcxyzABC019.,;:!?'\"-()[]{}<>/\\&#@%$*_~^|`+=▁",
    *"éñßİﬁⅣ½①Å…—“”‘’€☃\ufffd\ue000𝒜𠮷",
    *("\t", "\n", "\r\n", "  ", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\u202e", "\u2028"),
    *("\x00", "\x01", "\x1f", "\x7f", "\x9f", "e\u0301", "n\u0303", "A\u030a"),
    *("中文", "日本語", "한국어", "عربي", "עברית", "हिन्दी", "ไทย"),
    *("😀", "👍🏽", "🇩🇪", "👩\u200d👩\u200d👧", "🏳️\u200d🌈"),
    *("the", "and", " bridge", " council", "http://a.b/c?d=e", "#Person1#:", "12,345.67"),
]


def generated_lines(count: int) -> list[str]:
    choose = random.Random(0)
    pieces = [choose.choices(FRAGMENTS, k=choose.randint(0, 30)) for _ in range(count)]
    return ["".join(piece + choose.choice(("", "", " ")) for piece in line) for line in pieces]


def reference(spiece: Path, folder: Path) -> T5Tokenizer:
    shutil.copyfile(spiece, folder / "spiece.model")
    return T5Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary without byte fallback, as T5's: what it does not know is unknown."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(generated_lines(400) + ["The council voted to build a new bridge."] * 20),
        model_writer=model,
        vocab_size=300,
        character_coverage=0.98,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("trained") / "spiece.model"
    path.write_bytes(model.getvalue())
    return path


def test_ids_equal_on_generated_lines_with_a_trained_vocabulary(trained: Path, tmp_path: Path) -> None:
    ours, theirs = Tokenizer(trained), reference(trained, tmp_path)
    lines = generated_lines(1500)
    ids = [ours.encode_source(line) for line in lines]
    assert ids == theirs(lines)["input_ids"]
    assert any(2 in row for row in ids), "no line has an unknown character"


@pytest.mark.skipif(not REAL.is_file(), reason="the published spiece.model is not beside this checkout")
def test_ids_equal_on_generated_lines_with_the_published_vocabulary(tmp_path: Path) -> None:
    ours, theirs = Tokenizer(REAL), reference(REAL, tmp_path)
    lines = generated_lines(1500)
    assert [ours.encode_source(line) for line in lines] == theirs(lines)["input_ids"]


@pytest.mark.skipif(not REAL.is_file(), reason="the published spiece.model is not beside this checkout")
def test_ids_equal_on_real_lines_with_the_published_vocabulary(tmp_path: Path) -> None:
    ours, theirs = Tokenizer(REAL), reference(REAL, tmp_path)
    lines = []
    for name, column in (("emotion", "text"), ("topic", "description"), ("summarization", "document")):
        with gzip.open(SHARED / name / "dev.jsonl.gz", "rt", encoding="utf-8") as rows:
            lines += [json.loads(row)[column] for row, _ in zip(rows, range(400), strict=False)]
    assert len(lines) == 1200
    assert [ours.encode_source(line) for line in lines] == theirs(lines)["input_ids"]
    assert [ours.decode(ours.encode(line)) for line in lines] == [
        theirs.decode(row, skip_special_tokens=True).strip() for row in theirs(lines)["input_ids"]
    ]


def test_spelled_control_tokens_are_text(trained: Path) -> None:
    tokenizer = Tokenizer(trained)
    assert not {0, 1} & set(tokenizer.encode("</s> <pad> <extra_id_0>"))
    assert max(tokenizer.encode("<extra_id_0>")) < tokenizer.num_pieces


def test_control_tokens_sentinels_and_padding_rows_have_no_text(spiece: Path) -> None:
    tokenizer = Tokenizer(spiece)
    ids = tokenizer.encode("a new bridge")
    assert tokenizer.decode([0, *ids, 2, 1, tokenizer.num_pieces, tokenizer.num_pieces + 99]) == "a new bridge"


def test_cut_source_keeps_its_end_token(trained: Path) -> None:
    tokenizer = Tokenizer(trained)
    whole = tokenizer.encode_source("The council voted to build a new bridge.", "summarize: ")
    assert whole == [*tokenizer.encode("summarize: The council voted to build a new bridge."), 1]
    assert tokenizer.encode_source("The council voted to build a new bridge.", "summarize: ", 5) == [*whole[:4], 1]
    assert tokenizer.encode_source("a", max_tokens=1) == [1]


def test_increments_add_up_and_never_hold_half_a_character(spiece: Path) -> None:
    tokenizer = Tokenizer(spiece)  # trained on English: CJK and emoji are bytes
    for line in [*generated_lines(300), "voilà 日本語 👩‍👩‍👧 €5", "  two  spaces  ", "\ufffd", ""]:
        decoder = IncrementalDecoder(tokenizer)
        ids = tokenizer.encode(line)
        whole = tokenizer.decode(ids)
        parts = [decoder.push(token_id) for token_id in ids]
        for number, part in enumerate(parts):
            assert whole.startswith("".join(parts[: number + 1])), (line, part)
        assert "".join(parts) == whole


def test_character_in_bytes_comes_with_its_last_byte(spiece: Path) -> None:
    tokenizer = Tokenizer(spiece)
    decoder = IncrementalDecoder(tokenizer)
    ids = tokenizer.encode("😀")
    assert len(ids) >= 4
    assert [decoder.push(token_id) for token_id in ids][-5:] == [*[""] * (min(len(ids), 5) - 1), "😀"]


@pytest.mark.parametrize("character", ["é", "“", "😀"])
def test_character_that_is_cut_is_dropped(spiece: Path, character: str) -> None:
    tokenizer = Tokenizer(spiece)
    ids = tokenizer.encode(f"a {character}")
    num_bytes = len(character.encode())
    for missing in range(1, num_bytes):
        decoder = IncrementalDecoder(tokenizer)
        assert tokenizer.decode(ids[:-missing]) == "a"
        assert "".join(map(decoder.push, ids[:-missing])) == "a"


def test_bytes_that_are_no_character_are_shown(spiece: Path) -> None:
    tokenizer = Tokenizer(spiece)
    lead, *rest = (tokenizer.byte_pieces[byte] for byte in "“".encode())
    words = tokenizer.encode("a bridge")
    assert "\ufffd" in tokenizer.decode([lead, *words])
    assert tokenizer.decode([*words, rest[0]]) == "a bridge\ufffd", "a continuation byte is the start of nothing"


def test_byte_pieces_are_in_the_order_of_their_bytes(spiece: Path) -> None:
    tokenizer = Tokenizer(spiece)
    assert len(tokenizer.byte_pieces) == 256
    for character in "é“😀":
        ids = [tokenizer.byte_pieces[byte] for byte in character.encode()]
        assert tokenizer.decode(ids) == character


def test_vocabulary_without_byte_fallback_has_no_byte_pieces(trained: Path) -> None:
    assert Tokenizer(trained).byte_pieces == ()


@pytest.mark.skipif(not REAL.is_file(), reason="the published spiece.model is not beside this checkout")
def test_published_vocabulary_has_no_byte_pieces() -> None:
    assert Tokenizer(REAL).byte_pieces == ()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"spiece\.model: no such file"):
        Tokenizer(tmp_path / "spiece.model")


@pytest.mark.parametrize("content", [b"", b"{}", pickle.dumps({"a": 1}), bytes(1000)], ids=repr)
def test_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        Tokenizer(tmp_path / "spiece.model")


def test_vocabulary_of_another_convention_is_refused(tmp_path: Path) -> None:
    model = io.BytesIO()
    lines = iter(["some words of some kind"] * 5)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, vocab_size=16, minloglevel=2)
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    with pytest.raises(TokenizerError, match=r"\(-1, 2, 0\); a T5 vocabulary has \(0, 1, 2\)"):
        Tokenizer(tmp_path / "spiece.model")
