"""A published T5 v1.1 / FLAN-T5 (local folder or hub id) becomes a checkpoint folder with exactly its function."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import build_model, read_tensors, save_checkpoint
from model.config import ModelConfig
from model.errors import CheckpointError
from model.leximind import LexiMind
from model.tasks import Tasks
from model.tokenizer import Tokenizer

NUM_POSITIONS = 512
_NUM_SENTINELS = 100
_INDEX = "model.safetensors.index.json"
_WANTED = ["config.json", "*.safetensors", _INDEX, "spiece.model"]


def import_flan_t5(source: str, target: Path) -> None:
    """Convert `source` and write the checkpoint folder `target`; it has no heads until it is trained.

    Args:
        source: a folder in the published layout (`config.json`, `model.safetensors` or its shards and index,
            `spiece.model`) or the id of one on the Hugging Face hub, which is downloaded.
        target: the checkpoint folder to write.

    Raises:
        CheckpointError: `source` is missing, pickled, of another architecture, or incomplete.
    """
    folder = _local(source)
    spiece = folder / "spiece.model"
    tokenizer = Tokenizer(spiece)
    model = read_flan_t5(folder, tokenizer.num_pieces + _NUM_SENTINELS)
    save_checkpoint(target, model, spiece, Tasks(), card=_card(source, model), facts={"imported_from": source})


def read_flan_t5(folder: Path, num_tokens: int) -> LexiMind:
    """The network in a published folder, in the files' dtype; `num_tokens` ids are emitted at most.

    Raises:
        CheckpointError: as `import_flan_t5`.
    """
    fields = _json(folder / "config.json")
    tensors = read_tensors(_weight_files(folder))
    config = _config(fields, tensors, num_tokens, folder)
    dtypes = {tensor.dtype for tensor in tensors.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return build_model(config, _converted(tensors, config, folder), str(folder), torch.device("cpu"), dtype)


def _local(source: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise CheckpointError(f"{source}: neither a folder nor a hub id such as google/flan-t5-base")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{source}: cannot be downloaded ({error}); fetch the folder by other means and give its path"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / _INDEX).is_file():
        shards = _json(folder / _INDEX).get("weight_map", {})
        return [folder / name for name in sorted(set(shards.values()))]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    remedy = f"{pickles} are pickles and are refused; convert them to safetensors" if pickles else "is it complete?"
    raise CheckpointError(f"{folder}: neither model.safetensors nor {_INDEX}: {remedy}")


def _config(fields: Mapping[str, Any], tensors: Mapping[str, Tensor], num_tokens: int, folder: Path) -> ModelConfig:
    if fields.get("model_type") != "t5" or fields.get("feed_forward_proj") != "gated-gelu":
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {fields.get('model_type')!r} with feed_forward_proj "
            f"{fields.get('feed_forward_proj')!r}; only 't5' with 'gated-gelu' (T5 v1.1, FLAN-T5) can be imported"
        )
    try:
        return ModelConfig(
            vocab_size=fields["vocab_size"],
            num_tokens=min(num_tokens, fields["vocab_size"]),
            d_model=fields["d_model"],
            num_heads=fields["num_heads"],
            d_kv=fields["d_kv"],
            d_ff=fields["d_ff"],
            num_encoder_layers=fields["num_layers"],
            num_decoder_layers=fields.get("num_decoder_layers") or fields["num_layers"],
            relative_attention_num_buckets=fields["relative_attention_num_buckets"],
            relative_attention_max_distance=fields.get("relative_attention_max_distance", 128),
            num_positions=NUM_POSITIONS,
            layer_norm_epsilon=fields.get("layer_norm_epsilon", 1e-6),
            dropout=fields.get("dropout_rate", 0.1),
            tie_lm_head="lm_head.weight" not in tensors,
            scale_lm_head=_scales(fields),
        )
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'}: lacks {error}") from error


def _scales(fields: Mapping[str, Any]) -> bool:
    # The published flag `tie_word_embeddings: false` means "T5 v1.1: do not scale". transformers 5 writes true for
    # every T5 and keeps the meaning in `scale_decoder_outputs`.
    scales: bool = fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings", True))
    return scales


def _converted(tensors: Mapping[str, Tensor], config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    left = dict(tensors)
    missing: list[str] = []

    def take(*names: str) -> Tensor:
        absent = [name for name in names if name not in left]
        missing.extend(absent)
        return torch.empty(0) if absent else torch.cat([left.pop(name) for name in names])

    out = {"embedding.weight": take("shared.weight" if "shared.weight" in left else "encoder.embed_tokens.weight")}
    for copy in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        left.pop(copy, None)
    if not config.tie_lm_head:
        out["lm_head.weight"] = take("lm_head.weight")
    for stack, depth in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        out[f"{stack}.relative_bias.table.weight"] = take(bias)
        out[f"{stack}.norm.weight"] = take(f"{stack}.final_layer_norm.weight")
        for number in range(depth):
            for name, sources in _LAYER[stack].items():
                out[f"{stack}.layers.{number}.{name}"] = take(*(f"{stack}.block.{number}.{s}.weight" for s in sources))
        positions = torch.zeros(config.num_positions, config.d_model, dtype=out["embedding.weight"].dtype)
        out[f"{stack}_positions"] = positions
    if missing or left:
        raise CheckpointError(f"{folder}: missing tensors {sorted(missing)}, unexpected tensors {sorted(left)}")
    return out


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


# Our parameter to the published ones that it is made of, row upon row.
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


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    return value


def _card(source: str, model: LexiMind) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"# Imported from {Path(source).name}\n\n{parameters / 1e6:.1f} M parameters, computing exactly what the "
        "published model computes. It summarizes; it has no emotion and no topic head until it is trained "
        "(`python -m training.train init_from=THIS_FOLDER`). Terms: those of the published model.\n"
    )
