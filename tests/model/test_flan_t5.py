"""Import of published folders: what they may look like, and what is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5ForConditionalGeneration

from model.errors import CheckpointError
from model.storage.checkpoint import load_checkpoint
from model.storage.flan_t5 import import_flan_t5, read_flan_t5
from support.reference import NUM_TOKENS, SHAPES, TOLERANCE, write_reference

INDEX = "model.safetensors.index.json"
Q = "encoder.block.1.layer.0.SelfAttention.q.weight"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "tiny"
    write_reference(folder, SHAPES["narrow_heads"])
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(published, tmp_path / "damaged"))


def change_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_flan_t5(folder, NUM_TOKENS)


def assert_same_function(folder: Path, sources: tuple[Tensor, Tensor]) -> None:
    theirs = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    ours = read_flan_t5(folder, NUM_TOKENS).float()
    ids, mask = sources
    targets = ids[:, :20]
    logits = theirs(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=targets).logits
    torch.testing.assert_close(ours(ids, mask, targets), logits, **TOLERANCE)


def test_imported_folder_serves(folder: Path, spiece: Path, tmp_path: Path, sources: tuple[Tensor, Tensor]) -> None:
    shutil.copyfile(spiece, folder / "spiece.model")
    change_config(folder, vocab_size=512)
    change_tensors(
        folder, lambda t: t.update({n: t[n].repeat(6, 1)[:512] for n in ("shared.weight", "lm_head.weight")})
    )
    import_flan_t5(str(folder), tmp_path / "imported")
    loaded = load_checkpoint(tmp_path / "imported", torch.device("cpu"))
    assert (loaded.model.config.num_tokens, loaded.model.config.vocab_size) == (500, 512)  # 400 pieces, 100 sentinels
    assert set(loaded.tasks.prompts.values()) == {"summarize: "}
    assert loaded.tasks.names == ("summarize",)
    assert loaded.manifest["imported_from"] == str(folder)
    assert loaded.terms == f"those of the published model, {folder.name}"
    ids, mask = sources
    theirs = T5ForConditionalGeneration.from_pretrained(folder).eval()
    logits = theirs(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=ids[:, :9]).logits
    torch.testing.assert_close(loaded.model(ids, mask, ids[:, :9]), logits, **TOLERANCE)


def test_shards_are_one_model(tmp_path: Path, sources: tuple[Tensor, Tensor]) -> None:
    write_reference(tmp_path, SHAPES["narrow_heads"], shard_size="40KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same_function(tmp_path, sources)


def test_bf16_files_stay_bf16(folder: Path, sources: tuple[Tensor, Tensor]) -> None:
    change_tensors(folder, lambda t: t.update({name: tensor.bfloat16() for name, tensor in t.items()}))
    assert read_flan_t5(folder, NUM_TOKENS).dtype == torch.bfloat16
    assert_same_function(folder, sources)


def test_mixed_files_become_float32(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({n: x.bfloat16() for n, x in t.items() if "wo" not in n}))
    assert read_flan_t5(folder, NUM_TOKENS).dtype == torch.float32


def test_tied_head_is_tied_and_scaled_as_in_the_original_t5(folder: Path, sources: tuple[Tensor, Tensor]) -> None:
    change_config(folder, tie_word_embeddings=True)
    change_tensors(folder, lambda t: t.pop("lm_head.weight"))
    config = read_flan_t5(folder, NUM_TOKENS).config
    assert (config.tie_lm_head, config.scale_lm_head) == (True, True)
    assert_same_function(folder, sources)


@pytest.mark.parametrize("scales", [True, False])
def test_flags_of_newer_writers_decide_the_scale(folder: Path, sources: tuple[Tensor, Tensor], scales: bool) -> None:
    T5ForConditionalGeneration.from_pretrained(folder).save_pretrained(folder)  # as transformers 5 writes it
    change_config(folder, tie_word_embeddings=scales, scale_decoder_outputs=scales)
    assert read_flan_t5(folder, NUM_TOKENS).config.scale_lm_head is scales
    assert_same_function(folder, sources)


def test_copies_of_the_embedding_are_one(folder: Path, sources: tuple[Tensor, Tensor]) -> None:
    change_tensors(folder, lambda t: t.update({"encoder.embed_tokens.weight": t["shared.weight"].clone()}))
    assert_same_function(folder, sources)
    change_tensors(folder, lambda t: t.pop("shared.weight"))
    assert read_flan_t5(folder, NUM_TOKENS).config.vocab_size == 96


TENSOR_FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda t: t.pop(Q), f"missing {Q}$"),
    "missing two": (lambda t: (t.pop(Q), t.pop("shared.weight")), f"missing {Q}; missing shared.weight$"),
    "lost head": (lambda t: t.pop("lm_head.weight"), "missing lm_head.weight$"),
    "unexpected": (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra$"),
    "misshapen": (lambda t: t.update({Q: torch.zeros(24, 47)}), rf"{Q} has shape \(24, 47\), not \(24, 48\)$"),
    # Fused, the rows would add up and nobody would notice.
    "shifted rows": (
        lambda t: t.update({Q: torch.zeros(20, 48), Q.replace("q.w", "k.w"): torch.zeros(28, 48)}),
        r"k.weight has shape \(28, 48\), not \(24, 48\); .*q.weight has shape \(20, 48\)",
    ),
    "other embedding": (
        lambda t: t.update({"decoder.embed_tokens.weight": t["shared.weight"] + 1}),
        "decoder.embed_tokens.weight differ; encoder and decoder share one embedding",
    ),
    "quantised": (lambda t: t.update({Q: torch.zeros(24, 48, dtype=torch.int8)}), r"is I8, no plain float"),
}


@pytest.mark.parametrize(("change", "message"), TENSOR_FAULTS.values(), ids=TENSOR_FAULTS)
def test_weights_are_imported_whole_or_not_at_all(
    folder: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    change_tensors(folder, change)
    refuse(folder, message)
