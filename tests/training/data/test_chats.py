"""Varied chats: names exchanged in source and summary alike, and every form still shows who spoke."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.support import unsupported
from support.training_runs import write_jsonl
from training.data.chats import speakers, varied
from training.data.examples import Example
from training.data.more import CHATS, read_chats, read_documents, read_masked_sentences, read_varied_chats

CHAT = Example(
    "Amanda: I baked cookies for $5 :)\nJerry: Sure!\nAmanda: I'll bring you some, Jerry. Jerrycan?",
    "samsum",
    summary="Amanda will bring Jerry some cookies for $5.",
)
OTHER = Example("Zoë: hi\nBen Stone: hello\nZoë: bye, Ben", "samsum", summary="Ben greets Zoë.")


def test_names_are_exchanged_in_source_and_summary_alike() -> None:
    for example in varied([CHAT, OTHER], copies=30, seed=1):
        assert example.summary is not None
        assert unsupported(example.summary, example.source) == []
        if "cookies" in example.source:
            assert "Jerrycan" in example.source  # part of a word is no name
            first, second = example.summary.split()[0], example.summary.split()[3]
            assert first in example.source
            assert second in example.source


def test_copies_differ_and_the_same_seed_gives_the_same() -> None:
    copies = list(varied([CHAT, OTHER], copies=20, seed=1))
    assert copies == list(varied([CHAT, OTHER], copies=20, seed=1))
    assert len({example.source for example in copies}) > 20
    sources = " ".join(example.source for example in copies)
    assert any(emoji in sources for emoji in "🙂😊😀")
    assert "£" in sources or "€" in sources
    assert any("\n" not in example.source for example in copies)


def test_every_process_gives_the_same() -> None:
    names = ["Anna", "Boris", "Clara", "Dmitri", "Elena", "Farid"]
    chat = Example(
        f"Tom: I saw {', '.join(names)}\nUma: ok", "samsum", summary=f"Tom saw {' and '.join(names)}; and Uma agrees."
    )
    imports = "from training.data.chats import varied; from training.data.examples import Example"
    code = f"{imports}; print(list(varied([{chat!r}], 9, 0)))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "123"
    }
    assert len(printed) == 1


def test_speakers_come_in_order_and_once() -> None:
    assert speakers(CHAT.source) == ["Amanda", "Jerry"]
    assert speakers(OTHER.source) == ["Zoë", "Ben Stone"]
    assert speakers("no chat at all\n12:30 is a time") == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    chats = [
        {"document": f"Amanda: I have {n} cookies.\nJerry: Sure!", "summary": f"Amanda has {n} cookies.", "id": f"{n}"}
        for n in range(100)
    ]
    invented = {"document": "Amanda: hi\nJerry: hello", "summary": "Then Jennifer greets Rebecca.", "id": "x"}
    write_jsonl(tmp_path / CHATS, [*chats, invented])
    return tmp_path


def test_held_out_chats_are_in_no_train_row(folder: Path) -> None:
    train, dev = read_chats(folder, "train"), read_chats(folder, "dev")
    assert 1 <= len(dev) <= 20
    assert not {example.source for example in train} & {example.source for example in dev}
    held_out = {example.source.partition(" have ")[2] for example in dev}
    copied = {example.source.partition(" have ")[2] for example in read_varied_chats(folder, "train")}
    assert not held_out & copied
    assert read_varied_chats(folder, "dev") == []


def test_a_summary_that_invents_a_name_teaches_nothing(folder: Path) -> None:
    assert not any("Jennifer" in (example.summary or "") for example in read_chats(folder, "train"))


def test_a_masked_sentence_is_asked_for_and_the_rest_stays(tmp_path: Path) -> None:
    text = " ".join(
        f"The council of town number {n} voted on Tuesday to build a new bridge over the old river." for n in range(8)
    )
    for name in ("guardian", "imdb_reviews", "reuters21578", "wikipedia_passages"):
        write_jsonl(tmp_path / "more" / "pretrain" / f"{name}.jsonl.gz", [{"text": text}])
    examples = read_masked_sentences(tmp_path, "train")
    masked = [example for example in examples if "_" in example.source]
    assert 0 < len(masked) < len(examples)
    for example in examples:
        assert example.summary
        assert (example.summary in example.source) == (example not in masked)
    assert read_masked_sentences(tmp_path, "dev") == []
    assert read_documents(tmp_path, "dev") == []
