"""A run's state on disk: whole or the old one, tensors and plain values alone, generators with it."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from support.training_runs import equal
from training.errors import ResumeError, TrainingError
from training.loop.state import STATE_FILE, load_state, random_states, save_state, set_random_states

CPU = torch.device("cpu")
STATE: dict[str, Any] = {"step": 3, "model": {"weight": torch.arange(6.0)}, "streams": {"topics": [0, 4]}, "rng": []}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save_state(tmp_path / "a" / "run", STATE)
    assert equal(load_state(tmp_path / "a" / "run"), STATE)
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == [STATE_FILE]


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, STATE)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrainingError, match=r"cannot be written .*No space left.* make room and resume from it"):
        save_state(tmp_path, {**STATE, "step": 4})
    assert load_state(tmp_path)["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="cannot be written"):
        save_state(tmp_path / "file" / "run", STATE)


def test_no_state_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no such file; resume_from must be the output folder of a run"):
        load_state(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_state_is_refused(damage: str, tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    path = tmp_path / STATE_FILE
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not a state"}[damage])
    with pytest.raises(ResumeError, match="cannot be read"):
        load_state(tmp_path)


def test_a_state_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"step": Path("an object of a class")}, tmp_path / STATE_FILE)
    with pytest.raises(ResumeError, match="cannot be read"):
        load_state(tmp_path)


def test_generators_go_on_where_they_were() -> None:
    torch.manual_seed(5)
    states = random_states(CPU)
    drawn = torch.rand(3)
    torch.rand(7)
    set_random_states(states, CPU)
    assert torch.equal(torch.rand(3), drawn)
    assert set(states) == {"cpu"}
