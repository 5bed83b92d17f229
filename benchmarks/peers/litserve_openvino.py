"""LitServe around `generate` of optimum-intel's OpenVINO model with 8-bit weights."""

from typing import Any

from benchmarks.contenders import OpenVINO
from benchmarks.peers.summarizer import Summarizer, serve
from benchmarks.weights import SHAPES, Weights


class OpenVINOInt8(Summarizer):
    """As `benchmarks.decoding` loads it, exported once beside the weights."""

    def load(self) -> Any:
        contender = OpenVINO("int8")
        contender.load(Weights(SHAPES[self.folder.name], self.folder), self.threads)
        return contender.model


if __name__ == "__main__":
    serve(OpenVINOInt8)
