"""The weights as llama.cpp reads them: a GGUF file of its architecture `t5`, in bfloat16 or 8 bits (Q8_0).

Without a vocabulary: ids go in and out. Matrices have the format that is asked for; norms and position biases, which
llama.cpp adds and multiplies by element, stay float32, as in its own conversion.
"""

import json
from pathlib import Path

import gguf
from gguf.quants import quantize
from safetensors.numpy import load_file

_FORMATS = {
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "int8": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # of shared.weight


def convert(published: Path, target: Path, precision: str) -> None:
    """Write the weights of the folder `published` to the file `target`.

    Raises:
        ValueError: a tensor that T5 does not have.
    """
    config = json.loads((published / "config.json").read_text(encoding="utf-8"))
    tensor_type, file_type = _FORMATS[precision]
    partial = target.with_name(f".{target.name}.partial")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.T5])
    _describe(writer, config)
    writer.add_file_type(file_type)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5, config["num_layers"])
    for name, values in load_file(published / "model.safetensors").items():
        if name in _COPIES:
            continue
        if (new_name := names.get_name(name, try_suffixes=(".weight",))) is None:
            raise ValueError(f"{published}: llama.cpp's T5 has no tensor {name}")
        if values.ndim < 2 or "relative_attention_bias" in name:
            writer.add_tensor(new_name, values)
        else:
            writer.add_tensor(new_name, quantize(values, tensor_type), raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)


def _describe(writer: gguf.GGUFWriter, config: dict[str, int | float]) -> None:
    writer.add_context_length(512)
    writer.add_embedding_length(config["d_model"])
    writer.add_feed_forward_length(config["d_ff"])
    writer.add_block_count(config["num_layers"])
    writer.add_decoder_block_count(config["num_decoder_layers"])
    writer.add_head_count(config["num_heads"])
    writer.add_key_length(config["d_kv"])
    writer.add_value_length(config["d_kv"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_relative_attn_buckets_count(config["relative_attention_num_buckets"])
    writer.add_decoder_start_token_id(config["decoder_start_token_id"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
