"""The LitServe API that both peers share: batches whatever waits, pads it, decodes to the longest, cuts each answer."""

import argparse
import os
from pathlib import Path
from typing import Any

import litserve
import torch
from transformers import AutoTokenizer

_BATCH_TIMEOUT_S = 0.02


class Summarizer(litserve.LitAPI):
    """One model behind `POST /predict {"text", "max_new_tokens"}`; `load` gives the model."""

    def __init__(self, folder: Path, threads: int, max_batch_size: int) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=_BATCH_TIMEOUT_S)
        self.folder = folder
        self.threads = threads

    def load(self) -> Any:
        """A model with `generate`."""
        raise NotImplementedError

    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's signature)
        torch.set_num_threads(self.threads)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder / "published")
        self.model = self.load()

    def decode_request(self, request: dict[str, Any]) -> tuple[str, int]:
        return "summarize: " + request["text"], request["max_new_tokens"]

    def predict(self, batch: list[tuple[str, int]]) -> list[list[int]]:
        texts, lengths = zip(*batch, strict=True)
        inputs = self.tokenizer(list(texts), padding=True, truncation=True, max_length=512, return_tensors="pt")
        # Forced to the longest of the batch, as real summaries end when they end; each is cut to its own length.
        out = self.model.generate(**inputs, max_new_tokens=max(lengths), min_new_tokens=max(lengths), num_beams=1)
        return [row[1 : length + 1].tolist() for row, length in zip(out, lengths, strict=True)]

    def encode_response(self, output: list[int]) -> dict[str, Any]:
        return {"summary": self.tokenizer.decode(output, skip_special_tokens=True), "output_tokens": len(output)}


def serve(api: type[Summarizer]) -> None:
    """Serve `api` on the loopback as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="the weights, as benchmarks.weights writes them")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--max-batch-size", type=int, default=16)
    args = parser.parse_args()
    server = litserve.LitServer(api(args.folder, args.threads, args.max_batch_size), accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=args.port, generate_client_file=False, log_level="warning")
