"""The folder of a job: what it is, and a file for each shard that is done. Knows neither formats nor the model.

_job.json            what the answers depend on; another job is refused here
part-00000.jsonl     the answers of shard 0, complete: it was renamed into place
_SUCCESS             there once all parts are, as Hadoop's tools have it

Names with `_` or `.` at the start are ignored by what reads the folder as one table (pyarrow, pandas, Spark).
"""

import fcntl
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.bulk.records import flush
from app.bulk.rows import Answer, InputError, Row, Shard

_JOB, _LOCK, _SUCCESS = "_job.json", ".lock", "_SUCCESS"
_OVERWRITE = "name another folder, or start anew with --overwrite"


class BulkJob:
    """A folder that is being filled, by this process alone until `close`.

    `facts` are what the answers depend on. With `overwrite` what another job left there is removed first.

    Raises:
        InputError: the folder holds something else, or another process fills it.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], shards: Sequence[Shard], *, overwrite: bool) -> None:
        self._folder = folder
        self.shards = shards
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; the answers go into a folder, a file for each shard")
        before = _read_facts(folder / _JOB)
        if before is None and folder.is_dir() and any(one.name != _LOCK for one in folder.iterdir()):
            raise InputError(f"{folder} holds something that is no job; name a new or an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / _LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel gives it back whatever kills us
            self._begin(before, facts, overwrite)
        except BlockingIOError:
            self.close()
            raise InputError(f"another process is filling {folder}; let it end, or stop it") from None
        except BaseException:
            self.close()
            raise

    @property
    def unfinished(self) -> list[Shard]:
        """The shards that have no file yet, in order."""
        return [shard for shard in self.shards if not (self._folder / _part(shard)).exists()]

    def succeed(self) -> None:
        """All shards are done."""
        self._publish(_SUCCESS, b"")

    def close(self) -> None:
        """Let other processes in."""
        self._lock.close()

    def _begin(self, before: Mapping[str, Any] | None, facts: Mapping[str, Any], overwrite: bool) -> None:
        if overwrite:
            self._clear()
        elif before is not None:
            _check_same(self._folder, before, facts)
        for partial in self._folder.glob(".part-*"):
            partial.unlink()
        if overwrite or before is None:
            self._publish(_JOB, json.dumps(facts, indent=2).encode())

    def _publish(self, name: str, content: bytes) -> None:
        partial = self._folder / f".part-{name}"
        with partial.open("wb") as file:
            file.write(content)
            flush(file)
        partial.rename(self._folder / name)
        _flush_folder(self._folder)

    def _clear(self) -> None:
        for name in (_SUCCESS, _JOB):
            (self._folder / name).unlink(missing_ok=True)
        for part in self._folder.glob("part-*"):
            part.unlink()


def write_part(folder: Path, shard: Shard, rows: Sequence[Row], answers: Sequence[Answer]) -> None:
    """Write the file of `shard` and rename it into place, from any process that fills `folder` for the job's own.

    What another process writes of the same shard, such as one that was given up for dead, is another file until then.
    """
    partial = folder / f".{_part(shard)}.{uuid.uuid4().hex}"
    shard.source.write(partial, shard, rows, answers)
    partial.rename(folder / _part(shard))
    _flush_folder(folder)


def _part(shard: Shard) -> str:
    return f"part-{shard.number:05d}{shard.source.suffix}"


def _read_facts(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {_OVERWRITE}") from None
    return facts if isinstance(facts, dict) else {}


def _check_same(folder: Path, before: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(facts))
    for name in dict.fromkeys((*now, *before)):
        if before.get(name) != now.get(name):
            raise InputError(
                f"{folder} holds another job: its {name} was {json.dumps(before.get(name))}, "
                f"now it is {json.dumps(now.get(name))}; {_OVERWRITE}"
            )


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
