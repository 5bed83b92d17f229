"""Growing: the deeper network computes what the old one did, and knows characters where it knew bytes."""

from pathlib import Path

import pytest
import torch

from model.storage.checkpoint import LoadedCheckpoint, load_checkpoint
from training.grow import main

TEXT = "The city council voted on Tuesday to build a new bridge over the river."


@pytest.fixture(scope="module")
def grown(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    folder = tmp_path_factory.mktemp("grown") / "grown"
    main([str(checkpoint_folder), "--output", str(folder), "--encoder-layers", "6"])
    return load_checkpoint(folder, torch.device("cpu"))


def states(checkpoint: LoadedCheckpoint, text: str) -> torch.Tensor:
    ids = torch.tensor([checkpoint.tokenizer.encode_source(text)])
    return checkpoint.model.encode(ids, torch.ones_like(ids, dtype=torch.bool))


def test_grown_network_computes_the_same(grown: LoadedCheckpoint, checkpoint: LoadedCheckpoint) -> None:
    assert grown.model.config.num_encoder_layers == 3 * checkpoint.model.config.num_encoder_layers
    # To the bit: the new layers add zeros.
    assert torch.equal(states(grown, TEXT), states(checkpoint, TEXT))


def test_all_that_is_new_can_learn(grown: LoadedCheckpoint) -> None:
    network = grown.model.requires_grad_(True)
    states(grown, TEXT).square().sum().backward()
    for layer in network.encoder.layers:
        assert layer.feed_forward.wo.weight.grad.abs().sum() > 0
        assert layer.attention.out.weight.grad.abs().sum() > 0


def test_bytes_become_characters(grown: LoadedCheckpoint, checkpoint: LoadedCheckpoint) -> None:
    text = "Müller paid £20 🙂"
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer.encode(text)) == text  # by bytes
    ids = grown.tokenizer.encode(text)
    assert len(ids) < len(checkpoint.tokenizer.encode(text))
    assert grown.tokenizer.decode(ids) == text
    rows = grown.model.embedding.weight[[grown.tokenizer.encode(letter)[-1] for letter in "àáâãäåā"]]
    like = checkpoint.model.embedding.weight[checkpoint.tokenizer.encode("a")].mean(0)
    assert torch.cosine_similarity(rows.mean(0), like, dim=0) > 0.5
    assert torch.cosine_similarity(rows[0], rows[1], dim=0) < 0.9  # or a copy of one may be the other


def test_what_cannot_be_grown_is_refused(
    checkpoint_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(checkpoint_folder), "--output", str(tmp_path / "grown"), "--encoder-layers", "3"])
    assert "--encoder-layers is 3; it must be a multiple of 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(checkpoint_folder), "--output", str(checkpoint_folder)])
    assert "exists; name a new folder" in capsys.readouterr().err
