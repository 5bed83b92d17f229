"""A published T5 v1.1 / FLAN-T5 (local folder or hub id) becomes a checkpoint folder with exactly its function."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import CheckpointError, ConfigError
from model.network.leximind import LexiMind, from_tensors, tensor_shapes
from model.storage.consistency import check_tensors, listed
from model.storage.manifest import read_json
from model.storage.saving import save_checkpoint
from model.storage.stored_weights import StoredWeights
from model.tasks import Tasks
from model.tokenizer import Tokenizer

NUM_POSITIONS = 512
_NUM_SENTINELS = 100
_INDEX = "model.safetensors.index.json"
_WANTED = ["config.json", "*.safetensors", _INDEX, "spiece.model"]
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_SPECIAL_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def import_flan_t5(source: str, target: Path) -> None:
    """Convert `source` and write the checkpoint folder `target`; it has no heads until it is trained.

    Args:
        source: a folder in the published layout (`config.json`, `model.safetensors` or its shards and index,
            `spiece.model`) or the id of one on the Hugging Face hub, which is downloaded.
        target: the checkpoint folder to write.

    Raises:
        CheckpointError: `source` is missing, pickled, of another architecture, damaged or incomplete.
        TokenizerError: its `spiece.model` is missing or is none of T5's.
    """
    folder = _local(source)
    spiece = folder / "spiece.model"
    tokenizer = Tokenizer(spiece)
    model = read_flan_t5(folder, tokenizer.num_pieces + _NUM_SENTINELS)
    facts = {"imported_from": source, "terms": f"those of the published model, {Path(source).name}"}
    save_checkpoint(target, model, spiece, Tasks(), card=_card(source, model), facts=facts)


def read_flan_t5(folder: Path, num_tokens: int) -> LexiMind:
    """The network in a published folder, in the files' dtype (float32 if they mix); it emits ids below `num_tokens`.

    Raises:
        CheckpointError: as `import_flan_t5`; names every missing, unexpected and misshapen tensor.
    """
    fields = read_json(folder / "config.json")
    stored = StoredWeights(_weight_files(folder))
    tensors = {name: stored.read(name) for name in stored}
    _join_embeddings(tensors, folder)
    config = _config(fields, num_tokens, has_lm_head="lm_head.weight" in tensors, path=folder / "config.json")
    dtypes = {tensor.dtype for tensor in tensors.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return from_tensors(config, {name: one.to(dtype) for name, one in _converted(tensors, config, folder).items()})


def _local(source: str) -> Path:
    folder = Path(source)
    if os.path.isdir(folder):  # as in `verified_manifest`
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise CheckpointError(f"{source}: neither a folder nor a hub id such as google/flan-t5-base")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=_WANTED))
    except (OSError, HFValidationError) as error:  # the hub's own errors are OSErrors
        raise CheckpointError(
            f"{source}: no such folder, and it cannot be downloaded as a hub id ({error}); "
            "fetch the folder by other means and give its path"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / _INDEX).is_file():
        shards = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise CheckpointError(f"{folder / _INDEX}: has no weight_map from tensors to files; fetch the file again")
        names = sorted(set(shards.values()))
        if outside := [name for name in names if name != Path(name).name or not name.endswith(".safetensors")]:
            raise CheckpointError(
                f"{folder / _INDEX}: weight_map names {listed(outside)}; shards are .safetensors files in that folder"
            )
        return [folder / name for name in names]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    remedy = f"{pickles} are pickles and are refused; convert them to safetensors" if pickles else "is it complete?"
    raise CheckpointError(f"{folder}: neither model.safetensors nor {_INDEX}: {remedy}")


def _config(fields: Mapping[str, Any], num_tokens: int, *, has_lm_head: bool, path: Path) -> ModelConfig:
    if fields.get("model_type") != "t5" or fields.get("feed_forward_proj") != "gated-gelu":
        raise CheckpointError(
            f"{path}: model_type {fields.get('model_type')!r} with feed_forward_proj "
            f"{fields.get('feed_forward_proj')!r}; only 't5' with 'gated-gelu' (T5 v1.1, FLAN-T5) can be imported"
        )
    for name, value in _SPECIAL_IDS.items():
        if fields.get(name, value) != value:
            raise CheckpointError(f"{path}: {name} is {fields[name]!r}; only {value}, as in every T5, can be imported")
    depth = fields.get("num_decoder_layers")
    try:
        published = {
            "vocab_size": fields["vocab_size"],
            "num_tokens": num_tokens,
            "d_model": fields["d_model"],
            "num_heads": fields["num_heads"],
            "d_kv": fields["d_kv"],
            "d_ff": fields["d_ff"],
            "num_encoder_layers": fields["num_layers"],
            "num_decoder_layers": fields["num_layers"] if depth is None else depth,
            "relative_attention_num_buckets": fields["relative_attention_num_buckets"],
            "relative_attention_max_distance": fields.get("relative_attention_max_distance", 128),
            "num_positions": NUM_POSITIONS,
            "layer_norm_epsilon": fields.get("layer_norm_epsilon", 1e-6),
            "dropout": fields.get("dropout_rate", 0.1),
            # A published file that says untied and has no head has lost it.
            "tie_lm_head": not has_lm_head and fields.get("tie_word_embeddings") is not False,
            "scale_lm_head": _scales(fields),
        }
        return ModelConfig.from_json(ModelConfig().to_json() | published)  # the way that checks types
    except KeyError as error:
        raise CheckpointError(f"{path}: lacks {error}") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _scales(fields: Mapping[str, Any]) -> bool:
    # The published flag `tie_word_embeddings: false` means "T5 v1.1: do not scale". transformers 5 writes true for
    # every T5 and keeps the meaning in `scale_decoder_outputs`.
    scales: bool = fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings", True))
    return scales


def _join_embeddings(tensors: dict[str, Tensor], folder: Path) -> None:
    # Files may hold the one embedding under up to three names.
    copies = [tensors.pop(name) for name in _EMBEDDINGS if name in tensors]
    if not all(torch.equal(copies[0], other) for other in copies[1:]):
        raise CheckpointError(f"{folder}: {', '.join(_EMBEDDINGS)} differ; encoder and decoder share one embedding")
    if copies:
        tensors[_EMBEDDINGS[0]] = copies[0]


def _converted(tensors: dict[str, Tensor], config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    # Empties `tensors` on its way: two copies of an xxl would be 90 GB.
    ours = tensor_shapes(config)
    sources = _sources(config)
    # What is fused here has equal parts there.
    shapes = {
        name: (ours[target][0] // len(names), *ours[target][1:]) for target, names in sources.items() for name in names
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_tensors(shapes, found, str(folder), "config.json")
    out = {target: torch.cat([tensors.pop(name) for name in names]) for target, names in sources.items()}
    for stack in _LAYER:
        positions = f"{stack}_positions"
        out[positions] = torch.zeros(ours[positions], dtype=out["embedding.weight"].dtype)
    return out


def _sources(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    # Every parameter of ours but the position tables, and the published ones that it is made of, row upon row.
    sources: dict[str, tuple[str, ...]] = {"embedding.weight": _EMBEDDINGS[:1]}
    if not config.tie_lm_head:
        sources["lm_head.weight"] = ("lm_head.weight",)
    for stack, depth in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        sources[f"{stack}.relative_bias.table.weight"] = (bias,)
        sources[f"{stack}.norm.weight"] = (f"{stack}.final_layer_norm.weight",)
        for number in range(depth):
            for name, parts in _LAYER[stack].items():
                sources[f"{stack}.layers.{number}.{name}"] = tuple(
                    f"{stack}.block.{number}.{part}.weight" for part in parts
                )
    return sources


_SELF = {
    "qkv.weight": ("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"),
    "out.weight": ("layer.0.SelfAttention.o",),
}


def _feed_forward(layer: int) -> dict[str, tuple[str, ...]]:
    return {
        "feed_forward_norm.weight": (f"layer.{layer}.layer_norm",),
        "feed_forward.wi.weight": (f"layer.{layer}.DenseReluDense.wi_0", f"layer.{layer}.DenseReluDense.wi_1"),
        "feed_forward.wo.weight": (f"layer.{layer}.DenseReluDense.wo",),
    }


# Of each layer: our parameter and the published ones that it is made of.
_LAYER: dict[str, dict[str, tuple[str, ...]]] = {
    "encoder": {
        "attention_norm.weight": ("layer.0.layer_norm",),
        **{f"attention.{name}": sources for name, sources in _SELF.items()},
        **_feed_forward(1),
    },
    "decoder": {
        "self_norm.weight": ("layer.0.layer_norm",),
        **{f"self_attention.{name}": sources for name, sources in _SELF.items()},
        "cross_norm.weight": ("layer.1.layer_norm",),
        "cross_attention.q.weight": ("layer.1.EncDecAttention.q",),
        "cross_attention.kv.weight": ("layer.1.EncDecAttention.k", "layer.1.EncDecAttention.v"),
        "cross_attention.out.weight": ("layer.1.EncDecAttention.o",),
        **_feed_forward(2),
    },
}


def _card(source: str, model: LexiMind) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"# Imported from {Path(source).name}\n\n{parameters / 1e6:.1f} M parameters, computing exactly what the "
        "published model computes. It summarizes; it has no heads (emotions, topic, your own) until they are trained "
        "(`python -m training.train init_from=THIS_FOLDER`). Terms: those of the published model.\n"
    )
