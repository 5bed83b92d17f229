"""What the command writes and what it leaves out, with the reason."""

import gzip
import hashlib
import textwrap
from collections.abc import Callable
from pathlib import Path

from support.hub import (
    AG_NEWS,
    BOOKS,
    CNN,
    GO_EMOTIONS,
    SmallHub,
    books,
    chapters,
    comments,
    csv_file,
    json_lines_file,
    left_out,
    manifest_of,
    news,
    parquet_file,
    refused,
    rows_of,
    sentence,
    text,
)
from training.acquisition.prose import passages
from training.acquisition.sources import SOURCES
from training.data.readers import READERS


def test_every_task_is_written_and_the_readers_take_it(whole: Path) -> None:
    for reader, train, dev in (
        ("summaries", 160, 16),
        ("emotions", 40, 8),
        ("topics", 35, 5),
        ("leads", 35, 5),
        ("prose", 1, 1),
    ):
        assert len(READERS[reader](whole, "train")) >= train
        assert len(READERS[reader](whole, "dev")) >= dev
    assert {example.origin for example in READERS["summaries"](whole, "test")} == {"cnn_dailymail", "booksum"}
    assert rows_of(whole / "summarization" / "test.jsonl.gz")[0]["summary"].endswith(". More follows.")
    assert rows_of(whole / "topic" / "test.jsonl.gz")[0]["description"].startswith("It's so. ")


def test_manifest_says_what_is_there_and_where_it_came_from(whole: Path) -> None:
    manifest = manifest_of(whole)
    for name, facts in manifest["files"].items():
        content = (whole / name).read_bytes()
        assert facts["sha256"] == hashlib.sha256(content).hexdigest()
        assert facts["rows"] == len(gzip.decompress(content).splitlines())
    assert {(s.repo, s.revision) for s in SOURCES} == {
        (facts["repo"], facts["revision"]) for facts in manifest["sources"].values()
    }
    assert manifest["sources"]["goemotions"]["terms"] == "CC BY 4.0"
    assert all(len(source.revision) == 40 for source in SOURCES)
    assert not list(whole.rglob("*.partial"))


def test_the_same_files_give_the_same_folder(download: Callable[..., Path]) -> None:
    first = manifest_of(download("emotion", "topic"))
    again = manifest_of(download("emotion", "topic", "--overwrite"))
    assert again == first


def test_dev_of_ag_news_is_cut_from_train_by_the_text_and_never_from_test(
    hub: SmallHub, download: Callable[..., Path]
) -> None:
    folder = download("topic")
    dev, train, test = (
        [row["description"] for row in rows_of(folder / "topic" / f"{split}.jsonl.gz")]
        for split in ("dev", "train", "test")
    )
    assert len(test) == 8
    assert not set(test) & set(dev)
    assert len(set(dev) | set(train)) == 40
    # In another order and with other rows beside them, the same texts are cut off.
    hub.files[f"{AG_NEWS}/train-00000-of-00001.parquet"] = parquet_file(news(12000, 40)[::-1] + news(99000, 40))
    kept = [row["description"] for row in rows_of(download("topic", "--overwrite") / "topic" / "dev.jsonl.gz")]
    assert set(dev) <= set(kept)
    assert not set(kept) & set(train)


def test_rows_that_repeat_what_is_held_out_go_with_the_reason(hub: SmallHub, download: Callable[..., Path]) -> None:
    test, dev = comments(50, 8), comments(60, 8)
    near = test[1]["text"].removesuffix(".") + " today"
    dev[0] = {**dev[0], "text": test[3]["text"]}
    train = [
        {**test[0], "text": test[0]["text"].upper()},
        {"text": near, "labels": [3], "id": "near"},
        {"text": dev[2]["text"], "labels": [4], "id": "of dev"},
        {"text": "A row that stays.", "labels": [5], "id": "stays"},
        {"text": "A row that stays.", "labels": [5], "id": "again"},
        {"text": "A row that stays.", "labels": [6], "id": "other label"},
        {"text": sentence(50).replace(" ", " not ", 5), "labels": [5], "id": "far"},
    ]
    for name, rows in (("test", test), ("validation", dev), ("train", train)):
        hub.files[f"{GO_EMOTIONS}/{name}-00000-of-00001.parquet"] = parquet_file(rows)
    folder = download("emotion")
    assert [row["id"] for row in rows_of(folder / "emotion" / "train.jsonl.gz")] == ["stays", "other label", "far"]
    assert len(rows_of(folder / "emotion" / "test.jsonl.gz")) == 8
    assert len(rows_of(folder / "emotion" / "dev.jsonl.gz")) == 7
    place = "goemotions/simplified/{}-00000-of-00001.parquet:{}"
    listed = [(row["split"], row["where"], row["reason"], row["duplicate_of"]) for row in left_out(folder)]
    assert listed == [
        ("emotion/dev", place.format("validation", 1), "exact", place.format("test", 4)),
        ("emotion/train", place.format("train", 1), "exact", place.format("test", 1)),
        ("emotion/train", place.format("train", 2), "near", place.format("test", 2)),
        ("emotion/train", place.format("train", 3), "exact", place.format("validation", 3)),
        ("emotion/train", place.format("train", 5), "repeated", "emotion/train"),
    ]
    assert 0.7 <= left_out(folder)[2]["similarity"] < 1
    counted = manifest_of(folder)["splits"]["emotion/train"]
    assert counted == {"read": 7, "written": 3, "exact": 2, "near": 1, "repeated": 1}


