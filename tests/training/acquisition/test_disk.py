"""Files that are whole or not there, and what a full or forbidden disk is called."""

import errno
import gzip
import json
import os
from pathlib import Path

import pytest

from training.acquisition.disk import JsonLines, disk_errors, read_json, require_free, sha256, write_json
from training.errors import DataError, DownloadError


def test_equal_rows_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with JsonLines(tmp_path / name / "rows.jsonl.gz") as out:
            for number in range(3):
                out.write({"text": "é", "number": number})
        assert out.num_rows == 3
    one, two = (tmp_path / name / "rows.jsonl.gz" for name in ("a", "b"))
    assert sha256(one) == sha256(two)
    assert [json.loads(line)["number"] for line in gzip.decompress(one.read_bytes()).splitlines()] == [0, 1, 2]


def test_a_value_is_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "facts.json"
    assert read_json(path) is None
    write_json(path, {"a": "é"})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_json(path, {"a": "new"})
    assert read_json(path) == {"a": "é"}
    write_json(path, [1])
    assert read_json(path) == [1]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_what_is_no_json_is_an_error_with_the_remedy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged .*; delete it and run the command again"):
        read_json(tmp_path / "facts.json")


def test_what_will_not_fit_is_refused_with_both_sizes(tmp_path: Path) -> None:
    require_free(tmp_path, 1, "a file")
    with pytest.raises(DownloadError, match=r"a file takes 1,000,000,000 MB more and .* has [\d,]+ MB free; make room"):
        require_free(tmp_path, 10**15, "a file")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_that_the_command_goes_on(number: int, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"the disk is full .* with --raw, then run the command again"):
        with_error(OSError(number, "full"), tmp_path)


def test_another_error_names_the_file_and_the_option(tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match="here/x: Permission denied; correct that or name another folder with --raw"
    ):
        with_error(PermissionError(errno.EACCES, "Permission denied", "here/x"), tmp_path)


def test_errors_that_are_no_disk_s_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other"):
        with_error(ValueError("other"), tmp_path)


def with_error(error: Exception, folder: Path) -> None:
    with disk_errors(folder, "--raw"):
        raise error
