"""A second call, a killed one, one that was cut short: nothing is fetched twice and nothing lost."""

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.hub import (
    AG_NEWS,
    CNN,
    SmallHub,
    articles,
    manifest_of,
    news,
    parquet_file,
    places,
)


def test_a_second_run_asks_for_nothing(hub: SmallHub, download: Callable[..., Path]) -> None:
    download("emotion")
    asked = len(hub.asked)
    assert asked == 4  # the listing and three files
    download("emotion")
    assert len(hub.asked) == asked


@pytest.mark.slow
def test_killed_download_goes_on_in_the_middle_of_the_file(hub: SmallHub, tmp_path: Path) -> None:
    rows = [{**row, "unused": hashlib.shake_256(row["text"].encode()).digest(2**20)} for row in news(20000, 25)]
    train = f"{AG_NEWS}/train-00000-of-00001.parquet"
    hub.files[train] = parquet_file(rows)
    hub.stall_after = 14 * 2**20
    command = [sys.executable, "-m", "training.download", *places(tmp_path), "--endpoint", hub.url, "emotion", "topic"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    folder = tmp_path / "raw" / "ag_news" / "data"
    _wait_for(lambda: any(part.stat().st_size for part in folder.glob("*.part")))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    came = next(folder.glob("*.part")).stat().st_size
    before = len(hub.asked)
    hub.stall_after = None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert hub.asked[before:] == [("GET", train, came), ("GET", f"{AG_NEWS}/test-00000-of-00001.parquet", 0)]
    assert (folder / "train-00000-of-00001.parquet").read_bytes() == hub.files[train]
    assert manifest_of(tmp_path / "data")["splits"]["topic/train"]["read"] == 24


@pytest.mark.slow
def test_killed_while_it_writes_it_leaves_what_was_there(
    hub: SmallHub, download: Callable[..., Path], tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in sorted(download("emotion").rglob("*.*"))}
    hub.files[f"{CNN}/train-00002-of-00003.parquet"] = parquet_file(articles(30000, 600))
    command = [sys.executable, "-m", "training.download", *places(tmp_path), "--endpoint", hub.url, "summarization"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    partial = tmp_path / "data" / "summarization" / "train.jsonl.gz.partial"
    _wait_for(lambda: partial.exists() and partial.stat().st_size > 0)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "data" / "summarization" / "train.jsonl.gz").exists()
    fetched = len(hub.fetched())
    hub.files[f"{CNN}/train-00002-of-00003.parquet"] = b""  # it must not be asked for again
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert len(hub.fetched()) == fetched
    assert manifest_of(tmp_path / "data")["files"]["summarization/train.jsonl.gz"]["rows"] == 720


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
