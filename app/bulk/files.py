"""Files that hold one text each: paths, folders and patterns as one lists them, and their texts as rows."""

import glob
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from app.bulk.records import NotUtf8, check_is_text, decoded, write_json_lines
from app.bulk.rows import Answer, InputError, Row, Shard, Source

_BOM = "\ufeff"


def found_files(names: Sequence[str], endings: Sequence[str] = ()) -> list[Path]:
    """The files of `names`: each a file, a folder (all files below it that are not hidden) or a pattern (`**` is any
    depth), the last two sorted, and with one of `endings` where some are given.

    Raises:
        InputError: a name stands for no file.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if _is_dir(path):
            found = sorted(one for one in path.rglob("*") if one.is_file() and not _is_hidden(one.relative_to(path)))
        elif _exists(path) or not glob.has_magic(name):
            files.append(path)
            continue
        else:
            found = sorted(one for one in map(Path, glob.glob(name, recursive=True)) if one.is_file())
        chosen = [one for one in found if not endings or one.suffix in endings]
        if not chosen:
            kinds = f" that ends in {' or '.join(endings)}" if endings else ""
            raise InputError(f"{name}: no file{kinds} is there; name one, or a folder or a pattern that has some")
        files += chosen
    return files


def names_a_file(text: str) -> bool:
    """Whether a file or a folder of this name exists."""
    return _exists(Path(text)) if text.strip() else False


class TextFiles(Source):
    """Files that hold a text each. The column is the file's name."""

    suffix = ".jsonl"
    columns = ("file",)

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._digest = ""

    @property
    def num_bytes(self) -> int:
        """Of all files together."""
        return sum(path.stat().st_size for path in self._paths if path.is_file())

    @property
    def digest(self) -> str:
        """sha256 of all names and contents."""
        return self._digest

    def cut(self, num_rows: int, advance: Callable[[int], None]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Each start is the number of a file."""
        digest = hashlib.sha256()
        start = 0
        while paths := self._paths[start : start + num_rows]:
            for path in paths:
                try:
                    content = path.read_bytes()
                except OSError:
                    content = b""  # its row says why
                advance(len(content))
                digest.update(f"{path}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
            yield (start,), len(paths)
            start += len(paths)
        self._digest = digest.hexdigest()

    def read(self, shard: Shard) -> Iterator[Row]:
        """The rows of `shard`."""
        [start] = shard.start
        yield from map(_row, self._paths[start : start + shard.num_rows])

    def rows(self) -> Iterator[Row]:
        """All rows."""
        yield from map(_row, self._paths)

    def write(self, path: Path, shard: Shard, rows: Sequence[Row], answers: Sequence[Answer]) -> None:  # noqa: ARG002
        """JSON Lines."""
        write_json_lines(path, rows, answers)


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it cannot be read; says which file, and where.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file that can be read") from None
    return text_of_bytes(raw, str(path))


def text_of_bytes(raw: bytes, name: str) -> str:
    """The text of a file of this name with this content.

    Raises:
        InputError: it is none; says which file, and where.
    """
    check_is_text(name, raw)
    try:
        return decoded(raw).removeprefix(_BOM)
    except NotUtf8 as error:
        raise InputError(f"{name}: {error}") from None


def _row(path: Path) -> Row:
    columns = {"file": str(path)}
    try:
        return Row(str(path), columns, text_of(path))
    except InputError as error:
        return Row(str(path), columns, error=str(error))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a name may be, or with a NUL: a text
        return False


def _is_dir(path: Path) -> bool:
    return _exists(path) and path.is_dir()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
