"""Who is measured offline: one small class a library, one line a variant. Imports are lazy: a worker loads one.

Every contender decodes the same ids with the same weights, greedily or by beams, always to the full length.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.weights import Weights

Ids = Sequence[Sequence[int]]


class Contender(ABC):
    """One library in one precision. `requires` names the distributions that its interpreter must have."""

    requires: tuple[str, ...]

    def __init__(self, precision: str) -> None:
        self.precision = precision

    @abstractmethod
    def load(self, weights: Weights, threads: int) -> None:
        """Be ready to decode; conversions are kept beside the weights."""

    @abstractmethod
    def generate(self, sources: Ids, num_new_tokens: int, num_beams: int) -> list[list[int]]:
        """Exactly `num_new_tokens` ids for each source, encoding included. All sources have one length."""

    def encode(self, sources: Ids) -> None:
        """Encode only."""
        raise NotImplementedError

    def takes(self, num_sources: int, num_beams: int) -> bool:  # noqa: ARG002
        """Whether it can decode so many sources at once by so many beams."""
        return True


class Ours(Contender):
    """LexiMind without its service."""

    requires = ("torch", "safetensors", "sentencepiece")

    def load(self, weights: Weights, threads: int) -> None:
        import torch

        from benchmarks import ours

        torch.set_num_threads(threads)
        self._model = ours.load(weights.ours, torch.device("cpu"), self.precision)

    def generate(self, sources: Ids, num_new_tokens: int, num_beams: int) -> list[list[int]]:
        from benchmarks import ours

        return ours.generate(self._model, sources, num_new_tokens, num_beams)

    def encode(self, sources: Ids) -> None:
        from benchmarks import ours

        ours.encode(self._model, sources)


class HuggingFace(Contender):
    """`generate` of transformers, eager."""

    requires = ("torch", "transformers")

    def load(self, weights: Weights, threads: int) -> None:
        import torch
        from transformers import T5ForConditionalGeneration

        torch.set_num_threads(threads)
        dtype = getattr(torch, self.precision)
        self.model: Any = T5ForConditionalGeneration.from_pretrained(weights.published, dtype=dtype).eval()

    def generate(self, sources: Ids, num_new_tokens: int, num_beams: int) -> list[list[int]]:
        import torch

        ids = torch.tensor(sources)
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_new_tokens,
            min_new_tokens=num_new_tokens,
            num_beams=num_beams,
            do_sample=False,
        )
        return [row[1:] for row in out.tolist()]

    def encode(self, sources: Ids) -> None:
        import torch

        ids = torch.tensor(sources)
        with torch.inference_mode():
            self.model.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids))


class HuggingFaceCompiled(HuggingFace):
    """The same with `torch.compile` and a static cache; every row of the table compiles anew, which takes minutes."""

    def load(self, weights: Weights, threads: int) -> None:
        import torch

        super().load(weights, threads)
        self.model.generation_config.cache_implementation = "static"
        self.model.forward = torch.compile(self.model.forward)


class CTranslate2(Contender):
    """CTranslate2, which speaks of pieces where others have ids."""

    requires = ("ctranslate2",)

    def load(self, weights: Weights, threads: int) -> None:
        import ctranslate2

        folder = weights.folder / "ctranslate2"
        if not folder.is_dir():
            partial = folder.with_name(f".{folder.name}.partial")
            ctranslate2.converters.TransformersConverter(str(weights.published)).convert(str(partial), force=True)
            partial.rename(folder)
        self._pieces: list[str] = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
        self._id_of = {piece: number for number, piece in enumerate(self._pieces)}
        self._translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=self.precision, intra_threads=threads, inter_threads=1
        )

    def generate(self, sources: Ids, num_new_tokens: int, num_beams: int) -> list[list[int]]:
        results = self._translator.translate_batch(
            [[self._pieces[number] for number in source] for source in sources],
            beam_size=num_beams,
            max_decoding_length=num_new_tokens,
            min_decoding_length=num_new_tokens,
            max_input_length=0,
        )
        return [[self._id_of[piece] for piece in result.hypotheses[0]] for result in results]


class OpenVINO(HuggingFace):
    """OpenVINO by way of optimum-intel, whose `generate` is that of transformers."""

    requires = ("optimum-intel", "openvino", "nncf", "transformers")
    _HINTS: Mapping[str, dict[str, str]] = {
        "float32": {"INFERENCE_PRECISION_HINT": "f32"},
        "bfloat16": {"INFERENCE_PRECISION_HINT": "bf16"},
        "int8": {},  # 8-bit weights; activations as OpenVINO chooses for the processor
    }

    def load(self, weights: Weights, threads: int) -> None:
        from optimum.intel import OVModelForSeq2SeqLM

        is_int8 = self.precision == "int8"
        folder = weights.folder / ("openvino-int8" if is_int8 else "openvino")
        if not folder.is_dir():
            _export(OVModelForSeq2SeqLM, weights.published, folder, is_int8)
        config = {**self._HINTS[self.precision], "INFERENCE_NUM_THREADS": str(threads)}
        self.model = OVModelForSeq2SeqLM.from_pretrained(folder, ov_config=config)


def _export(model_class: Any, published: Path, folder: Path, is_int8: bool) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    model_class.from_pretrained(published, export=True, load_in_8bit=is_int8, compile=False).save_pretrained(partial)
    partial.rename(folder)


class LlamaCpp(Contender):
    """llama.cpp, by its library: greedy and one source at a time, since with more sequences its T5 aborts."""

    requires = ("llama-cpp-python", "gguf", "safetensors")

    def load(self, weights: Weights, threads: int) -> None:
        import llama_cpp

        from benchmarks.peers.gguf_weights import convert

        path = weights.folder / f"llama-cpp-{self.precision}.gguf"
        if not path.is_file():
            convert(weights.published, path, self.precision)
        # None where it fails; it logs why.
        self._model: Any = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        options.n_threads = options.n_threads_batch = threads
        options.n_ubatch = options.n_batch  # its encoder takes a source in one piece
        self._context: Any = llama_cpp.llama_init_from_model(self._model, options)

    def generate(self, sources: Ids, num_new_tokens: int, num_beams: int) -> list[list[int]]:
        import llama_cpp
        import numpy as np

        assert self.takes(len(sources), num_beams)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        self._run(llama_cpp.llama_encode, sources[0])
        ids = [llama_cpp.llama_model_decoder_start_token(self._model)]
        vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        for _ in range(num_new_tokens):
            self._run(llama_cpp.llama_decode, ids[-1:])
            logits = llama_cpp.llama_get_logits_ith(self._context, -1)
            ids.append(int(np.ctypeslib.as_array(logits, (vocab_size,)).argmax()))
        return [ids[1:]]

    def takes(self, num_sources: int, num_beams: int) -> bool:
        return num_sources == num_beams == 1

    def _run(self, function: Callable[..., int], ids: Sequence[int]) -> None:
        import llama_cpp

        array = (llama_cpp.llama_token * len(ids))(*ids)
        if status := function(self._context, llama_cpp.llama_batch_get_one(array, len(ids))):
            raise RuntimeError(f"llama.cpp gives status {status} for {len(ids)} tokens")


CONTENDERS: dict[str, Contender] = {
    "ours fp32": Ours("float32"),
    "ours bf16": Ours("bfloat16"),
    "ours int8": Ours("int8"),
    "transformers fp32": HuggingFace("float32"),
    "transformers bf16": HuggingFace("bfloat16"),
    "transformers bf16 compiled": HuggingFaceCompiled("bfloat16"),
    "CTranslate2 fp32": CTranslate2("float32"),
    "CTranslate2 int8": CTranslate2("int8"),
    "OpenVINO fp32": OpenVINO("float32"),
    "OpenVINO bf16": OpenVINO("bfloat16"),
    "OpenVINO int8": OpenVINO("int8"),
    "llama.cpp bf16": LlamaCpp("bfloat16"),
    "llama.cpp int8": LlamaCpp("int8"),
}
OURS = "ours"
ON_REQUEST = ("transformers bf16 compiled",)
