"""The whole command against a real server on loopback: what it writes, what it leaves out, how it goes on."""

import gzip
import hashlib
import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_hub import (
    SmallHub,
    articles,
    books,
    chapters,
    comments,
    csv_file,
    json_lines_file,
    news,
    parquet_file,
    sentence,
    serving,
    small_files,
    text,
)

from training.acquisition.prose import passages
from training.acquisition.sources import SOURCES
from training.data.readers import READERS
from training.download import main

_GO = "google-research-datasets/go_emotions/simplified"
_AG = "fancyzhx/ag_news/data"
_CNN = "abisee/cnn_dailymail/3.0.0"
_BOOKS = "common-pile/project_gutenberg_filtered/project_gutenberg-dolma-0000.json.gz"


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Every file of every source; not to be written to."""
    return small_files()


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[SmallHub]:
    """A hub that answers; its files are the test's own."""
    with serving(SmallHub(dict(files))) as hub:
        yield hub


@pytest.fixture
def download(hub: SmallHub, tmp_path: Path) -> Callable[..., Path]:
    """The command, in this process; returns the data folder."""

    def run(*arguments: str) -> Path:
        main([*_places(tmp_path), "--endpoint", hub.url, *arguments])
        return tmp_path / "data"

    return run


@pytest.fixture(scope="module")
def whole(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every task; not to be written to."""
    place = tmp_path_factory.mktemp("whole")
    with serving(SmallHub(files)) as hub:
        main([*_places(place), "--endpoint", hub.url])
    return place / "data"


def refused(run: Callable[[], Any]) -> str:
    """What the command says when it ends with an error."""
    with pytest.raises(SystemExit) as stop:
        run()
    assert isinstance(stop.value.code, str)
    return stop.value.code


def _places(tmp_path: Path) -> list[str]:
    return ["--output", str(tmp_path / "data"), "--raw", str(tmp_path / "raw")]


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _left_out(folder: Path) -> list[dict[str, Any]]:
    return _rows(folder / "left_out.jsonl.gz")


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


# What it writes


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
    assert _rows(whole / "summarization" / "test.jsonl.gz")[0]["summary"].endswith(". More follows.")
    assert _rows(whole / "topic" / "test.jsonl.gz")[0]["description"].startswith("It's so. ")


def test_manifest_says_what_is_there_and_where_it_came_from(whole: Path) -> None:
    manifest = _manifest(whole)
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
    first = _manifest(download("emotion", "topic"))
    again = _manifest(download("emotion", "topic", "--overwrite"))
    assert again == first


def test_dev_of_ag_news_is_cut_from_train_by_the_text_and_never_from_test(
    hub: SmallHub, download: Callable[..., Path]
) -> None:
    folder = download("topic")
    dev, train, test = (
        [row["description"] for row in _rows(folder / "topic" / f"{split}.jsonl.gz")]
        for split in ("dev", "train", "test")
    )
    assert len(test) == 8
    assert not set(test) & set(dev)
    assert len(set(dev) | set(train)) == 40
    # In another order and with other rows beside them, the same texts are cut off.
    hub.files[f"{_AG}/train-00000-of-00001.parquet"] = parquet_file(news(12000, 40)[::-1] + news(99000, 40))
    kept = [row["description"] for row in _rows(download("topic", "--overwrite") / "topic" / "dev.jsonl.gz")]
    assert set(dev) <= set(kept)
    assert not set(kept) & set(train)


# What it leaves out


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
        hub.files[f"{_GO}/{name}-00000-of-00001.parquet"] = parquet_file(rows)
    folder = download("emotion")
    assert [row["id"] for row in _rows(folder / "emotion" / "train.jsonl.gz")] == ["stays", "other label", "far"]
    assert len(_rows(folder / "emotion" / "test.jsonl.gz")) == 8
    assert len(_rows(folder / "emotion" / "dev.jsonl.gz")) == 7
    place = "goemotions/simplified/{}-00000-of-00001.parquet:{}"
    told = [(row["split"], row["where"], row["reason"], row["twin"]) for row in _left_out(folder)]
    assert told == [
        ("emotion/dev", place.format("validation", 1), "exact", place.format("test", 4)),
        ("emotion/train", place.format("train", 1), "exact", place.format("test", 1)),
        ("emotion/train", place.format("train", 2), "near", place.format("test", 2)),
        ("emotion/train", place.format("train", 3), "exact", place.format("validation", 3)),
        ("emotion/train", place.format("train", 5), "repeated", "emotion/train"),
    ]
    assert 0.7 <= _left_out(folder)[2]["similarity"] < 1
    counted = _manifest(folder)["splits"]["emotion/train"]
    assert counted == {"read": 7, "written": 3, "exact": 2, "near": 1, "repeated": 1}


def test_a_task_that_comes_later_cleans_the_train_split_of_an_earlier_one(
    hub: SmallHub, download: Callable[..., Path]
) -> None:
    rows = comments(4000, 8)
    rows[5] = {**rows[5], "text": news(13000, 1)[0]["text"].replace("#39;", "'")}
    test = f"{_AG}/test-00000-of-00001.parquet"
    hub.files[test] = parquet_file(news(13000, 8))
    hub.files[f"{_GO}/train-00000-of-00001.parquet"] = parquet_file(rows)
    assert len(_rows(download("emotion") / "emotion" / "train.jsonl.gz")) == 8
    fetched = len(hub.fetched())
    folder = download("topic")
    assert len(_rows(folder / "emotion" / "train.jsonl.gz")) == 7
    assert [row["twin"] for row in _left_out(folder)] == ["ag_news/data/test-00000-of-00001.parquet:1"]
    assert len(hub.fetched()) == fetched + 2  # the two files of AG News; nothing of GoEmotions again


def test_no_prose_of_a_book_whose_chapters_are_held_out(hub: SmallHub, download: Callable[..., Path]) -> None:
    hub.files["kmfoda/booksum/test.csv"] = csv_file([{**row, "bid": 70001} for row in chapters(7000, 3)])
    hub.files["kmfoda/booksum/train.csv"] = csv_file([*chapters(5000, 3), {**chapters(5500, 1)[0], "bid": 70001}])
    hub.files[_BOOKS] = json_lines_file(books(70000, 30))
    folder = download("summarization", "prose")
    assert "70001" not in {row["book"] for row in _rows(folder / "prose" / "train.jsonl.gz")}
    told = [row for row in _left_out(folder) if row["reason"] == "book"]
    assert {row["split"] for row in told} == {"summarization/train", "prose/train"}
    assert told[0]["twin"] == "booksum/test.csv:1"


def test_chapter_with_a_second_summary_stays(hub: SmallHub, download: Callable[..., Path]) -> None:
    rows = chapters(5000, 3)
    hub.files["kmfoda/booksum/train.csv"] = csv_file([*rows, {**rows[0], "summary_text": "Another view."}, rows[1]])
    folder = download("summarization")
    assert [row["where"] for row in _left_out(folder)] == ["booksum/train.csv:5"]


def test_passages_are_running_prose() -> None:
    prose = "\r\n".join(textwrap.wrap(text(1, 16), 70))
    verse = "Roses are red,\r\nviolets are blue,\r\nsugar is sweet,\r\nand so are you."
    table = "Chapter I ........ 7\r\nChapter II ....... 19\r\nChapter III ...... 31."
    licence = "This eBook of Project Gutenberg is for the use of anyone anywhere. " * 8
    book = "\r\n\r\n".join([licence, "CHAPTER I", table, prose, verse, prose.upper(), "Too short."])
    assert passages(book) == [text(1, 16)]


# Bad rows


def test_bad_rows_are_told_with_their_place_and_counted(hub: SmallHub, download: Callable[..., Path]) -> None:
    rows = comments(4000, 40)
    rows[2] = {**rows[2], "labels": [28]}
    rows[7] = {**rows[7], "text": "  "}
    rows[9] = {**rows[9], "text": None}
    rows[11] = {**rows[11], "labels": []}
    hub.files[f"{_GO}/train-00000-of-00001.parquet"] = parquet_file(rows)
    lines = gzip.decompress(json_lines_file(books(70000, 30))).splitlines(keepends=True)
    lines[4] = b'{"id": "70004", "text": \n'
    lines[6] = lines[6].replace(b"Public Domain", b"In copyright")
    hub.files[_BOOKS] = gzip.compress(b"".join(lines))
    folder = download("emotion", "prose")
    told = {row["where"].split("/", 1)[1]: row["why"] for row in _left_out(folder) if row["reason"] == "bad"}
    place = "simplified/train-00000-of-00001.parquet:"
    assert told == {
        f"{place}3": "label 28 is none of 0 to 27",
        f"{place}8": "text is empty",
        f"{place}10": "text is None; it must be a text",
        f"{place}12": "labels are []; there must be one or more",
        "project_gutenberg-dolma-0000.json.gz:5": told["project_gutenberg-dolma-0000.json.gz:5"],
        "project_gutenberg-dolma-0000.json.gz:7": "the book's licence is 'In copyright', not 'Public Domain'",
    }
    assert told["project_gutenberg-dolma-0000.json.gz:5"].startswith("not JSON")
    assert _manifest(folder)["splits"]["emotion/train"] == {"read": 40, "written": 36, "bad": 4}


def test_a_split_of_bad_rows_is_another_format(hub: SmallHub, download: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{**row, "labels": [100]} for row in comments(4000, 30)]
    hub.files[f"{_GO}/train-00000-of-00001.parquet"] = parquet_file(rows)
    assert "30 of 30 rows are bad" in (told := refused(lambda: download("emotion")))
    assert "train-00000-of-00001.parquet:1: label 100" in told
    assert not (tmp_path / "data" / "emotion" / "train.jsonl.gz").exists()


def test_missing_column_names_the_file(hub: SmallHub, download: Callable[..., Path]) -> None:
    hub.files[f"{_CNN}/test-00000-of-00001.parquet"] = parquet_file([{"article": "x", "summary": "y", "id": "1"}])
    assert "test-00000-of-00001.parquet: no column highlights" in refused(lambda: download("summarization"))


# Going on


def test_a_second_run_asks_for_nothing(hub: SmallHub, download: Callable[..., Path]) -> None:
    download("emotion")
    asked = len(hub.asked)
    assert asked == 4  # the listing and three files
    download("emotion")
    assert len(hub.asked) == asked


@pytest.mark.slow
def test_killed_download_goes_on_in_the_middle_of_the_file(hub: SmallHub, tmp_path: Path) -> None:
    rows = [{**row, "unused": hashlib.shake_256(row["text"].encode()).digest(2**20)} for row in news(20000, 25)]
    train = f"{_AG}/train-00000-of-00001.parquet"
    hub.files[train] = parquet_file(rows)
    hub.stall_after = 14 * 2**20
    command = [sys.executable, "-m", "training.download", *_places(tmp_path), "--endpoint", hub.url, "emotion", "topic"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    folder = tmp_path / "raw" / "ag_news" / "data"
    _wait_for(lambda: any(part.stat().st_size for part in folder.glob("*.part")))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    came = next(folder.glob("*.part")).stat().st_size
    before = len(hub.asked)
    hub.stall_after = None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert hub.asked[before:] == [("GET", train, came), ("GET", f"{_AG}/test-00000-of-00001.parquet", 0)]
    assert (folder / "train-00000-of-00001.parquet").read_bytes() == hub.files[train]
    assert _manifest(tmp_path / "data")["splits"]["topic/train"]["read"] == 24


@pytest.mark.slow
def test_killed_while_it_writes_it_leaves_what_was_there(
    hub: SmallHub, download: Callable[..., Path], tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in sorted(download("emotion").rglob("*.*"))}
    hub.files[f"{_CNN}/train-00002-of-00003.parquet"] = parquet_file(articles(30000, 600))
    command = [sys.executable, "-m", "training.download", *_places(tmp_path), "--endpoint", hub.url, "summarization"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    partial = tmp_path / "data" / "summarization" / "train.jsonl.gz.partial"
    _wait_for(lambda: partial.exists() and partial.stat().st_size > 0)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "data" / "summarization" / "train.jsonl.gz").exists()
    fetched = len(hub.fetched())
    hub.files[f"{_CNN}/train-00002-of-00003.parquet"] = b""  # it must not be asked for again
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert len(hub.fetched()) == fetched
    assert _manifest(tmp_path / "data")["files"]["summarization/train.jsonl.gz"]["rows"] == 720


def test_a_commit_that_was_cut_short_is_completed(hub: SmallHub, download: Callable[..., Path]) -> None:
    # The state between two of its renames: the manifest is written, a file still has its name of before.
    folder = download("emotion")
    train = folder / "emotion" / "train.jsonl.gz"
    content = train.read_bytes()
    train.rename(train.with_name("train.jsonl.gz.partial"))
    asked = len(hub.asked)
    download("emotion")
    assert train.read_bytes() == content
    assert len(hub.asked) == asked


def _wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end, "it did not happen within 30 s"
        time.sleep(0.005)


# Refusals


def test_unknown_task_names_the_known(download: Callable[..., Path]) -> None:
    assert refused(lambda: download("emotions")) == (
        "error: no task emotions; the tasks are summarization, emotion, topic, prose; did you mean emotion?"
    )


def test_no_network_says_what_to_check(tmp_path: Path) -> None:
    command = [*_places(tmp_path), "--endpoint", "http://127.0.0.1:9", "emotion"]
    told = refused(lambda: main(command))
    assert "google-research-datasets/go_emotions: the hub cannot be reached" in told
    assert "check the network" in told


def test_incomplete_mirror_names_the_file(hub: SmallHub, download: Callable[..., Path]) -> None:
    del hub.files[f"{_AG}/test-00000-of-00001.parquet"]
    assert "has no data/test-00000-of-00001.parquet" in refused(lambda: download("topic"))


def test_damaged_fetched_file_is_named(hub: SmallHub, download: Callable[..., Path], tmp_path: Path) -> None:
    download("topic")
    path = tmp_path / "raw" / "ag_news" / "data" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    told = refused(lambda: download("topic", "--overwrite"))
    assert f"{path}: damaged" in told
    assert "delete it and run the command again" in told
    path.unlink()
    fetched = len(hub.fetched())
    download("topic", "--overwrite")
    assert len(hub.fetched()) == fetched + 1


def test_what_comes_damaged_is_thrown_away(hub: SmallHub, download: Callable[..., Path]) -> None:
    hub.corrupt = True
    assert "it was thrown away: run the command again" in refused(lambda: download("emotion"))
    hub.corrupt = False
    download("emotion")


def test_what_cannot_fit_is_refused_before_it_is_fetched(hub: SmallHub, download: Callable[..., Path]) -> None:
    hub.announced_size = 10**17
    assert "goemotions takes 300,000,000,000 MB more" in (told := refused(lambda: download("emotion")))
    assert "--raw" in told
    assert not hub.fetched()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_full_disk_while_writing_is_told(download: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "data" / "emotion").mkdir(parents=True)
    (tmp_path / "data" / "emotion" / "train.jsonl.gz.partial").symlink_to("/dev/full")
    told = refused(lambda: download("emotion"))
    assert "the disk is full" in told
    assert "--output" in told
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_files_of_another_origin_are_not_replaced(download: Callable[..., Path], tmp_path: Path) -> None:
    mine = tmp_path / "data" / "emotion" / "train.jsonl.gz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert f"{mine} is not of this command" in refused(lambda: download("emotion"))
    assert mine.read_bytes() == b"mine"
    download("emotion", "--overwrite")
    assert mine.read_bytes() != b"mine"


def test_a_changed_file_is_not_replaced(download: Callable[..., Path]) -> None:
    path = download("emotion") / "emotion" / "dev.jsonl.gz"
    path.write_bytes(b"changed")
    assert f"{path} has the sha256" in (told := refused(lambda: download("emotion")))
    assert "--overwrite makes it anew" in told


def test_another_revision_needs_the_flag(download: Callable[..., Path]) -> None:
    path = download("emotion") / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sources"]["goemotions"]["revision"] = "0" * 40
    path.write_text(json.dumps(manifest))
    assert "made from other commits" in refused(lambda: download("emotion"))
    download("emotion", "--overwrite")


def test_damaged_manifest_is_named(download: Callable[..., Path]) -> None:
    path = download("emotion") / "manifest.json"
    path.write_text(path.read_text()[:100])
    assert f"{path}: damaged" in refused(lambda: download("emotion"))