def test_a_task_that_comes_later_cleans_the_train_split_of_an_earlier_one(
    hub: SmallHub, download: Callable[..., Path]
) -> None:
    rows = comments(4000, 8)
    rows[5] = {**rows[5], "text": news(13000, 1)[0]["text"].replace("#39;", "'")}
    test = f"{AG_NEWS}/test-00000-of-00001.parquet"
    hub.files[test] = parquet_file(news(13000, 8))
    hub.files[f"{GO_EMOTIONS}/train-00000-of-00001.parquet"] = parquet_file(rows)
    assert len(rows_of(download("emotion") / "emotion" / "train.jsonl.gz")) == 8
    fetched = len(hub.fetched())
    folder = download("topic")
    assert len(rows_of(folder / "emotion" / "train.jsonl.gz")) == 7
    assert [row["duplicate_of"] for row in left_out(folder)] == ["ag_news/data/test-00000-of-00001.parquet:1"]
    assert len(hub.fetched()) == fetched + 2  # the two files of AG News; nothing of GoEmotions again


def test_no_prose_of_a_book_whose_chapters_are_held_out(hub: SmallHub, download: Callable[..., Path]) -> None:
    hub.files["kmfoda/booksum/test.csv"] = csv_file([{**row, "bid": 70001} for row in chapters(7000, 3)])
    hub.files["kmfoda/booksum/train.csv"] = csv_file([*chapters(5000, 3), {**chapters(5500, 1)[0], "bid": 70001}])
    hub.files[BOOKS] = json_lines_file(books(70000, 30))
    folder = download("summarization", "prose")
    assert "70001" not in {row["book"] for row in rows_of(folder / "prose" / "train.jsonl.gz")}
    listed = [row for row in left_out(folder) if row["reason"] == "book"]
    assert {row["split"] for row in listed} == {"summarization/train", "prose/train"}
    assert listed[0]["duplicate_of"] == "booksum/test.csv:1"


def test_chapter_with_a_second_summary_stays(hub: SmallHub, download: Callable[..., Path]) -> None:
    rows = chapters(5000, 3)
    hub.files["kmfoda/booksum/train.csv"] = csv_file([*rows, {**rows[0], "summary_text": "Another view."}, rows[1]])
    folder = download("summarization")
    assert [row["where"] for row in left_out(folder)] == ["booksum/train.csv:5"]


def test_passages_are_running_prose() -> None:
    prose = "\r\n".join(textwrap.wrap(text(1, 16), 70))
    verse = "Roses are red,\r\nviolets are blue,\r\nsugar is sweet,\r\nand so are you."
    table = "Chapter I ........ 7\r\nChapter II ....... 19\r\nChapter III ...... 31."
    licence = "This eBook of Project Gutenberg is for the use of anyone anywhere. " * 8
    book = "\r\n\r\n".join([licence, "CHAPTER I", table, prose, verse, prose.upper(), "Too short."])
    assert passages(book) == [text(1, 16)]


def test_bad_rows_are_told_with_their_place_and_counted(hub: SmallHub, download: Callable[..., Path]) -> None:
    rows = comments(4000, 40)
    rows[2] = {**rows[2], "labels": [28]}
    rows[7] = {**rows[7], "text": "  "}
    rows[9] = {**rows[9], "text": None}
    rows[11] = {**rows[11], "labels": []}
    hub.files[f"{GO_EMOTIONS}/train-00000-of-00001.parquet"] = parquet_file(rows)
    lines = gzip.decompress(json_lines_file(books(70000, 30))).splitlines(keepends=True)
    lines[4] = b'{"id": "70004", "text": \n'
    lines[6] = lines[6].replace(b"Public Domain", b"In copyright")
    hub.files[BOOKS] = gzip.compress(b"".join(lines))
    folder = download("emotion", "prose")
    listed = {row["where"].split("/", 1)[1]: row["why"] for row in left_out(folder) if row["reason"] == "bad"}
    place = "simplified/train-00000-of-00001.parquet:"
    assert listed == {
        f"{place}3": "label 28 is none of 0 to 27",
        f"{place}8": "text is empty",
        f"{place}10": "text is None; it must be a text",
        f"{place}12": "labels are []; there must be one or more",
        "project_gutenberg-dolma-0000.json.gz:5": listed["project_gutenberg-dolma-0000.json.gz:5"],
        "project_gutenberg-dolma-0000.json.gz:7": "the book's licence is 'In copyright', not 'Public Domain'",
    }
    assert listed["project_gutenberg-dolma-0000.json.gz:5"].startswith("not JSON")
    assert manifest_of(folder)["splits"]["emotion/train"] == {"read": 40, "written": 36, "bad": 4}


def test_a_split_of_bad_rows_is_another_format(hub: SmallHub, download: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{**row, "labels": [100]} for row in comments(4000, 30)]
    hub.files[f"{GO_EMOTIONS}/train-00000-of-00001.parquet"] = parquet_file(rows)
    assert "30 of 30 rows are bad" in (message := refused(lambda: download("emotion")))
    assert "train-00000-of-00001.parquet:1: label 100" in message
    assert not (tmp_path / "data" / "emotion" / "train.jsonl.gz").exists()


def test_missing_column_names_the_file(hub: SmallHub, download: Callable[..., Path]) -> None:
    hub.files[f"{CNN}/test-00000-of-00001.parquet"] = parquet_file([{"article": "x", "summary": "y", "id": "1"}])
    assert "test-00000-of-00001.parquet: no column highlights" in refused(lambda: download("summarization"))
