"""Published folders before their weights matter: every published shape, damaged files, other models, the hub."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from model.errors import CheckpointError, TokenizerError
from model.network.leximind import LexiMind
from model.storage.flan_t5 import _config, _converted, import_flan_t5, read_flan_t5
from support.reference import NUM_TOKENS, SHAPES, write_reference

INDEX = "model.safetensors.index.json"
# What google/flan-t5-*'s config.json say, and the parameters that their model cards count.
COMMON = {
    "model_type": "t5",
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "vocab_size": 32128,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
PUBLISHED = {
    "small": ({"d_model": 512, "num_heads": 6, "d_kv": 64, "d_ff": 1024, "num_layers": 8}, 76_961_152),
    "base": ({"d_model": 768, "num_heads": 12, "d_kv": 64, "d_ff": 2048, "num_layers": 12}, 247_577_856),
    "large": ({"d_model": 1024, "num_heads": 16, "d_kv": 64, "d_ff": 2816, "num_layers": 24}, 783_150_080),
    "xl": ({"d_model": 2048, "num_heads": 32, "d_kv": 64, "d_ff": 5120, "num_layers": 24}, 2_849_757_184),
    "xxl": ({"d_model": 4096, "num_heads": 64, "d_kv": 64, "d_ff": 10240, "num_layers": 24}, 11_135_332_352),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "tiny"
    write_reference(folder, SHAPES["near_distances"])
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(published, tmp_path / "damaged"))


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_flan_t5(folder, NUM_TOKENS)


@pytest.mark.parametrize(("shape", "count"), PUBLISHED.values(), ids=PUBLISHED)
def test_every_published_size_is_taken_to_the_last_tensor(shape: dict[str, int], count: int) -> None:
    with torch.device("meta"):  # names and shapes without their 45 GB
        reference = T5ForConditionalGeneration(T5Config(**COMMON, **shape)).state_dict()
        tensors = {name: tensor for name, tensor in reference.items() if "embed_tokens" not in name}
        config = _config(COMMON | shape, 32100, has_lm_head=True, path=Path("config.json"))
        converted = _converted(tensors, config, Path(""))
        model = LexiMind(config)
    model.load_state_dict(converted, strict=True, assign=True)
    positions = 2 * 512 * config.d_model
    assert sum(parameter.numel() for parameter in model.parameters()) - positions == count
    assert (config.tie_lm_head, config.scale_lm_head, config.num_tokens) == (False, False, 32100)


def test_positions_are_zero_at_import(published: Path) -> None:
    model = read_flan_t5(published, NUM_TOKENS)
    assert model.encoder_positions.shape == model.decoder_positions.shape == (512, 40)
    assert not model.encoder_positions.any()
    assert not model.decoder_positions.any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feed_forward_proj": "relu"}, "model_type 't5' with feed_forward_proj 'relu'; only 't5' with 'gated-gelu'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu'"),
        ({"model_type": "mt5"}, "model_type 'mt5'"),
        ({"d_model": None}, r"config\.json: d_model is None; it must be of type int"),
        ({"d_kv": "8"}, r"config\.json: d_kv is '8'; it must be of type int"),
        ({"num_layers": 0}, r"config\.json: num_encoder_layers is 0; it must be at least 1"),
        ({"num_decoder_layers": 0}, r"config\.json: num_decoder_layers is 0"),
        ({"vocab_size": 50}, r"config\.json: num_tokens is 90, more than vocab_size 50"),
        ({"eos_token_id": 2}, r"config\.json: eos_token_id is 2; only 1, as in every T5"),
        ({"decoder_start_token_id": 1}, r"config\.json: decoder_start_token_id is 1; only 0"),
        ({"num_layers": 2}, r"do not fit config\.json: missing encoder\.block\.1\.layer\.0"),
        ({"num_decoder_layers": 1}, r"unexpected decoder\.block\.1\.layer\.0"),
        ({"num_heads": 2}, r"SelfAttention\.k\.weight has shape \(24, 40\), not \(48, 40\)"),
    ],
    ids=str,
)
def test_config_of_another_model_is_refused(folder: Path, fields: dict[str, object], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    refuse(folder, message)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"model_type": "t5"'], ids=repr)
def test_damaged_config_is_named(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    refuse(folder, r"config\.json: (not readable as JSON|holds no JSON object)")


def test_config_that_lacks_a_field_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["d_ff"]
    (folder / "config.json").write_text(json.dumps(config))
    refuse(folder, r"config\.json: lacks 'd_ff'")


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refuse(folder, "neither model.safetensors nor .*: is it complete")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    refuse(folder, r"\['pytorch_model.bin'\] are pickles and are refused; convert them to safetensors")
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    refuse(folder, r"model\.safetensors: not readable as safetensors .*pickled weights are refused")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_damaged_index_is_named(folder: Path, content: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(content)
    refuse(folder, rf"{INDEX}: has no weight_map")


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_reference(tmp_path, SHAPES["near_distances"], shard_size="40KB")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    refuse(tmp_path, f"{lost.name}: missing")


def test_truncated_shard_is_named(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    refuse(folder, r"model\.safetensors: not readable as safetensors")


def test_missing_tokenizer_is_named_and_nothing_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"damaged/spiece\.model: no such file"):
        import_flan_t5(str(folder), tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("source", ["nowhere", "./a/b", "/no/such/folder", "a/b/c"])
def test_source_that_is_nothing_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id such as google/flan-t5-base"):
        import_flan_t5(source, tmp_path / "target")


@pytest.mark.parametrize("source", ["google/flan-t5-none", "a/b--c"])
def test_hub_id_without_a_hub_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # HF_HUB_OFFLINE=1, read at import
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=f"{source}: no such folder, and it cannot be downloaded .*give its path"):
        import_flan_t5(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()
