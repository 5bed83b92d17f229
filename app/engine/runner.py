"""Token ids to tensors, through the model, to results: the only tensors in `app`.

Knows nothing of queues, threads or time. One caller at a time.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app.engine.request import EngineError, EngineRequest, EngineResult, Update
from model.devices import is_out_of_memory
from model.inference.backend import Backend
from model.inference.decoding.batch import DecodingBatch
from model.inference.decoding.grounding import Grounding
from model.inference.decoding.options import DecodingOptions
from model.inference.decoding.rows import Step
from model.inference.graphs import StepGraphs
from model.probabilities import energy, probabilities
from model.tasks import Head
from model.transfer import send

_CHECK_TOKENS = 8
_NOT_FINITE = "the model's numbers are not finite for this text; the request may be tried again"
_LENGTH_MULTIPLES = {"cuda": 64}  # of encoder batches, in tokens: few shapes, each fit for the device's kernels


class OutOfMemory(Exception):
    """What was asked of the model needs more memory than there is."""


@contextmanager
def _memory_checked() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(str(error)) from error
        raise


@dataclass(frozen=True)
class EncodedBatch:
    """An encoder batch: the row of each request, and its result without the summary.

    `not_finite` are the requests whose states or scores are no numbers, which have no result. `num_tokens` counts real
    tokens, `padded_tokens` all that were computed.
    """

    encoder_states: Tensor  # (B, S, D)
    encoder_mask: Tensor  # (B, S)
    rows: dict[int, int]
    results: dict[int, EngineResult]
    options: dict[int, DecodingOptions]
    sources: dict[int, tuple[int, ...]]  # of those with options
    not_finite: frozenset[int]
    groundings: dict[int, Grounding | None]
    num_tokens: int
    padded_tokens: int


class Runner:
    """Encodes batches of requests, and decodes together those that include a summary, whenever they joined."""

    def __init__(
        self, backend: Backend, heads: Sequence[Head] = (), *, use_graphs: bool | None = None, drafts: bool = True
    ) -> None:
        """`heads`: those of the model that a request may name.

        `use_graphs`: replay decode steps as CUDA graphs; None: where the backend computes on a GPU. `drafts` as for
        `DecodingBatch`.
        """
        self._backend = backend
        self._drafts = drafts
        self._heads = {head.name: head for head in heads}
        self._use_graphs = self.on_gpu if use_graphs is None else use_graphs
        self._batch = self._new_batch()
        self._partial: dict[int, EngineResult] = {}  # of what decodes: all but the summary
        self._num_decoded: dict[int, int] = {}
        self._num_sent: dict[int, int] = {}  # tokens that were in earlier updates, also before a `reset`

    @property
    def num_rows(self) -> int:
        """Decoder rows in flight."""
        return self._batch.num_rows

    @property
    def num_drafted(self) -> int:
        """Tokens that the last step checked beside the newest of each row."""
        return self._batch.num_drafted

    @property
    def num_accepted(self) -> int:
        """Of those, the ones that were right."""
        return self._batch.num_accepted

    def padded_length(self, length: int) -> int:
        """Tokens that an encoder batch computes for each of its sources when the longest has `length`."""
        multiple = _LENGTH_MULTIPLES.get(self._backend.device.type, 1)
        return -(-length // multiple) * multiple

    @_memory_checked()
    @torch.inference_mode()
    def encode(self, requests: Mapping[int, EngineRequest]) -> EncodedBatch:
        """Encode `requests` as one padded batch, equal sources once, and run the heads that each names.

        Leaves what decodes untouched, also when it raises.

        Raises:
            OutOfMemory: there is too little for this batch.
        """
        row_of = {ids: row for row, ids in enumerate(dict.fromkeys(one.input_ids for one in requests.values()))}
        input_ids, encoder_mask = self._pad(list(row_of))
        encoder_states = self._backend.encode(input_ids, encoder_mask)  # (B, S, D)
        rows = {key: row_of[one.input_ids] for key, one in requests.items()}
        wanted = [(rows[key], one.heads) for key, one in requests.items()]
        scores, energies = self._classify(encoder_states, encoder_mask, wanted)
        # Of each row; waits for the device, so that the caller measures the work and not its launches.
        is_finite = (encoder_states.isfinite().all(-1) | ~encoder_mask).all(-1).tolist()
        not_finite = frozenset(
            key
            for key, one in requests.items()
            if not (is_finite[rows[key]] and all((name, rows[key]) in scores for name in one.heads))
        )
        options = {
            key: one.options for key, one in requests.items() if one.options is not None and key not in not_finite
        }
        return EncodedBatch(
            encoder_states=encoder_states,
            encoder_mask=encoder_mask,
            rows=rows,
            results={
                key: EngineResult(
                    {name: scores[name, rows[key]] for name in one.heads},
                    {name: energies[name, rows[key]] for name in one.heads if (name, rows[key]) in energies},
                )
                for key, one in requests.items()
                if key not in not_finite
            },
            options=options,
            sources={key: requests[key].input_ids for key in options},
            not_finite=not_finite,
            groundings={key: one.grounding for key, one in requests.items()},
            num_tokens=sum(map(len, row_of)),
            padded_tokens=input_ids.numel(),
        )

    @_memory_checked()
    @torch.inference_mode()
    def join(self, encoded: EncodedBatch) -> list[Update]:
        """Let the requests of a summary join the rows in flight; the others end at once, without finite numbers in an
        error.

        When it raises, what decodes is lost: `reset` follows. `OutOfMemory` as `encode`.
        """
        if keys := list(encoded.options):
            rows = send(torch.tensor([encoded.rows[key] for key in keys]), self._backend.device)
            encoder_states, encoder_mask = encoded.encoder_states[rows], encoded.encoder_mask[rows]  # (C, S, D), (C, S)
            options, sources = list(encoded.options.values()), list(encoded.sources.values())  # in the order of keys
            groundings = [encoded.groundings[key] for key in keys]
            self._batch.add(keys, encoder_states, encoder_mask, options, sources, groundings)
            self._partial |= {key: encoded.results[key] for key in keys}
            for key in keys:
                self._num_decoded[key] = 0
                self._num_sent.setdefault(key, 0)
        failed = [Update(key, end=EngineError(_NOT_FINITE)) for key in sorted(encoded.not_finite)]
        ended = [Update(key, end=result) for key, result in encoded.results.items() if key not in encoded.options]
        return failed + ended

    @_memory_checked()
    def step(self) -> list[Update]:
        """One decode step over everything in flight. When it raises, what decodes is lost: `reset` follows.
        `OutOfMemory` as `encode`.
        """
        return [self._update_of(step) for step in self._batch.step()]

    def remove(self, keys: Collection[int]) -> None:
        """Free the rows of what is cancelled or expired; unknown keys are ignored."""
        self._batch.remove(keys)
        for key in keys:
            self._partial.pop(key, None)
            self._num_decoded.pop(key, None)
            self._num_sent.pop(key, None)

    def reset(self) -> None:
        """Forget everything in flight. What is encoded again goes on where its updates ended."""
        self._batch = self._new_batch()
        self._partial.clear()
        self._num_decoded.clear()

    def prepare(self, num_documents: int, source_length: int, target_length: int) -> None:
        """Allocate the cache for so many documents and record their decode steps, which takes seconds; on a GPU."""
        self._batch.prepare(num_documents, self.padded_length(source_length), target_length)

    def check(self) -> None:
        """Run a minimal request of each kind, apart from what decodes, so that no client's request pays for warming up
        or meets a fault first.

        Raises:
            EngineError: the encoder's states, a head's scores or those of decoding are not finite.
            Exception: whatever the model raises.
        """
        kinds = (
            DecodingOptions(max_new_tokens=2),
            DecodingOptions(max_new_tokens=2, num_beams=2),
            DecodingOptions(max_new_tokens=2, do_sample=True),
        )
        source = (self._backend.config.eos_id,) * _CHECK_TOKENS
        probe = Runner(self._backend, tuple(self._heads.values()), use_graphs=False)
        requests = [EngineRequest(source, 0.0, tuple(self._heads), options) for options in kinds]
        updates = probe.join(probe.encode(dict(enumerate(requests))))
        while probe.num_rows:
            updates += probe.step()
        if any(isinstance(update.end, EngineError) for update in updates):
            raise EngineError("the model's numbers are not finite on a minimal request; train or fetch it again")

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on a CUDA device."""
        return self._backend.device.type == "cuda"

    def _new_batch(self) -> DecodingBatch:
        return DecodingBatch(
            self._backend, StepGraphs(self._backend) if self._use_graphs else None, drafts=self._drafts
        )

    def _update_of(self, step: Step) -> Update:
        if step.result is None:
            before = self._num_decoded[step.key]
            self._num_decoded[step.key] += len(step.token_ids)
            new = step.token_ids[max(self._num_sent[step.key] - before, 0) :]
            self._num_sent[step.key] += len(new)
            return Update(step.key, new)
        del self._num_decoded[step.key]
        num_sent = self._num_sent.pop(step.key)
        result = replace(self._partial.pop(step.key), summary=step.result)
        if not step.result.is_finite:
            return Update(step.key, end=EngineError(_NOT_FINITE))
        return Update(step.key, step.result.token_ids[num_sent:], result)

    def _pad(self, sources: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        pad_id, longest = self._backend.config.pad_id, max(map(len, sources))
        longest = self.padded_length(longest)
        padded = torch.tensor([ids + (pad_id,) * (longest - len(ids)) for ids in sources])
        lengths = torch.tensor([len(ids) for ids in sources])
        encoder_mask = torch.arange(longest) < lengths[:, None]  # (B, S)
        return send(padded, self._backend.device), send(encoder_mask, self._backend.device)

    def _classify(
        self, encoder_states: Tensor, encoder_mask: Tensor, wanted: Sequence[tuple[int, tuple[str, ...]]]
    ) -> tuple[dict[tuple[str, int], tuple[float, ...]], dict[tuple[str, int], float]]:
        """Probabilities and energies by head and row of `encoder_states` (B, S, D), for what is `wanted` and finite."""
        heads_of: dict[int, frozenset[str]] = defaultdict(frozenset)
        for row, heads in wanted:
            heads_of[row] |= frozenset(heads)
        rows_of: dict[frozenset[str], list[int]] = defaultdict(list)
        for row, heads_of_row in sorted(heads_of.items()):
            rows_of[heads_of_row].append(row)
        scores: dict[tuple[str, int], tuple[float, ...]] = {}
        energies: dict[tuple[str, int], float] = {}
        for names, rows in rows_of.items():
            if not names:
                continue
            index = send(torch.tensor(rows), encoder_states.device)
            logits = self._backend.classify(encoder_states[index], encoder_mask[index], names)
            for name, values in logits.items():
                head = self._heads[name]
                found = probabilities(values, head.kind, head.temperature)
                is_finite = (values.isfinite() & found.isfinite()).all(-1).tolist()  # infinity's sigmoid is 1
                scores |= {
                    (name, row): tuple(one)
                    for row, one, is_sound in zip(rows, found.tolist(), is_finite, strict=True)
                    if is_sound
                }
                if head.min_energy is not None:
                    energies |= {(name, row): one for row, one in zip(rows, energy(values).tolist(), strict=True)}
        return scores, energies


def gpu_memory_bytes(device: torch.device, kind: str) -> int:
    """Memory of the GPU `device` that is `allocated`, `reserved` or in `total`."""
    if kind == "total":
        return torch.cuda.mem_get_info(device)[1]
    return torch.cuda.memory_allocated(device) if kind == "allocated" else torch.cuda.memory_reserved(device)
