"""LitServe around `generate` of transformers in bfloat16."""

from typing import Any

import torch
from transformers import T5ForConditionalGeneration

from benchmarks.peers.summarizer import Summarizer, serve


class Transformers(Summarizer):
    """Eager, on the CPU."""

    def load(self) -> Any:
        return T5ForConditionalGeneration.from_pretrained(self.folder / "published", dtype=torch.bfloat16).eval()


if __name__ == "__main__":
    serve(Transformers)
