"""No network, damaged files, a full disk, files of others: said, and nothing is overwritten."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.hub import (
    AG_NEWS,
    SmallHub,
    places,
    refused,
)
from training.download import main


def test_unknown_task_names_the_known(download: Callable[..., Path]) -> None:
    assert refused(lambda: download("emotions")) == (
        "error: no task emotions; the tasks are summarization, emotion, topic, prose; did you mean emotion?"
    )


def test_no_network_says_what_to_check(tmp_path: Path) -> None:
    command = [*places(tmp_path), "--endpoint", "http://127.0.0.1:9", "emotion"]
    message = refused(lambda: main(command))
    assert "google-research-datasets/go_emotions: the hub cannot be reached" in message
    assert "check the network" in message


def test_incomplete_mirror_names_the_file(hub: SmallHub, download: Callable[..., Path]) -> None:
    del hub.files[f"{AG_NEWS}/test-00000-of-00001.parquet"]
    assert "has no data/test-00000-of-00001.parquet" in refused(lambda: download("topic"))


def test_damaged_fetched_file_is_named(hub: SmallHub, download: Callable[..., Path], tmp_path: Path) -> None:
    download("topic")
    path = tmp_path / "raw" / "ag_news" / "data" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    message = refused(lambda: download("topic", "--overwrite"))
    assert f"{path}: damaged" in message
    assert "delete it and run the command again" in message
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
    assert "goemotions takes 300,000,000,000 MB more" in (message := refused(lambda: download("emotion")))
    assert "--raw" in message
    assert not hub.fetched()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_full_disk_while_writing_is_told(download: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "data" / "emotion").mkdir(parents=True)
    (tmp_path / "data" / "emotion" / "train.jsonl.gz.partial").symlink_to("/dev/full")
    message = refused(lambda: download("emotion"))
    assert "the disk is full" in message
    assert "--output" in message
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_files_of_another_origin_are_not_replaced(download: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "data" / "emotion" / "train.jsonl.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert f"{path} is not of this command" in refused(lambda: download("emotion"))
    assert path.read_bytes() == b"mine"
    download("emotion", "--overwrite")
    assert path.read_bytes() != b"mine"


def test_a_changed_file_is_not_replaced(download: Callable[..., Path]) -> None:
    path = download("emotion") / "emotion" / "dev.jsonl.gz"
    path.write_bytes(b"changed")
    assert f"{path} has the sha256" in (message := refused(lambda: download("emotion")))
    assert "--overwrite makes it again" in message


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
