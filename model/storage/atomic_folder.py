"""A folder that is replaced whole or not at all, whatever becomes of the process that writes it."""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of `folder` when the block ends well and vanishes when it does not.

    A writer that is killed leaves `folder` as it was, and next to it a hidden `.NAME.*` that may be deleted.
    """
    folder = folder.resolve()  # behind a link the folder is replaced, not the link
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        for path in (*partial.iterdir(), partial):
            _flush(path)  # after a power cut the new name must not stand for files that were never written
        _replace(partial, folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(new: Path, folder: Path) -> None:
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(new, folder):
        # A folder cannot be renamed onto a full one: the old one steps aside and comes back if the new one cannot.
        # A crash between the two lines leaves it there; hence only where there is no exchange.
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        folder.rename(old / folder.name)
        try:
            new.rename(folder)
        except OSError:
            (old / folder.name).rename(folder)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    # Swaps two names in one step; Linux only, and not on every file system there (NFS has none).
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: bool = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
    return done


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
