"""The mean of checkpoints: of their weights, number by number."""

from pathlib import Path

import pytest
import torch

from model.storage.checkpoint import load_checkpoint
from model.storage.saving import save_checkpoint
from training.data.terms import RESEARCH_ONLY
from training.soup import main

CPU = torch.device("cpu")


def variant(folder: Path, like: Path, factor: float, terms: str = "free for all") -> Path:
    checkpoint = load_checkpoint(like, CPU)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter.mul_(factor)
    save_checkpoint(folder, checkpoint.model, like / "spiece.model", checkpoint.tasks, card="", facts={"terms": terms})
    return folder


def test_average_is_the_mean_of_the_weights(checkpoint_folder: Path, tmp_path: Path) -> None:
    folders = [
        checkpoint_folder,
        variant(tmp_path / "b", checkpoint_folder, 3, RESEARCH_ONLY),
        variant(tmp_path / "c", checkpoint_folder, 2),
    ]
    main([*map(str, folders), "--output", str(tmp_path / "mean")])
    mean, first = load_checkpoint(tmp_path / "mean", CPU), load_checkpoint(checkpoint_folder, CPU)
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(mean.model.state_dict()[name], 2 * tensor, rtol=1e-2, atol=1e-6)  # kept in bfloat16
    assert mean.tasks == first.tasks
    assert mean.terms == RESEARCH_ONLY


def test_what_cannot_be_averaged_is_refused(
    checkpoint_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(checkpoint_folder), str(tmp_path), "--output", str(tmp_path / "mean")])
    with pytest.raises(SystemExit):
        main([str(checkpoint_folder), "--output", str(checkpoint_folder)])
    assert "exists; name a new folder" in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()
