"""What answers with a network: the few things that decoding and serving ask, whatever computes them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from model.choices import Precision
from model.config import ModelConfig
from model.inference.kv_cache import KVCache
from model.inference.spelling import Spelling


class Backend(ABC):
    """A network that is ready to answer; nothing of it changes any more.

    `TorchBackend` runs the modules that train, `OneDnnBackend` the same with packed matrices, `NativeBackend` the
    kernels of `model.kernels`.
    """

    config: ModelConfig
    kernels = "none"  # the build of `model.kernels` that computes
    rows_are_independent = False  # to the bit: what else a step computes changes nothing of a row
    spelling: Spelling

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    @abstractmethod
    def precision(self) -> Precision:
        """The numbers that the matrices are in."""

    @abstractmethod
    def encode(self, input_ids: Tensor, encoder_mask: Tensor) -> Tensor:
        """`input_ids` (B, S) int64, `encoder_mask` (B, S) bool, True at real tokens. Returns states (B, S, D)."""

    @abstractmethod
    def classify(self, encoder_states: Tensor, encoder_mask: Tensor, heads: Iterable[str]) -> dict[str, Tensor]:
        """Logits of each of `heads`: (B, S, D), (B, S) to (B, labels of the head)."""

    @abstractmethod
    def new_cache(self, num_beams: int) -> KVCache:
        """An empty cache for documents with `num_beams` rows each, in the numbers that `step` reads."""

    @abstractmethod
    def project_source(self, encoder_states: Tensor, encoder_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each decoder layer's cross-attention keys and values: (B, S, D) to two of (B, H, S, K)."""

    @abstractmethod
    def compute_step(self, token_ids: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """What `step` has the device do; what the host knows of the caches stays as it is."""

    def step(self, token_ids: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Logits of the next token of every row of `caches`, in order: (R,) to (R, V) float32.

        Writes the tokens' keys and values; every document is a token older afterwards. Where rows are independent,
        `KVCache.step_tokens` may propose further tokens behind a row's newest one: each is computed as if those before
        it were the row's, which `KVCache.keep` then says of the ones that are.
        """
        logits = self.compute_step(token_ids, caches)
        for cache in caches:
            cache.count_step()
        return logits
