"""A writer that is killed at any of its steps, or runs out of disk, leaves the old checkpoint or the new one."""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.errors import CheckpointError, TokenizerError
from model.storage.atomic_folder import atomic_folder
from model.storage.checkpoint import Checkpoint, load_checkpoint
from model.storage.saving import save_checkpoint

# Saves over a checkpoint again and again, each time in a child that kills itself one step later. A step is what Python
# audits of files and foreign calls: every open, removal, chmod, dlsym. Prints what was found after each death.
KILLED_WRITERS = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from model.storage.checkpoint import load_checkpoint
from model.storage.saving import save_checkpoint
folder, target = map(Path, sys.argv[1:])
base = load_checkpoint(folder, torch.device("cpu"))
def save(lengths):
    tasks = replace(base.tasks, max_source_tokens=lengths)
    save_checkpoint(target, base.model, folder / "spiece.model", tasks, card="")
save(100)
for deadly in range(1, 1000):
    child = os.fork()
    if not child:
        steps = iter(range(1, 1000))
        def count(event, arguments):
            if event.startswith(("open", "os.", "shutil.", "tempfile.", "ctypes.")) and next(steps) == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        save(100 + deadly)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = load_checkpoint(target, torch.device("cpu")).tasks.max_source_tokens - 100
    print(deadly, int(os.WIFSIGNALED(status)), found)
    if not os.WIFSIGNALED(status):
        break
"""


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """No file may grow past `free_bytes`; the kernel refuses the write as it would on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def save(checkpoint: Checkpoint, tmp_path: Path) -> Callable[[int], None]:
    def save(length: int) -> None:
        tasks = replace(checkpoint.tasks, max_source_tokens=length)
        save_checkpoint(tmp_path / "kept", checkpoint.model, checkpoint.folder / "spiece.model", tasks, card="")

    return save


def kept(folder: Path) -> int:
    """Which of the saves is there, intact and with nothing beside it."""
    assert [path.name for path in folder.iterdir()] == ["kept"]
    return load_checkpoint(folder / "kept", torch.device("cpu")).tasks.max_source_tokens


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere two renames leave a moment without the folder")
def test_writer_killed_at_any_step_leaves_the_old_or_the_new(checkpoint_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_WRITERS, str(checkpoint_folder), str(tmp_path / "kept")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [killed for _, killed, _ in rows] == [1] * (len(rows) - 1) + [0]
    newest = 0
    for number, _, found in rows:
        assert found in (newest, number)
        newest = found
    too_late = [found == number for number, killed, found in rows if killed]
    assert (too_late.count(False) > 20, too_late.count(True) > 5) == (True, True), "the steps do not span the save"


def test_save_replaces_and_leaves_nothing_beside(save: Callable[[int], None], tmp_path: Path) -> None:
    save(100)
    save(200)
    assert kept(tmp_path) == 200


@pytest.mark.parametrize("free_bytes", [0, 500, 5000, 300_000])
def test_full_disk_leaves_the_old_one(save: Callable[[int], None], tmp_path: Path, free_bytes: int) -> None:
    save(100)
    with full_disk(free_bytes), pytest.raises(CheckpointError, match=r"kept: cannot be written \(.*File too large"):
        save(200)
    assert kept(tmp_path) == 100


def test_file_system_that_refuses_is_named(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="/proc/self/new: cannot be written"):
        save_checkpoint(
            Path("/proc/self/new"), checkpoint.model, checkpoint.folder / "spiece.model", checkpoint.tasks, card=""
        )


def test_missing_tokenizer_is_found_before_anything_is_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no such file"):
        save_checkpoint(tmp_path / "new", checkpoint.model, tmp_path / "spiece.model", checkpoint.tasks, card="")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["thesis.txt", None])
def test_folder_that_is_no_checkpoint_is_never_replaced(
    save: Callable[[int], None], tmp_path: Path, name: str | None
) -> None:
    (tmp_path / "kept").mkdir()
    if name:
        (tmp_path / "kept" / name).write_text("years of work")
    with pytest.raises(CheckpointError, match="exists and is no checkpoint; choose another folder or remove it"):
        save(100)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [name] * bool(name)


def test_other_users_can_read_what_was_saved(save: Callable[[int], None], tmp_path: Path) -> None:
    save(100)
    for path in (tmp_path / "kept", *(tmp_path / "kept").iterdir()):
        assert path.stat().st_mode & 0o044 == 0o044, path.name


def test_behind_a_link_the_folder_is_replaced(save: Callable[[int], None], tmp_path: Path) -> None:
    save(100)
    (tmp_path / "kept").rename(tmp_path / "real")
    (tmp_path / "kept").symlink_to(tmp_path / "real")
    save(200)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "real"]
    assert load_checkpoint(tmp_path / "real", torch.device("cpu")).tasks.max_source_tokens == 200


def test_without_an_exchange_the_old_folder_steps_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.storage.atomic_folder._exchange", lambda *_: False)  # as on NFS
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "a") as partial:
            (partial / "text").write_text(text)
    assert (tmp_path / "a" / "text").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
