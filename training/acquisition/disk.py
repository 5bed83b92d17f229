"""Files that are there whole or not at all, and our error for a full disk."""

import errno
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.errors import DataError, DownloadError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class JsonLines:
    """A `.jsonl.gz` file being written; equal rows give equal bytes. Leaving the block puts it safely on the disk."""

    def __init__(self, path: Path) -> None:
        self.num_rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._zip = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, compresslevel=6, mtime=0)

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._zip.close()
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._zip.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.num_rows += 1


def sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """`value` at `path`, which holds the old or the new, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        out.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def read_json(path: Path) -> Any:
    """The value at `path`, None where there is no such file.

    Raises:
        DataError: it is not JSON.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and run the command again") from error


def require_free(folder: Path, needed: int, what: str) -> None:
    """Refuse what will not fit.

    Raises:
        DownloadError: says how much there is and how much it takes.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{what} takes {needed / 1e6:,.0f} MB more and {folder} has {free / 1e6:,.0f} MB free; "
            "make room there or name another folder with --raw"
        )


@contextmanager
def disk_errors(folder: Path, option: str) -> Iterator[None]:
    """Within the block, what the operating system refuses becomes our own error.

    Raises:
        DownloadError: says what is free, and that `option` names another folder.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        if error.errno in _FULL:
            free = shutil.disk_usage(folder).free
            raise DownloadError(
                f"{place}: the disk is full ({free / 1e6:,.0f} MB free); make room or name another folder "
                f"with {option}, then run the command again: it goes on from here"
            ) from error
        raise DownloadError(
            f"{place}: {error.strerror or error}; correct that or name another folder with {option}"
        ) from error
